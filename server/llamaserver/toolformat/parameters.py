"""What the schema of a parameter says, as far as formats that are not JSON need it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]
_DEEPEST = 8  # schemas inside each other
_VARIANTS = ("anyOf", "oneOf")
_SOME = ("minLength", "minItems", "minProperties", "minContains")  # 0 restricts nothing
_RESTRICTING = frozenset(
    (
        *("type", "enum", "const", "not", "allOf", "anyOf", "oneOf", "if", "$ref", "$dynamicRef", "$recursiveRef"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "format"),
        *("items", "prefixItems", "additionalItems", "unevaluatedItems", "minItems", "maxItems", "uniqueItems"),
        *("contains", "minContains", "maxContains"),
        *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames"),
        *("required", "minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies"),
    )
)
_FORMATS = frozenset(  # that JSON Schema defines. Others are notes
    (
        *("date", "time", "date-time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6"),
        *("uri", "uri-reference", "iri", "iri-reference", "uri-template", "uuid", "regex"),
        *("json-pointer", "relative-json-pointer"),
    )
)


@dataclass(frozen=True, slots=True)
class Text:
    """A parameter that is a string, or null where it is `nullable`. Without `choices` it can be any string.

    `left_out` names the keywords that restrict it in other ways.
    """

    choices: tuple[str, ...] = ()
    nullable: bool = False
    left_out: frozenset[str] = frozenset()


def text_of(schema: Any) -> Text | None:
    """How a parameter is text. None for one that can have other values."""
    if not isinstance(schema, dict):
        return None
    for keyword in _VARIANTS:
        variants = schema.get(keyword)
        if isinstance(variants, list) and len(variants) == 2 and restricting(schema) == {keyword}:
            others = [one for one in variants if isinstance(one, dict) and one.get("type") != "null"]
            found = text_of(others[0]) if len(others) == 1 and "type" in others[0] else None
            return found and Text(found.choices, nullable=True, left_out=found.left_out)
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    listed = isinstance(allowed, list) and bool(allowed)
    if kinds is None and listed and all(isinstance(one, str) for one in allowed or ()):
        kinds = ["string"]
    if not isinstance(kinds, list) or "string" not in kinds or any(one not in ("string", "null") for one in kinds):
        return None
    nullable = "null" in kinds or schema.get("nullable") is True
    choices = tuple(one for one in allowed or () if isinstance(one, str)) if listed else ()
    left = restricting(schema) - {"type"} - ({"enum" if "const" not in schema else "const"} if choices else set())
    return Text(choices, nullable and (not listed or None in (allowed or ())), frozenset(left))


def is_never_text(schema: Any, definitions: Mapping[str, Any], seen: tuple[set[str], int] | None = None) -> bool:
    """Whether it is clear that a parameter is no string, so that it is written as JSON."""
    references, depth = seen or (set(), 0)
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return False
    inside = (references, depth + 1)
    kinds = schema.get("type")
    if isinstance(kinds, str | list):
        return "string" not in ([kinds] if isinstance(kinds, str) else kinds)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.count("/") == 2:
        if reference in references:  # each is looked at once, and all must be no strings
            return True
        references.add(reference)
        _, place, name = reference.split("/")
        found = definitions.get(place)
        return isinstance(found, dict) and is_never_text(found.get(name), definitions, inside)
    variants = schema.get("anyOf", schema.get("oneOf"))
    return isinstance(variants, list) and all(is_never_text(one, definitions, inside) for one in variants)


def restricting(schema: Any) -> set[str]:
    """The keywords of a schema that restrict its values."""
    if not isinstance(schema, dict):
        return set() if schema is not False else {"not"}
    return {keyword for keyword in schema.keys() & _RESTRICTING if _restricts(keyword, schema[keyword])}


def _restricts(keyword: str, value: Any) -> bool:
    if value is None or value in ({}, []):
        return False
    if keyword == "uniqueItems":
        return value is True
    if keyword == "format":
        return isinstance(value, str) and value in _FORMATS
    return value is not True and not (keyword in _SOME and value == 0)
