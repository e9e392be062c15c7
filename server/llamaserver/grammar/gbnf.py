"""Translates the GBNF text of clients to Lark for llguidance, within bounds on time and memory.

The language is llama.cpp's (its `grammars/README.md`). Each terminal of the Lark text is one character: llguidance
takes the longest match of a terminal, which would make a difference to longer ones. Pure.
"""

from collections.abc import Callable
from typing import NoReturn

from .rules import MAX_REPEAT, GrammarError, Rules, Sequence, Symbol, characters

__all__ = ["MAX_BYTES", "MAX_NESTING", "MAX_REPEAT", "GrammarError", "to_lark"]

MAX_BYTES = 64 * 1024
MAX_NESTING = 200
_MOST_DIGITS = 9  # of a number
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


class _Parser:
    """Recursive descent over the text. MAX_NESTING limits the depth."""

    def __init__(self, text: str, token_id: Callable[[str], int | None]) -> None:
        self._text = text + "\0"  # the NUL character saves a test for the end of the text at each character
        self._at = 0
        self._depth = 0
        self._token_id = token_id
        self.rules = Rules()

    def parse(self) -> None:
        """Read all rules."""
        self._space(newlines=True)
        while self._here != "\0":
            self._rule()

    @property
    def _here(self) -> str:
        return self._text[self._at]

    def _fail(self, message: str) -> NoReturn:
        line = self._text.count("\n", 0, self._at) + 1
        raise GrammarError(f"{message} in line {line}")

    def _expect(self, wanted: str) -> None:
        if not self._text.startswith(wanted, self._at):
            self._fail(f"expected {wanted!r}")
        self._at += len(wanted)

    def _space(self, *, newlines: bool) -> None:
        text = self._text
        while True:
            here = text[self._at]
            if here in " \t" or (newlines and here in "\r\n"):
                self._at += 1
            elif here == "#":
                while text[self._at] not in "\0\r\n":
                    self._at += 1
            else:
                return

    def _name(self) -> str:
        start = self._at
        while _is_word(self._here):
            self._at += 1
        if start == self._at:
            self._fail("expected a name")
        return self._text[start : self._at]

    def _number(self) -> int:
        start = self._at
        while "0" <= self._here <= "9":
            self._at += 1
        if not 0 < self._at - start <= _MOST_DIGITS:
            self._fail(f"expected a number of at most {_MOST_DIGITS} digits")
        return int(self._text[start : self._at])

    def _rule(self) -> None:
        rule = self.rules.named(self._name())
        self._space(newlines=False)
        self._expect("::=")
        self._space(newlines=True)
        self.rules.define(rule, self._alternatives(nested=False))
        if self._here not in "\r\n\0":
            self._fail("expected the end of the rule")
        self._space(newlines=True)

    def _alternatives(self, *, nested: bool) -> list[Sequence]:
        result = [self._sequence(nested)]
        while self._here == "|":
            self._at += 1
            self._space(newlines=True)
            result.append(self._sequence(nested))
        return result

    def _sequence(self, nested: bool) -> Sequence:
        symbols: Sequence = []
        while True:
            here = self._here
            if here in "*+?{":
                low, high = self._times()
                if not symbols or not symbols[-1].size:
                    self._fail("nothing to repeat")
                symbols.append(self.rules.repeated(symbols.pop(), low, high))
            else:
                symbol = self._symbol(here)
                if symbol is None:
                    return symbols
                symbols.append(symbol)
            self._space(newlines=nested)

    def _symbol(self, here: str) -> Symbol | None:
        if here == '"':
            return self._literal()
        if here == "[":
            return self._set()
        if here == "(":
            return self.rules.reference(self._group())
        if here in "<!":
            return self._token()
        if here == ".":
            self._at += 1
            return characters([], negated=True)
        return self.rules.reference(self.rules.named(self._name())) if _is_word(here) else None

    def _group(self) -> int:
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(f"parentheses nested more than {MAX_NESTING} deep")
        self._at += 1
        self._space(newlines=True)
        rule = self.rules.fresh()
        self.rules.define(rule, self._alternatives(nested=True))
        self._expect(")")
        self._depth -= 1
        return rule

    def _character(self) -> int:
        here = self._here
        if here == "\0":
            self._fail("unexpected end")
        self._at += 1
        if here != "\\":
            return ord(here)
        kind = self._here
        self._at += 1
        if kind in _HEX_LENGTHS:
            return self._hex(_HEX_LENGTHS[kind])
        if kind not in _ESCAPES:
            self._fail(f"unknown escape \\{kind}" if kind != "\0" else "unexpected end")
        return ord(_ESCAPES[kind])

    def _hex(self, length: int) -> int:
        digits = self._text[self._at : self._at + length]
        if len(digits) < length or not all(d in "0123456789abcdefABCDEF" for d in digits):
            self._fail(f"expected {length} hexadecimal digits")
        self._at += length
        return int(digits, 16)

    def _literal(self) -> Symbol:
        self._at += 1
        symbols: Sequence = []
        while self._here != '"':
            code_point = self._character()
            symbols.append(characters([(code_point, code_point)]))
        self._at += 1
        return self.rules.joined(symbols)

    def _set(self) -> Symbol:
        self._at += 1
        negated = self._here == "^"
        if negated:
            self._at += 1
        ranges: list[tuple[int, int]] = []
        while self._here != "]":
            low = high = self._character()
            if self._here == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                high = self._character()
            ranges.append((low, high))
        self._at += 1
        return characters(ranges, negated=negated) if ranges else self.rules.joined([])

    def _token(self) -> Symbol:
        negated = self._here == "!"
        if negated:
            self._at += 1
        start = self._at
        self._expect("<")
        end = self._text.find(">", start)
        if end < 0:
            self._fail("expected '>'")
        self._at = end + 1
        token = self._token_id(self._text[start : end + 1])
        if token is None:
            self._fail("not one token of the vocabulary")
        return Symbol(f"<[{'^' if negated else ''}{token}]>")

    def _times(self) -> tuple[int, int | None]:
        operator = self._here
        self._at += 1
        if operator != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[operator]
        self._space(newlines=True)
        low = self._number()
        high: int | None = low
        self._space(newlines=True)
        if self._here == ",":
            self._at += 1
            self._space(newlines=True)
            high = self._number() if self._here != "}" else None
            self._space(newlines=True)
        self._expect("}")
        if low > MAX_REPEAT:
            self._fail(f"more than {MAX_REPEAT} repetitions")
        if high is not None and high < low:
            self._fail("repetition bounds in the wrong order")
        return low, None if high is None or high > MAX_REPEAT else high


def _is_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "-")


def to_lark(text: str, token_id: Callable[[str], int | None]) -> str:
    """The Lark text of a grammar. `token_id` resolves `<name>` or `<[id]>`. Raises GrammarError."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise GrammarError(f"longer than {MAX_BYTES} bytes")
    if "\0" in text:
        raise GrammarError("contains a NUL character")
    parser = _Parser(text, token_id)
    parser.parse()
    return parser.rules.lark()
