"""A compiled grammar: what grammar/ makes of GBNF text or a JSON schema, and a sampler follows. Pure."""

from array import array
from bisect import bisect_right
from dataclasses import dataclass

CHARS, RULE, TOKEN, NOT_TOKEN = range(4)  # kinds of items
END = -1  # in place of a position: nothing follows
_LAST_CODE_POINT = 0x10FFFF

Ranges = list[tuple[int, int]]  # first and last code point of each


class Chars:
    """A set of code points as sorted, disjoint ranges."""

    __slots__ = ("_ends", "_starts", "single")

    def __init__(self, ranges: Ranges, negated: bool) -> None:
        merged: Ranges = []
        for low, high in sorted(ranges):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            elif low <= high:
                merged.append((low, high))
        if negated:
            merged = complement(merged)
        self._starts = [low for low, _ in merged]
        self._ends = [high for _, high in merged]
        one = len(merged) == 1 and merged[0][0] == merged[0][1]
        self.single = merged[0][0] if one else -1  # the only member, -1 when there are others

    def __contains__(self, code_point: int) -> bool:
        at = bisect_right(self._starts, code_point) - 1
        return at >= 0 and code_point <= self._ends[at]

    def meets(self, low: int, high: int) -> bool:
        """Whether any member lies in low..high."""
        at = bisect_right(self._starts, high) - 1
        return at >= 0 and self._ends[at] >= low


def complement(ranges: Ranges) -> Ranges:
    """All code points outside the ranges."""
    result: Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if start < low:
            result.append((start, low - 1))
        start = max(start, high + 1)
    return [*result, (start, _LAST_CODE_POINT)] if start <= _LAST_CODE_POINT else result


@dataclass(frozen=True, slots=True)
class Grammar:
    """Compiled rules: for each position the kind and value of its item, and the position that follows.

    `text` is the GBNF that they were compiled from. The value of an item is an index into `chars` or `rules`, or a
    token id. `rules` holds for each rule the first positions of its alternatives, END for an empty one.
    """

    text: str
    kinds: "array[int]"
    values: "array[int]"
    nexts: "array[int]"
    rules: list[tuple[int, ...]]
    chars: list[Chars]
    root: int


@dataclass(frozen=True, slots=True)
class Constraint:
    """A language that restricts an answer, as a Lark grammar that llguidance reads.

    The rule `start` is the whole answer. The text may use all that llguidance documents in docs/syntax.md: `%json
    {...}` for a JSON value, `<|name|>` and `<[id]>` for whole tokens, `[lazy]` and `[suffix=...]` for text up to a
    trigger. Only its line `%llguidance` is not for the text. Text matches by bytes, never by a control token.
    `field` is the field of the request that errors name.
    """

    lark: str
    field: str = "grammar"
