"""JSON schemas as parts of a Lark text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

_LAYOUT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": True}


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A JSON value that fits a schema.

    `lark` is an expression that may stand in any rule of a Lark text, such as `start: "<call>" EXPRESSION`. `weakened`
    names the keywords of the schema that the expression does not enforce.
    """

    lark: str
    weakened: tuple[str, ...] = ()


def json_value(schema: object) -> JsonValue:
    """The values that fit a parsed schema. Raises InvalidRequest for what is no schema."""
    inner = dict(schema) if isinstance(schema, Mapping) else {"allOf": [schema]}
    return JsonValue("%json " + json.dumps({**inner, "x-guidance": _LAYOUT}))
