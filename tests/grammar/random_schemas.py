"""Random schemas whose keywords meet: members by name, by pattern and others, in branches, variants and references."""

import random
from typing import Any

JSON = dict[str, Any]
NAMES = ("a", "b", "xa", "xb", "k")
PATTERNS = ("^x", "a$", "^[ab]$", "^k?", "^x|b", "^(x|y)a")
REFERENCES = ("#/$defs/A", "#/$defs/B")


def random_schema(seed: int) -> JSON:
    """A schema with its definitions, always the same for a seed."""
    draw = random.Random(seed)
    schema = _schema(draw, draw.choice((1, 2, 2, 3)))
    definitions = {
        "A": _schema(draw, 1),
        "B": draw.choice(
            (
                {"type": "null"},
                {"properties": {"a": {"type": "null"}}},
                {"type": "object", "properties": {"b": {"enum": [1]}}, "required": ["b"]},
                {"items": {"type": "null"}},
            )
        ),
    }
    return {**(schema if isinstance(schema, dict) else {"allOf": [schema]}), "$defs": definitions}


def _schema(draw: random.Random, depth: int) -> Any:
    if depth <= 0 or draw.random() < 0.15:
        return _scalar(draw)

    def often(share: float) -> bool:
        return draw.random() < share

    def inner() -> Any:
        return _schema(draw, depth - 1)

    kind = draw.random()
    result = _object(draw, often, inner) if kind < 0.6 else _array(draw, often, inner) if kind < 0.75 else {}
    if often(0.35):
        result[draw.choice(("allOf", "allOf", "anyOf", "oneOf"))] = [inner() for _ in range(draw.randint(1, 3))]
    if often(0.1):
        result["$ref"] = draw.choice(REFERENCES)
    if often(0.05):
        result["not"] = draw.choice(({"type": "string"}, {"type": "integer"}, {"const": 1}, {}))
    if often(0.05):
        result["enum"] = [1, "p", {"a": None}, [1], 0.7, None]
    return result


def _object(draw: random.Random, often: Any, inner: Any) -> JSON:
    result: JSON = {"type": "object"} if often(0.5) else {}
    if often(0.7):
        result["properties"] = {name: inner() for name in draw.sample(NAMES, draw.randint(0, 3))}
    if often(0.3):
        result["patternProperties"] = {name: inner() for name in draw.sample(PATTERNS, draw.choice((1, 1, 2)))}
    if often(0.35):
        result["additionalProperties"] = draw.choice((False, True, inner()))
    if often(0.15):
        result["unevaluatedProperties"] = draw.choice((False, False, inner()))
    if often(0.5):
        result["required"] = draw.sample(NAMES, draw.randint(0, 2))
    if often(0.12):
        pattern = {"pattern": draw.choice(PATTERNS)}
        names = ({"enum": ["a", "xa", "k"]}, pattern, {"maxLength": 2}, {"enum": ["a", "xb"], "pattern": "^x"})
        result["propertyNames"] = draw.choice(names)
    for keyword in ("minProperties", "maxProperties"):
        if often(0.1):
            result[keyword] = draw.randint(0, 2)
    return result


def _array(draw: random.Random, often: Any, inner: Any) -> JSON:
    result: JSON = {"type": "array"} if often(0.6) else {}
    if often(0.5):
        result["prefixItems"] = [inner() for _ in range(draw.randint(1, 2))]
    if often(0.6):
        result["items"] = inner()
    if often(0.2):
        result["unevaluatedItems"] = False
    if often(0.3):
        result["minItems"] = draw.randint(0, 2)
    if often(0.3):
        result["maxItems"] = draw.randint(0, 3)
    if often(0.1):
        result["uniqueItems"] = True
    return result


def _scalar(draw: random.Random) -> Any:
    low = draw.choice((0, -1, 0.5))
    return draw.choice(
        (
            *({"type": "null"}, {"type": "boolean"}, {"enum": [1, 2]}, {"enum": ["p", "q", None]}, {"const": "p"}),
            *(
                {"type": "integer", "minimum": draw.randint(-3, 3)},
                {"type": "integer", "multipleOf": 2},
                {"minimum": 2},
            ),
            *({"type": "number", "exclusiveMinimum": low, "maximum": draw.choice((1, 0.75, 2))}, {"maxLength": 2}),
            *({"type": "string", "maxLength": draw.randint(0, 3)}, {"pattern": draw.choice(("^p", "^[pq]+$"))}),
            *({"type": ["string", "null"]}, *({"$ref": one} for one in REFERENCES), True, {}, False),
        )
    )
