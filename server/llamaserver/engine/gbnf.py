"""GBNF text to rules: a parser with bounds, so that no grammar from a client can hang or exhaust us.

The language is llama.cpp's (its `grammars/README.md`). Repetitions become rules of their own, left
recursion is refused. Pure; `grammar.py` runs the result.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

MAX_BYTES = 64 * 1024
MAX_NESTING = 200
MAX_ITEMS = 50_000  # of all rules, repetitions written out
MAX_REPEAT = 2_000  # an upper bound beyond this means "any number", as in llama.cpp

CHARS, RULE, TOKEN, NOT_TOKEN = range(4)
END = -1  # in place of a position: nothing follows

_LAST_CODE_POINT = 0x10FFFF
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}

Item = tuple[int, int]  # kind; index of the characters or the rule, or the token id
Items = list[Item]
Ranges = list[tuple[int, int]]


class GrammarError(ValueError):
    """The text is no grammar, or one beyond the bounds."""


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
            merged = _complement(merged)
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


def _complement(ranges: Ranges) -> Ranges:
    result: Ranges = []
    start = 0
    for low, high in ranges:
        if start < low:
            result.append((start, low - 1))
        start = high + 1
    if start <= _LAST_CODE_POINT:
        result.append((start, _LAST_CODE_POINT))
    return result


@dataclass(frozen=True, slots=True)
class Grammar:
    """Compiled rules: positions with what stands there and which position follows.

    `rules` holds for each rule the first positions of its alternatives, END for an empty one.
    """

    kinds: list[int]
    values: list[int]
    nexts: list[int]
    rules: list[tuple[int, ...]]
    chars: list[Chars]
    root: int


@dataclass(slots=True)
class _Rules:
    """What the parser collects."""

    alternatives: dict[int, list[Items]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    count: int = 0
    chars: list[Chars] = field(default_factory=list)
    known: dict[tuple[object, ...], int] = field(default_factory=dict)
    items: int = 0

    def named(self, name: str) -> int:
        """The id of a rule that is, or will be, defined under this name."""
        if name not in self.names:
            self.names[name] = self.fresh()
        return self.names[name]

    def fresh(self) -> int:
        """The id of a new rule without a name."""
        self.count += 1
        return self.count - 1

    def define(self, rule: int, alternatives: list[Items]) -> None:
        """Give a rule its alternatives; a later definition replaces an earlier one."""
        self.pay(sum(map(len, alternatives)) + len(alternatives))
        self.alternatives[rule] = alternatives

    def pay(self, items: int) -> None:
        """Count against the bound, before the memory is taken."""
        self.items += items
        if self.items > MAX_ITEMS:
            raise GrammarError(f"more than {MAX_ITEMS} items once repetitions are written out")

    def set_of(self, ranges: Ranges, *, negated: bool = False) -> Item:
        """An item that matches one character."""
        key = (negated, *ranges)
        if key not in self.known:
            self.known[key] = len(self.chars)
            self.chars.append(Chars(ranges, negated))
        return CHARS, self.known[key]


class _Parser:
    """Recursive descent over the text; depth is bounded by MAX_NESTING."""

    def __init__(self, text: str, token_id: Callable[[str], int | None]) -> None:
        self._text = text + "\0"  # saves an end-of-text check at every look
        self._at = 0
        self._depth = 0
        self._token_id = token_id
        self.rules = _Rules()

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
        if not 0 < self._at - start <= 9:
            self._fail("expected a number of at most nine digits")
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

    def _alternatives(self, *, nested: bool) -> list[Items]:
        result = [self._sequence(nested)]
        while self._here == "|":
            self._at += 1
            self._space(newlines=True)
            result.append(self._sequence(nested))
        return result

    def _sequence(self, nested: bool) -> Items:
        items: Items = []
        start = 0  # where the last symbol, to which a repetition applies, begins
        while True:
            here = self._here
            if here in "*+?{":
                self._repeat(items, start, *self._times())
            else:
                symbol = self._symbol(here)
                if symbol is None:
                    return items
                start = len(items)
                items.extend(symbol)
            self._space(newlines=nested)

    def _symbol(self, here: str) -> Items | None:
        if here == '"':
            return self._literal()
        if here == "[":
            return self._set()
        if here == "(":
            return [(RULE, self._group())]
        if here in "<!":
            return [self._token()]
        if here == ".":
            self._at += 1
            return [self.rules.set_of([], negated=True)]
        return [(RULE, self.rules.named(self._name()))] if _is_word(here) else None

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

    def _literal(self) -> Items:
        self._at += 1
        items: Items = []
        while self._here != '"':
            code_point = self._character()
            items.append(self.rules.set_of([(code_point, code_point)]))
        self._at += 1
        return items

    def _set(self) -> Items:
        self._at += 1
        negated = self._here == "^"
        self._at += negated
        ranges: Ranges = []
        while self._here != "]":
            low = high = self._character()
            if self._here == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                high = self._character()
            ranges.append((low, high))
        self._at += 1
        return [self.rules.set_of(ranges, negated=negated)] if ranges else []

    def _token(self) -> Item:
        kind = TOKEN
        if self._here == "!":
            kind = NOT_TOKEN
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
        return kind, token

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

    def _repeat(self, items: Items, start: int, low: int, high: int | None) -> None:
        """Replace the last symbol S: low copies, then a rule for the rest.

        S{2,4} becomes S S a with a ::= S b | and b ::= S | ; without upper bound a ::= S a | .
        """
        symbol = items[start:]
        if not symbol:
            self._fail("nothing to repeat")
        self.rules.pay(len(symbol) * low)
        items[start:] = symbol * low
        if high is None:
            rule = self.rules.fresh()
            self.rules.define(rule, [[*symbol, (RULE, rule)], []])
            items.append((RULE, rule))
            return
        tail: Items = []
        for _ in range(high - low):
            rule = self.rules.fresh()
            self.rules.define(rule, [symbol + tail, []])
            tail = [(RULE, rule)]
        items.extend(tail)


def _is_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "-")


def parse(text: str, token_id: Callable[[str], int | None]) -> Grammar:
    """Compile `text`; `token_id` resolves `<name>` or `<[id]>`. Raises GrammarError."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise GrammarError(f"longer than {MAX_BYTES} bytes")
    if "\0" in text:
        raise GrammarError("contains a NUL character")
    parser = _Parser(text, token_id)
    parser.parse()
    rules = parser.rules
    if "root" not in rules.names:
        raise GrammarError("no rule is named root")
    for name, rule in rules.names.items():
        if rule not in rules.alternatives:
            raise GrammarError(f"rule {name} is not defined")
    _refuse_left_recursion(rules)
    return _flatten(rules)


