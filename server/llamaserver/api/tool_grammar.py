"""What restricts an answer that may call tools."""

import json
from typing import Any

from ..errors import InvalidRequest
from ..interfaces.backend import Vocab
from ..interfaces.grammar import Constraint
from ..toolformat.call_grammar import call_grammar
from .chat import Chat
from .chat_template import ChatTemplate
from .fields import Fields
from .tool_use import ToolUse

Schema = dict[str, Any]
_LONGEST = 200_000  # characters of a grammar. With larger schemas, the arguments can be any object
_AS_TEMPLATES_WRITE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def tool_constraint(
    use: ToolUse, fields: Fields, template: ChatTemplate, chat: Chat, vocab: Vocab
) -> Constraint | None:
    """The constraint of an answer, None if it may call nothing.

    A model that must call something writes nothing else. Else it writes what it likes, or what `json_schema` asks
    for, until a call begins. Raises InvalidRequest.
    """
    if not use.tools:
        return None
    if fields.string("grammar"):
        raise InvalidRequest("Cannot use custom grammar constraints with tools.", field="grammar")
    can, form = template.capabilities, template.form
    parallel = can.parallel_tool_calls if use.parallel is None else use.parallel
    schema = fields.get("json_schema")[1]
    begun = bool(form.call[0].strip()) and chat.begun.rstrip().endswith(form.call[0].strip())

    def text(parameters: dict[str, Schema]) -> str:
        content = _value(schema) if schema is not None else ""
        return call_grammar(
            form, parameters, vocab, _value, required=use.required, parallel=parallel, content=content, begun=begun
        )

    found = text(use.parameters)
    if len(found) > _LONGEST:
        found = text({name: {"type": "object", "additionalProperties": True} for name in use.tools})
    return Constraint(found, field="tools")


def _value(schema: Schema) -> str:
    """The Lark expression of a JSON value."""
    if "properties" in schema:
        schema = {"additionalProperties": False} | schema
    return "%json " + json.dumps(schema | {"x-guidance": _AS_TEMPLATES_WRITE}, ensure_ascii=False)
