"""What the JSON schemas of parameters tell about values that are not written as JSON."""

from collections.abc import Mapping
from typing import Any

Schemas = Mapping[str, Any]  # name of a function to the schema of its parameters
_KINDS = (  # a boolean is an int, too
    ("boolean", bool),
    ("integer", int),
    ("number", float),
    ("string", str),
    ("array", list),
    ("object", dict),
)
_DEEPEST = 8  # alternatives in alternatives


def kinds(schema: Any, depth: int = 0) -> frozenset[str]:
    """The JSON types of the values that a schema allows. None, if it does not tell."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return frozenset()
    found = schema.get("type")
    if isinstance(found, str):
        return frozenset({found})
    if isinstance(found, list):
        return frozenset(kind for kind in found if isinstance(kind, str))
    for key in ("anyOf", "oneOf"):
        ways = schema.get(key)
        if isinstance(ways, list) and ways:
            each = [kinds(way, depth + 1) for way in ways]
            return frozenset().union(*each) if all(each) else frozenset()
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return frozenset(map(kind_of, values)) if isinstance(values, list) else frozenset()


def fits(value: object, allowed: frozenset[str]) -> bool:
    """Whether a value has one of these types."""
    return kind_of(value) in allowed or ("number" in allowed and kind_of(value) == "integer")


def kind_of(value: object) -> str:
    """The JSON type of a value."""
    return next((name for name, kind in _KINDS if isinstance(value, kind)), "null")


def member(schema: Any, key: str) -> Any:
    """The schema of a member of an object. None, if it is not known."""
    return _inner(schema, lambda one: _part(one.get("properties"), key))


def item(schema: Any) -> Any:
    """The schema of the items of an array. None, if it is not known."""
    return _inner(schema, lambda one: one.get("items"))


def _inner(schema: Any, part: Any) -> Any:
    """A part of a schema, or of the first of its alternatives that has it."""
    if not isinstance(schema, dict):
        return None
    ways = [schema, *(way for key in ("anyOf", "oneOf") for way in _list(schema.get(key)) if isinstance(way, dict))]
    return next((found for way in ways if (found := part(way)) is not None), None)


def _part(properties: Any, key: str) -> Any:
    return properties.get(key) if isinstance(properties, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
