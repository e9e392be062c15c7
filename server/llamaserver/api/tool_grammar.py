"""What restricts an answer that may call tools."""

from typing import Any

from ..errors import InvalidRequest
from ..grammar.json_schema import json_value
from ..interfaces.backend import Vocab
from ..interfaces.grammar import Constraint
from ..toolformat.call_grammar import call_grammar
from .chat import Chat
from .chat_template import ChatTemplate
from .constraint import schema_value
from .fields import Fields
from .tool_use import ToolUse

Schema = dict[str, Any]
_LONGEST = 200_000  # characters of a grammar. With larger schemas, the arguments can be any object


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
    begun = bool(form.call[0].strip()) and chat.begun.rstrip().endswith(form.call[0].strip())

    weakened: set[str] = set()

    def value(schema: Schema) -> str:
        found = json_value(schema, field="tools")
        weakened.update(found.weakened)
        return found.lark

    def text(parameters: dict[str, Schema]) -> str:
        return call_grammar(
            form, parameters, vocab, value, required=use.required, parallel=parallel, content=content, begun=begun
        )

    for name in use.strict:
        json_value(use.parameters[name], field="tools", strict=True)
    content = ""
    if fields.get("json_schema")[1] is not None:
        answer = schema_value(fields)
        content = answer.lark
        weakened.update(answer.weakened)
    found = text({name: _self_contained(schema) for name, schema in use.parameters.items()})
    if len(found) > _LONGEST:
        found = text({name: {"type": "object", "additionalProperties": True} for name in use.tools})
    return Constraint(found, field="tools", weakened=tuple(sorted(weakened)))


def _self_contained(parameters: Schema) -> Schema:
    """The schema of parameters, each of which has the definitions that it may refer to."""
    definitions = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    properties = parameters.get("properties")
    if not definitions or not isinstance(properties, dict):
        return parameters
    return parameters | {
        "properties": {name: one | definitions if isinstance(one, dict) else one for name, one in properties.items()}
    }
