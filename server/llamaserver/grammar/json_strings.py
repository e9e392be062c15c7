"""Strings of JSON schemas: their lengths, patterns and formats as llguidance enforces them. Pure."""

from typing import Any

from . import json_formats
from .json_pattern import translated

_MOST = 2**31 - 1  # of a count: no answer is longer

Flat = dict[str, Any]


def counted(flat: Flat, lowest: str, highest: str) -> tuple[int, int | None]:
    """The lower and the upper bound of a count."""
    return flat.get(lowest, 0), min(flat[highest], _MOST) if highest in flat else None


def string_schema(flat: Flat, weakened: set[str]) -> bool | Flat:
    """The schema of the strings of a conjunction, False if there are none."""
    low, high = counted(flat, "minLength", "maxLength")
    if high is not None and high < low:
        return False
    result: Flat = {"type": "string"}
    result |= ({"minLength": low} if low else {}) | ({"maxLength": high} if high is not None else {})
    more: list[Flat] = []
    for pattern in flat.get("pattern", []):
        found = translated(pattern)
        if not found.exact:
            weakened.add("pattern")
        more += [{"type": "string", "pattern": expression} for expression in found.expressions]
    for name in flat.get("format", []):
        if name in json_formats.KNOWN:
            more.append({"type": "string", "format": name})
        elif name in json_formats.EXPRESSIONS:
            more.append({"type": "string", "pattern": json_formats.EXPRESSIONS[name]})
        elif name in json_formats.NOT_ENFORCED:
            weakened.add("format")
    return {**result, "allOf": more} if more else result