def _flatten(rules: _Rules) -> Grammar:
    grammar = Grammar([], [], [], [()] * rules.count, rules.chars, rules.names["root"])
    for rule, alternatives in rules.alternatives.items():
        firsts = []
        for items in alternatives:
            firsts.append(len(grammar.kinds) if items else END)
            for kind, value in items:
                grammar.kinds.append(kind)
                grammar.values.append(value)
                grammar.nexts.append(len(grammar.kinds))
            if items:
                grammar.nexts[-1] = END
        grammar.rules[rule] = tuple(dict.fromkeys(firsts))
    return grammar


def _refuse_left_recursion(rules: _Rules) -> None:
    """Raise when a rule can reach itself without consuming anything."""
    empty = _nullable(rules)
    edges = {rule: _leftmost(alternatives, empty) for rule, alternatives in rules.alternatives.items()}
    done: set[int] = set()
    for root in edges:
        _search(root, edges, done)


def _search(root: int, edges: dict[int, list[int]], done: set[int]) -> None:
    """Depth first without recursion; a rule met again on its own path is a cycle."""
    path: set[int] = set()
    todo = [(root, False)]
    while todo:
        rule, leaving = todo.pop()
        if leaving:
            path.discard(rule)
            done.add(rule)
        elif rule in path:
            raise GrammarError("left recursion")
        elif rule not in done:
            path.add(rule)
            todo.append((rule, True))
            todo.extend((target, False) for target in edges[rule])


def _leftmost(alternatives: list[Items], empty: set[int]) -> list[int]:
    found: dict[int, None] = {}
    for items in alternatives:
        for kind, value in items:
            if kind == RULE:
                found[value] = None
            if kind != RULE or value not in empty:
                break
    return list(found)


def _nullable(rules: _Rules) -> set[int]:
    """The rules that match the empty text."""
    waiting: dict[int, list[tuple[int, Items]]] = {}
    empty: set[int] = set()
    todo = [(rule, items) for rule, alternatives in rules.alternatives.items() for items in alternatives]
    while todo:
        rule, items = todo.pop()
        if rule in empty:
            continue
        obstacle = next((item for item in items if item[0] != RULE or item[1] not in empty), None)
        if obstacle is None:
            empty.add(rule)
            todo.extend(waiting.pop(rule, []))
        elif obstacle[0] == RULE:
            waiting.setdefault(obstacle[1], []).append((rule, items))
    return empty
