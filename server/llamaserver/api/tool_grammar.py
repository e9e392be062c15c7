"""What restricts an answer that may call tools."""

from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import Any

from ..errors import InvalidRequest
from ..grammar.json_schema import JsonValue, json_value
from ..interfaces.backend import Vocab
from ..interfaces.declare import size
from ..interfaces.grammar import Constraint
from ..toolformat.call_grammar import call_grammar
from .chat import Chat
from .chat_template import ChatTemplate
from .constraint import schema_value
from .fields import Fields
from .lanes import cancelled
from .tool_use import ToolUse

Schema = dict[str, Any]
_ANY: Schema = {"type": "object", "additionalProperties": True}
_LARGEST = 60_000  # characters of a schema that is enforced
_MOST_IN_ALL = 250_000  # characters of all schemas
_MOST_LARK = 600_000  # characters that all schemas become
_MOST_RULES = 1_500  # of a grammar
_NONE: Mapping[int, str] = {}


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

    own = {id(use.parameters[name]): text for name, text in use.arguments.items() if name in use.tools}
    schemas = _Schemas(own)

    def text(parameters: dict[str, Schema]) -> str:
        return call_grammar(
            form,
            parameters,
            vocab,
            schemas.value,
            required=use.required,
            parallel=parallel,
            content=content,
            begun=begun,
        )

    _Schemas().check_strict([use.parameters[name] for name in use.strict])
    content = ""
    if fields.get("json_schema")[1] is not None:
        answer = schema_value(fields)
        content = answer.lark
        schemas.weakened.update(answer.weakened)
    found = text(_bounded(use.parameters))
    if found.count("\n") > _MOST_RULES:
        found = text(dict.fromkeys(use.tools, _ANY))
    if not all(text and text in found for text in own.values()):
        schemas.weakened.add("format")
    return Constraint(found, field="tools", weakened=tuple(sorted(schemas.weakened)))


class _Schemas:
    """Turns the schemas of one request into expressions of Lark, up to a bound in all. Then any object is allowed."""

    def __init__(self, own: Mapping[int, str] = _NONE) -> None:
        """Prepare one grammar. `own` has the expressions of schemas that have one, by the ids of these objects."""
        self.weakened: set[str] = set()
        self._own = own
        self._room = _MOST_LARK

    def value(self, schema: Schema) -> str:
        """The expression of one schema. Raises InvalidRequest."""
        if text := self._own.get(id(schema)):
            return text
        found = self._lowered(schema if self._room > 0 else _ANY)
        self.weakened.update(found.weakened)
        return found.lark

    def check_strict(self, schemas: list[Schema]) -> None:
        """Raise InvalidRequest unless all schemas can be enforced as they are."""
        for schema in schemas:
            self._lowered(schema, strict=True)
            if self._room < 0:
                raise InvalidRequest("Field 'tools': the schemas are too large to be enforced", field="tools")

    def _lowered(self, schema: Schema, *, strict: bool = False) -> JsonValue:
        if cancelled():
            raise CancelledError
        found = json_value(schema, field="tools", strict=strict, cancelled=cancelled)
        self._room -= len(found.lark)
        return found


def _bounded(parameters: dict[str, Schema]) -> dict[str, Schema]:
    """The schemas of parameters. Those that are too large to be enforced allow any object."""
    kept = {name: schema if _cost(schema) <= _LARGEST else _ANY for name, schema in parameters.items()}
    return kept if sum(map(_cost, kept.values())) <= _MOST_IN_ALL else dict.fromkeys(parameters, _ANY)


def _cost(schema: Schema) -> int:
    """Characters of a schema. Where each argument has a grammar of its own, each has the definitions too."""
    definitions = size([schema.get("$defs"), schema.get("definitions")], _LARGEST)
    properties = schema.get("properties")
    return size(schema, _LARGEST) + definitions * (len(properties) if isinstance(properties, dict) else 0)
