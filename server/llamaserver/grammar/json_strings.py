"""Strings of JSON schemas: their lengths, patterns and formats as llguidance enforces them."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import llguidance

from . import json_formats
from .json_pattern import translated

_MOST = 2**31 - 1  # of a count: no answer is longer
_MOST_TOGETHER = 8  # expressions of one string. With 20 of them, llguidance can take minutes
_MOST_CHECKS = 200  # of strings with several expressions or lengths, for one schema. Each takes a millisecond, or ten
_UNDECIDED = "Unable to determine"  # what an error of llguidance begins with
_BYTES = llguidance.LLTokenizer("byte")

Flat = dict[str, Any]


def counted(flat: Flat, lowest: str, highest: str) -> tuple[int, int | None]:
    """The lower and the upper bound of a count."""
    return flat.get(lowest, 0), min(flat[highest], _MOST) if highest in flat else None


class Strings:
    """Makes the schemas of strings of one schema. `weakened` collects keywords that are left out."""

    def __init__(self, weakened: set[str]) -> None:
        self._weakened = weakened
        self._left = _MOST_CHECKS

    def schema(self, flat: Flat) -> bool | Flat:
        """The schema of the strings of a conjunction, False if there are none."""
        low, high = counted(flat, "minLength", "maxLength")
        if high is not None and high < low:
            return False
        result: Flat = {"type": "string"}
        result |= ({"minLength": low} if low else {}) | ({"maxLength": high} if high is not None else {})
        kept: list[Flat] = []
        for keyword, one in self._expressions(flat):
            if self._combine(result, [*kept, one]):
                kept.append(one)
            else:
                self._weakened.add(keyword)
        return {**result, "allOf": kept} if kept else result

    def _expressions(self, flat: Flat) -> Iterator[tuple[str, Flat]]:
        """What a string must match, with the keyword that says so."""
        for pattern in flat.get("pattern", []):
            found = translated(pattern)
            if not found.exact:
                self._weakened.add("pattern")
            for expression in found.expressions:
                yield "pattern", {"type": "string", "pattern": expression}
        for name in flat.get("format", []):
            if name in json_formats.KNOWN:
                yield "format", {"type": "string", "format": name}
            elif name in json_formats.EXPRESSIONS:
                yield "format", {"type": "string", "pattern": json_formats.EXPRESSIONS[name]}
            elif name in json_formats.NOT_ENFORCED:
                self._weakened.add("format")

    def _combine(self, lengths: Flat, expressions: list[Flat]) -> bool:
        """Whether llguidance can enforce the expressions and the lengths together."""
        if len(expressions) == 1 and len(lengths) == 1:  # there is no length
            return True
        self._left -= 1
        if self._left < 0 or len(expressions) > _MOST_TOGETHER:
            return False
        return _is_decided(json.dumps({**lengths, "allOf": expressions}))


@lru_cache(maxsize=512)
def _is_decided(schema: str) -> bool:
    """Whether llguidance can tell if any string fits. It compiles no schema of which it cannot tell that."""
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
    return not llguidance.LLMatcher.validate_grammar(grammar, _BYTES).startswith(_UNDECIDED)
