"""Regular expressions of JSON schemas (ECMA 262, and what Python and .NET write) as llguidance reads them (Rust's).

What is not a regular language is left out: look-around, word boundaries, back references, anchors in the middle. The
expression then matches more texts than the pattern. Pure.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache

import llguidance

from .rules import GrammarError

_LAST = 0x10FFFF
_MOST_CHARACTERS = 4_000  # of a pattern
_DEEPEST = 100  # groups inside each other
_LONGEST_TEXT = 64
_MOST_TIMES = 10_000
_LIMITS = llguidance.LLParserLimits(initial_lexer_fuel=1_000_000, max_lexer_states=20_000, verbose_errors=False)
_SPACES = r"\t\n\x{b}\f\r\p{Zs}\x{feff}\x{2028}\x{2029}"
_CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": _SPACES}
_CONTROLS = {"t": 0x09, "n": 0x0A, "r": 0x0D, "f": 0x0C, "v": 0x0B, "0": 0}
_ANYTHING = "(?s:.*)"
NO_LINE_END = r"[^\n\r\x{2028}\x{2029}]"
_LOOK = ("?=", "?!", "?<=", "?<!")


@dataclass(frozen=True, slots=True)
class Pattern:
    """Expressions that a text must all match, and whether they say what the pattern says."""

    expressions: tuple[str, ...]
    exact: bool


@dataclass(slots=True)
class Node:
    """A part of a pattern: `kind` is text, sequence, choice, repeat, begin or end."""

    kind: str
    text: str = ""
    parts: "list[Node]" = field(default_factory=list)


@lru_cache(512)
def translated(pattern: str) -> Pattern:
    """The expressions of a pattern. None for what is too long or no regular expression here."""
    parser = _Parser(pattern)
    try:
        tree = parser.whole() if len(pattern) <= _MOST_CHARACTERS else None
    except GrammarError:
        tree = None
    if tree is None:
        return Pattern((), exact=False)
    expressions = [parser.written(tree, first=True, last=True), *parser.ahead]
    kept = tuple(one for one in expressions if one and _is_readable(one))
    return Pattern(kept, parser.exact and len(kept) == len([one for one in expressions if one]))


@lru_cache(1024)
def matches(expression: str, text: str) -> bool:
    """Whether a text matches an expression that llguidance reads."""
    schema = {"allOf": [{"enum": [text]}, {"type": "string", "pattern": expression}]}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return not llguidance.LLMatcher.validate_grammar(grammar, limits=_LIMITS)


def matches_others(expression: str, texts: list[str]) -> bool:
    """Whether an expression matches any text besides these. Long texts are not looked at."""
    if any(len(one) > _LONGEST_TEXT for one in texts):
        return True
    schema = {"type": "string", "allOf": [{"pattern": one} for one in (expression, f"^(?:{_none_of(set(texts))})$")]}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return not llguidance.LLMatcher.validate_grammar(grammar, limits=_LIMITS)


def _none_of(texts: set[str]) -> str:
    """An expression of all texts but these. It decides by one character after the other."""
    begins = sorted({text[0] for text in texts if text})
    others = "[^" + "".join(map(_literal, map(ord, begins))) + "]" if begins else "(?s:.)"
    ways = [] if "" in texts else [""]
    ways.append(others + _ANYTHING)
    for begin in begins:
        ways.append(_literal(ord(begin)) + f"(?:{_none_of({text[1:] for text in texts if text[:1] == begin})})")
    return "|".join(ways)


def _is_readable(expression: str) -> bool:
    """Whether llguidance takes the expression, and any text matches it."""
    schema = {"type": "string", "pattern": expression}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
    return not llguidance.LLMatcher.validate_grammar(grammar, limits=_LIMITS)


def tree_of(pattern: str) -> Node:
    """The tree of a pattern. Raises GrammarError for what is no regular language."""
    parser = _Parser(pattern)
    tree = parser.whole()
    if not parser.exact or parser.ahead:
        raise GrammarError("a pattern has look-around, word boundaries or references")
    return tree


class _Parser:
    """Recursive descent over the pattern. The depth is bounded."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self.exact = True
        self.ahead: list[str] = []  # what look-ahead at the beginning demands

    def whole(self) -> Node:
        """The tree of the whole pattern."""
        tree = self._choice()
        if self._at < len(self._text):
            raise GrammarError("a pattern has an unmatched parenthesis")
        return tree

    def _look(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _take(self) -> str:
        if self._at >= len(self._text):
            raise GrammarError("a pattern ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._look() == "|":
            self._at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Node("choice", parts=parts)

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._look() not in ("", "|", ")"):
            part = self._part(begins=not parts or (len(parts) == 1 and parts[0].kind == "begin"))
            times = self._times()
            if part is not None:
                parts.append(part if not times else Node("repeat", times, [part]))
        return Node("sequence", parts=parts)

    def _times(self) -> str:
        """A repetition. Lazy ones match the same texts."""
        here, found = self._look(), ""
        if here and here in "*+?":
            self._at += 1
            found = here
        elif here == "{":
            end = self._text.find("}", self._at)
            bounds = self._text[self._at + 1 : end].split(",") if end > 0 else []
            if 1 <= len(bounds) <= 2 and bounds[0].isdecimal() and all(one.isdecimal() or not one for one in bounds):
                if any(len(one) > 6 or int(one or 0) > _MOST_TIMES for one in bounds):
                    raise GrammarError(f"a pattern repeats more than {_MOST_TIMES} times")
                found = "{" + ",".join(bounds) + "}"
                self._at = end + 1
        if found and self._look() in ("?", "+"):
            self._at += 1
        return found

    def _part(self, *, begins: bool) -> Node | None:
        here = self._take()
        if here == "(":
            return self._group(begins=begins)
        if here == "[":
            return Node("text", self._set())
        if here == "\\":
            return self._escape()
        if here in "^$":
            return Node("begin" if here == "^" else "end")
        return Node("text", NO_LINE_END if here == "." else _literal(ord(here)))

    def _group(self, *, begins: bool) -> Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise GrammarError("a pattern is nested too deeply")
        look = next((one for one in _LOOK if self._text.startswith(one, self._at)), "")
        flags = ""
        if look:
            self._at += len(look)
        elif self._look() == "?":
            flags = self._head()
            if flags.endswith(")"):  # flags for all that follows
                self._depth -= 1
                return Node("flags", f"(?{flags}")
        inner = self._choice()
        if self._take() != ")":
            raise GrammarError("a pattern has an unmatched parenthesis")
        self._depth -= 1
        if not look:
            return Node("sequence", f"?{flags}:", [inner])
        if look == "?=" and begins and self._depth == 0 and "|" not in self._outside():
            self.ahead.append("^" + self.written(inner, first=False, last=True))
        else:
            self.exact = False
        return None

    def _outside(self) -> str:
        """The pattern without what is in parentheses, roughly: enough to see an alternative at the top."""
        depth, kept = 0, []
        for before, character in zip(" " + self._text, self._text, strict=False):
            depth += (character == "(") - (character == ")") if before != "\\" else 0
            kept.append(character if depth <= 0 else "")
        return "".join(kept)

    def _head(self) -> str:
        """What comes after `(?`: flags, or nothing for a name."""
        self._at += 1
        for name in ("<", "P<", "'"):
            if self._text.startswith(name, self._at):
                end = self._text.find("'" if name == "'" else ">", self._at + len(name))
                if end < 0:
                    raise GrammarError("a pattern has a name without an end")
                self._at = end + 1
                return ""
        start = self._at
        while self._look() and self._look() in "ims-":
            self._at += 1
        flags = self._text[start : self._at]
        if self._look() == ":":
            self._at += 1
            return flags
        if self._look() == ")" and flags:
            self._at += 1
            return flags + ")"
        raise GrammarError("a pattern has a group that is not known")

    def _escape(self) -> Node | None:
        here = self._take()
        if here in "bB" or (here in "123456789" or here == "k"):
            return self._left_out(here)
        if here in "AZz":
            return Node("begin" if here == "A" else "end")
        if here.lower() in _CLASSES:
            return Node("text", f"[{'^' if here.isupper() else ''}{_CLASSES[here.lower()]}]")
        if here in "pP":
            return Node("text", self._property(here))
        code_point = self._code_point(here)
        if _is_surrogate(code_point):
            self.exact = False
            return Node("text", "")
        return Node("text", _literal(code_point))

    def _left_out(self, here: str) -> Node | None:
        self.exact = False
        if here in "bB":
            return None
        while self._look().isdecimal():
            self._at += 1
        if here == "k" and self._look() == "<":
            self._at = max(self._text.find(">", self._at), self._at) + 1
        return Node("text", _ANYTHING)

    def _property(self, letter: str) -> str:
        if self._look() != "{":
            return f"\\{letter}{self._take()}"
        end = self._text.find("}", self._at)
        if end < 0:
            raise GrammarError("a pattern has a property without an end")
        name = self._text[self._at : end + 1]
        self._at = end + 1
        return f"\\{letter}{name}"

    def _code_point(self, here: str, *, pairs: bool = True) -> int:
        """The code point of an escape. Two halves of a surrogate pair are one."""
        if here == "u" and self._look() == "{":
            end = self._text.find("}", self._at)
            digits, self._at = self._text[self._at + 1 : max(end, 0)], end + 1
            return _hexadecimal(digits)
        if here == "u":
            first = self._digits(4)
            if pairs and 0xD800 <= first < 0xDC00 and self._text.startswith("\\u", self._at):
                low = self._text[self._at + 2 : self._at + 6]
                if len(low) == 4 and _is_hexadecimal(low) and 0xDC00 <= int(low, 16) < 0xE000:
                    self._at += 6
                    return 0x10000 + (first - 0xD800 << 10) + int(low, 16) - 0xDC00
            return first
        if here == "x":
            return self._digits(2)
        if here == "c" and self._look().isascii() and self._look().isalpha():
            return ord(self._take()) % 32
        return _CONTROLS.get(here, ord(here))

    def _digits(self, count: int) -> int:
        digits = self._look(count)
        self._at += count
        return _hexadecimal(digits) if len(digits) == count else _hexadecimal("")

    # ---- sets

    def _set(self) -> str:
        negated = self._look() == "^"
        if negated:
            self._at += 1
        members: list[str] = []
        while (here := self._take()) != "]":
            low = self._member(here)
            if isinstance(low, int) and self._look() == "-" and self._look(2)[1:] not in ("]", ""):
                at = self._at
                self._at += 1
                high = self._member(self._take(), pairs=not _is_surrogate(low))
                if isinstance(high, int):
                    members.append(_span(low, high))
                    continue
                self._at = at  # as in [a-\d]: the hyphen is a member
            members.append(low if isinstance(low, str) else _span(low, low))
        inner = "".join(members)
        if inner:
            return f"[{'^' if negated else ''}{inner}]"
        return r"(?s:.)" if negated else r"[^\x{0}-\x{10ffff}]"

    def _member(self, here: str, *, pairs: bool = True) -> int | str:
        if here != "\\":
            return ord(here)
        kind = self._take()
        if kind == "b":
            return 0x08
        if kind.lower() in _CLASSES:
            return f"[^{_CLASSES[kind.lower()]}]" if kind.isupper() else _CLASSES[kind]
        return self._property(kind) if kind in "pP" else self._code_point(kind, pairs=pairs)

    # ---- writing

    def written(self, node: Node, *, first: bool, last: bool) -> str:
        """The expression of a tree. `first` and `last` say whether an anchor may stand there."""
        if node.kind in ("text", "flags"):
            return node.text
        if node.kind in ("begin", "end"):
            if first if node.kind == "begin" else last:
                return "^" if node.kind == "begin" else "$"
            self.exact = False
            return ""
        if node.kind == "choice":
            return "|".join(self.written(part, first=first, last=last) for part in node.parts)
        if node.kind == "repeat":
            inner = self.written(node.parts[0], first=False, last=False)
            return f"(?:{inner}){node.text}" if inner else ""
        return self._joined(node, first, last)

    def _joined(self, node: Node, first: bool, last: bool) -> str:
        parts, count = node.parts, len(node.parts)
        begins = [first and all(one.kind in ("begin", "flags") for one in parts[:at]) for at in range(count)]
        ends = [last and all(one.kind == "end" for one in parts[at + 1 :]) for at in range(count)]
        inner = "".join(
            self.written(part, first=begin, last=end) for part, begin, end in zip(parts, begins, ends, strict=True)
        )
        return f"({node.text}{inner})" if node.text else inner


def _literal(code_point: int) -> str:
    character = chr(code_point)
    return character if character.isascii() and character.isalnum() else f"\\x{{{code_point:x}}}"


def _span(low: int, high: int) -> str:
    """The members of a range that are characters: halves of surrogate pairs are none."""
    if low > high:
        raise GrammarError("a pattern has a range in the wrong order")
    parts = [(max(low, first), min(high, last)) for first, last in ((0, 0xD7FF), (0xE000, _LAST))]
    return "".join(
        _literal(first) if first == last else f"{_literal(first)}-{_literal(last)}"
        for first, last in parts
        if first <= last
    )


def _is_surrogate(code_point: int) -> bool:
    return 0xD800 <= code_point < 0xE000


def _is_hexadecimal(digits: str) -> bool:
    return 0 < len(digits) <= 6 and all(one in "0123456789abcdefABCDEF" for one in digits)


def _hexadecimal(digits: str) -> int:
    if not _is_hexadecimal(digits) or int(digits, 16) > _LAST:
        raise GrammarError("a pattern has a wrong hexadecimal number")
    return int(digits, 16)
