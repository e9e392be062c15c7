"""What restricts an answer that may call tools."""

from collections.abc import Container, Iterable, Mapping
from concurrent.futures import CancelledError
from typing import Any

from ..errors import InvalidRequest
from ..grammar.json_schema import json_value
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
_WHOLE = "properties"  # the keyword that stands for a schema that is not enforced at all
_LARGEST = 60_000  # characters of a schema that is enforced
_MOST_IN_ALL = 250_000  # characters of all schemas
_MOST_LARK = 600_000  # characters that all schemas become
_MOST_RULES = 1_500  # of a grammar


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

    def grammar(parameters: dict[str, Schema], schemas: "_Schemas", content: str = "") -> str:
        """The text of the grammar."""
        return call_grammar(
            form,
            parameters,
            vocab,
            schemas.value,
            required=use.required,
            parallel=parallel,
            content=content,
            begun=begun,
            weakened=schemas.weakened,
        )

    strict = {name: use.parameters[name] for name in use.strict}
    schemas, content = _Schemas(own), ""
    if fields.get("json_schema")[1] is not None:
        answer = schema_value(fields)
        content = answer.lark
        schemas.weakened.update(answer.weakened)
    parameters = _bounded(use.parameters, schemas.weakened, strict)
    if strict:
        exact = _Schemas(own, strict=True)
        grammar(strict, exact)
        exact.check()
    found = grammar(parameters, schemas, content)
    if found.count("\n") > _MOST_RULES:
        schemas = _Schemas(own, weakened={*schemas.weakened, _WHOLE})
        found = grammar(
            {name: schema if name in strict else _ANY for name, schema in parameters.items()}, schemas, content
        )
        if strict and found.count("\n") > _MOST_RULES:
            raise _too_large()
    if not all(text and text in found for text in own.values()):
        schemas.weakened.add("format")
    return Constraint(found, field="tools", weakened=tuple(sorted(schemas.weakened)))


class _Schemas:
    """Turns the schemas of one request into expressions of Lark, up to a bound in all. Then any object is allowed."""

    def __init__(self, own: Mapping[int, str], weakened: Iterable[str] = (), *, strict: bool = False) -> None:
        """Prepare one grammar. `own` has the expressions of schemas that have one, by the ids of these objects."""
        self.weakened = set(weakened)
        self._own = own
        self._strict = strict
        self._room = _MOST_LARK

    def value(self, schema: Schema) -> str:
        """The expression of one schema. Raises InvalidRequest."""
        if text := self._own.get(id(schema)):
            return text
        if cancelled():
            raise CancelledError
        if self._room <= 0:
            if self._strict:
                raise _too_large()
            self.weakened.add(_WHOLE)
            schema = _ANY
        found = json_value(schema, field="tools", strict=self._strict)
        self._room -= len(found.lark)
        self.weakened.update(found.weakened)
        return found.lark

    def check(self) -> None:
        """Raise InvalidRequest unless all schemas are enforced as they are."""
        if self.weakened:
            keywords = ", ".join(f"'{keyword}'" for keyword in sorted(self.weakened))
            told = f"the schema's {keywords} cannot be enforced in the calls of this model, and strict is true"
            raise InvalidRequest(f"Field 'tools': {told}", field="tools")
        if self._room < 0:
            raise _too_large()


def _too_large() -> InvalidRequest:
    return InvalidRequest("Field 'tools': the schemas are too large to be enforced, and strict is true", field="tools")


def _bounded(parameters: dict[str, Schema], weakened: set[str], strict: Container[str]) -> dict[str, Schema]:
    """The schemas of parameters, those that are strict first. Those that are too large allow any object."""
    costs = {name: _cost(schema) for name, schema in parameters.items()}
    if sum(costs.values()) > _MOST_IN_ALL:  # then only those that are strict are enforced
        costs = {name: cost if name in strict else _LARGEST + 1 for name, cost in costs.items()}
    large = {name for name, cost in costs.items() if cost > _LARGEST}
    if any(name in strict for name in large) or sum(costs[name] for name in costs.keys() - large) > _MOST_IN_ALL:
        raise _too_large()
    if large:
        weakened.add(_WHOLE)
    first = [*(name for name in parameters if name in strict), *(name for name in parameters if name not in strict)]
    return {name: _ANY if name in large else parameters[name] for name in first}


def _cost(schema: Schema) -> int:
    """Characters of a schema. Where each argument has a grammar of its own, each has the definitions too."""
    definitions = size([schema.get("$defs"), schema.get("definitions")], _LARGEST)
    properties = schema.get("properties")
    return size(schema, _LARGEST) + definitions * (len(properties) if isinstance(properties, dict) else 0)
