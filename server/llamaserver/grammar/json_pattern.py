"""Converts regular expressions of JSON schemas to GBNF, for text inside a JSON string.

The supported subset has no back references and no look-around: sets, groups, alternatives, counts. A character
that JSON must escape appears escaped.
"""

from ..interfaces.grammar import Ranges, complement
from .gbnf import MAX_NESTING
from .json_text import quote
from .rules import GrammarError

_LAST = 0x10FFFF
_CLASSES: dict[str, Ranges] = {
    "d": [(0x30, 0x39)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "s": [(0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)],
}
_CONTROLS = {"t": 0x09, "n": 0x0A, "r": 0x0D, "f": 0x0C, "v": 0x0B}
_ESCAPED = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}  # in a JSON string
_HEX = {"x": 2, "u": 4}


def _member(code_point: int) -> str:
    return f"\\U{code_point:08x}"


def _string_set(ranges: Ranges) -> str:
    """GBNF for the characters of a set, in the form of a JSON string."""
    plain: Ranges = []
    for low, high in ranges:
        for first, last in ((0x20, 0x21), (0x23, 0x5B), (0x5D, _LAST)):
            if max(low, first) <= min(high, last):
                plain.append((max(low, first), min(high, last)))
    choices = []
    if plain:
        choices.append("[" + "".join(f"{_member(low)}-{_member(high)}" for low, high in plain) + "]")
    for code_point, letter in _ESCAPED.items():
        if any(low <= code_point <= high for low, high in ranges):
            choices.append(quote("\\" + letter))
    if not choices:
        raise GrammarError("the pattern has a set without members that JSON text can hold")
    return choices[0] if len(choices) == 1 else "(" + " | ".join(choices) + ")"


class _Pattern:
    """Recursive descent. The depth is bounded."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> str:
        result = self._alternatives()
        if self._at < len(self._text):
            raise GrammarError("the pattern has an unmatched parenthesis")
        return result

    def _look(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        character = self._look()
        if not character:
            raise GrammarError("the pattern ends too early")
        self._at += 1
        return character

    def _alternatives(self) -> str:
        choices = [self._sequence()]
        while self._look() == "|":
            self._at += 1
            choices.append(self._sequence())
        return " | ".join(choices)

    def _sequence(self) -> str:
        parts = []
        while self._look() not in ("", "|", ")"):
            parts.append(self._atom() + self._count())
        return " ".join(parts) or '""'

    def _atom(self) -> str:
        character = self._take()
        if character == "(":
            return self._group()
        if character == "[":
            return _string_set(self._set())
        if character == ".":
            return _string_set(complement([(0x0A, 0x0A), (0x0D, 0x0D)]))
        if character == "\\":
            return _string_set(self._escape())
        if character in "^$*+?{":
            raise GrammarError(f"the pattern has {character!r} where it means nothing here")
        return _string_set([(ord(character), ord(character))])

    def _group(self) -> str:
        self._depth += 1
        if self._depth > MAX_NESTING // 4:
            raise GrammarError("the pattern is nested too deeply")
        if self._look() == "?":
            if not self._text.startswith("?:", self._at):
                raise GrammarError("look-around in patterns is not supported")
            self._at += 2
        inner = self._alternatives()
        if self._take() != ")":
            raise GrammarError("the pattern has an unmatched parenthesis")
        self._depth -= 1
        return f"({inner})"

    def _count(self) -> str:
        character = self._look()
        count = ""
        if character and character in "*+?":
            self._at += 1
            count = character
        elif character == "{":
            end = self._text.find("}", self._at)
            count = self._text[self._at : end + 1].replace("{,", "{0,")
            if end < 0 or not count[1:-1].replace(",", "", 1).isdecimal():
                raise GrammarError("the pattern has a malformed count")
            self._at = end + 1
        if count and self._look() == "?":
            self._at += 1  # a lazy and a greedy quantifier match the same words
        return count

    def _escape(self) -> Ranges:
        character = self._take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character.lower() in _CLASSES:
            return complement(_CLASSES[character.lower()])
        if character in _CONTROLS:
            return [(_CONTROLS[character], _CONTROLS[character])]
        if character in _HEX:
            digits = "".join(self._take() for _ in range(_HEX[character]))
            try:
                return [(int(digits, 16), int(digits, 16))]
            except ValueError:
                raise GrammarError("the pattern has a malformed escape") from None
        if character.isalnum():
            raise GrammarError(f"\\{character} in patterns is not supported")
        return [(ord(character), ord(character))]

    def _set(self) -> Ranges:
        negated = self._look() == "^"
        if negated:
            self._at += 1
        ranges: Ranges = []
        while (character := self._take()) != "]":
            low = self._escape() if character == "\\" else [(ord(character), ord(character))]
            if len(low) == 1 and low[0][0] == low[0][1] and self._is_range():
                self._at += 1
                last = self._take()
                high = self._escape() if last == "\\" else [(ord(last), ord(last))]
                low = [(low[0][0], high[0][1])]
                if low[0][0] > low[0][1]:
                    raise GrammarError("the pattern has a range in the wrong order")
            ranges.extend(low)
        return complement(ranges) if negated else ranges

    def _is_range(self) -> bool:
        return self._look() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", "")


def pattern_to_gbnf(pattern: str) -> str:
    """GBNF for the words that a pattern matches. Any text may follow an end that is not anchored.

    Raises GrammarError for syntax outside the subset.
    """
    start = pattern.startswith("^")
    before_end = pattern[:-1]
    backslashes = len(before_end) - len(before_end.rstrip("\\"))
    end = pattern.endswith("$") and backslashes % 2 == 0
    body = pattern.removeprefix("^")
    if end:
        body = body[:-1]
    if start != end and "|" in body:
        raise GrammarError("a pattern with alternatives must be anchored at both ends or at none")
    anything = _string_set([(0x20, _LAST)]) + "*"
    parts = ["" if start else anything, f"({_Pattern(body).whole()})", "" if end else anything]
    return " ".join(part for part in parts if part)
