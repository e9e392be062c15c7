"""The rules of a GBNF text while it is translated: their symbols, their checks and their Lark text. Pure."""

from dataclasses import dataclass, field

MAX_ITEMS = 100_000  # symbols of all rules, with repetitions written out
MAX_REPEAT = 2_000  # a larger upper bound means "any number", as in llama.cpp
_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)  # no text has them


class GrammarError(ValueError):
    """The text is not a grammar, or it exceeds the bounds."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """One part of an alternative: its Lark text, and the rule it refers to, -1 without one.

    An `optional` symbol matches the empty text too. A `hopeless` one matches no text at all.
    """

    lark: str
    rule: int = -1
    optional: bool = False
    hopeless: bool = False
    size: int = 1  # in terminals


Sequence = list[Symbol]
_NOTHING = Symbol('""', optional=True, size=0)


def characters(ranges: list[tuple[int, int]], *, negated: bool = False) -> Symbol:
    """One character of a set of code points, or of all others. NUL and surrogates never match."""
    if negated:
        inner = "".join(map(_range, ranges))
        return Symbol(f"/[^\\x{{0}}{inner}]/", hopeless=_covers_all(ranges))
    members = [
        (max(low, first), min(high, last))
        for low, high in ranges
        for first, last in ((1, _SURROGATES[0] - 1), (_SURROGATES[1] + 1, _LAST))
        if max(low, first) <= min(high, last)
    ]
    if len(members) == 1 and members[0][0] == members[0][1]:
        return Symbol(f"/{_code_point(members[0][0])}/")
    return Symbol("/[" + "".join(map(_range, members)) + "]/", hopeless=not members)


def _covers_all(ranges: list[tuple[int, int]]) -> bool:
    at = 1
    for low, high in sorted([*ranges, _SURROGATES]):
        if low > at:
            return False
        at = max(at, high + 1)
    return at > _LAST


def _range(bounds: tuple[int, int]) -> str:
    low, high = (min(bound, _LAST) for bound in bounds)
    if low > high or _SURROGATES[0] <= low <= high <= _SURROGATES[1]:
        return ""
    if _SURROGATES[0] <= low <= _SURROGATES[1]:
        low = _SURROGATES[1] + 1
    if _SURROGATES[0] <= high <= _SURROGATES[1]:
        high = _SURROGATES[0] - 1
    return _code_point(low) if low == high else f"{_code_point(low)}-{_code_point(high)}"


def _code_point(value: int) -> str:
    character = chr(value)
    return character if character.isascii() and character.isalnum() else f"\\x{{{value:x}}}"


@dataclass(slots=True)
class Rules:
    """The rules that the parser collects. Each rule has a number, which is the key of its alternatives."""

    alternatives: dict[int, list[Sequence]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    count: int = 0
    items: int = 0

    def named(self, name: str) -> int:
        """The id of the rule with this name. Its definition may follow later."""
        if name not in self.names:
            self.names[name] = self.fresh()
        return self.names[name]

    def fresh(self) -> int:
        """The id of a new rule without a name."""
        self.count += 1
        return self.count - 1

    def define(self, rule: int, alternatives: list[Sequence]) -> None:
        """Set the alternatives of a rule. A later definition replaces an earlier one."""
        self.pay(sum(symbol.size for symbols in alternatives for symbol in symbols) + len(alternatives))
        self.alternatives[rule] = alternatives

    def pay(self, items: int) -> None:
        """Count symbols. Checks the bound before their memory is allocated."""
        self.items += items
        if self.items > MAX_ITEMS:
            raise GrammarError(f"more than {MAX_ITEMS} items once repetitions are written out")

    def reference(self, rule: int) -> Symbol:
        """The symbol that stands for a rule."""
        return Symbol(f"r{rule}", rule)

    def joined(self, symbols: Sequence) -> Symbol:
        """One symbol for several, which have no rules in them. None of them make the empty text."""
        if not symbols:
            return _NOTHING
        hopeless = any(symbol.hopeless for symbol in symbols)
        return Symbol(" ".join(symbol.lark for symbol in symbols), hopeless=hopeless, size=len(symbols))

    def repeated(self, symbol: Symbol, low: int, high: int | None) -> Symbol:
        """The symbol `low` to `high` times. None is any number."""
        self.pay(symbol.size * max(low, high or 0))
        if high == 0 or symbol is _NOTHING:
            return _NOTHING
        times = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high))
        if times is None:
            times = f"{{{low},{'' if high is None else high}}}"
        return Symbol(
            f"({symbol.lark}){times}", symbol.rule, optional=low == 0 or symbol.optional, hopeless=symbol.hopeless
        )

    def lark(self) -> str:
        """Check the rules and write them. What matches no text is left out. Raises GrammarError."""
        for name, rule in self.names.items():
            if rule not in self.alternatives:
                raise GrammarError(f"rule {name} is not defined")
        if "root" not in self.names:
            raise GrammarError("no rule is named root")
        possible = self._possible()
        root = self.names["root"]
        if root not in possible:
            raise GrammarError("no text matches it")
        lines = [f"start: r{root}"]
        for rule, alternatives in self.alternatives.items():
            lines += self._line(rule, alternatives, possible)
        return "\n".join(lines)

    def _line(self, rule: int, alternatives: list[Sequence], possible: set[int]) -> list[str]:
        """The line of a rule, none if it matches no text. `a ::= x a | y` is written as `a: (x)* (y)`.

        llguidance keeps an item for each level of such a recursion, but only one for a repetition.
        """
        itself = self.reference(rule)
        again, last = dict[str, None](), dict[str, None]()
        for symbols in alternatives:
            tail = symbols[-1:] == [itself]
            text = _written(symbols[:-1] if tail else symbols, possible)
            if text is not None:
                (again if tail else last)[text] = None
        again.pop('""', None)
        if not last:
            return []
        ends = " | ".join(last)
        return [f"r{rule}: ({' | '.join(again)})* ({ends})" if again else f"r{rule}: {ends}"]

    def _possible(self) -> set[int]:
        """The rules that match any text."""
        waiting: dict[int, list[tuple[int, Sequence]]] = {}
        found: set[int] = set()
        todo = [(rule, symbols) for rule, alternatives in self.alternatives.items() for symbols in alternatives]
        while todo:
            rule, symbols = todo.pop()
            if rule in found:
                continue
            obstacle = next((one for one in symbols if not _can_match(one, found)), None)
            if obstacle is None:
                found.add(rule)
                todo.extend(waiting.pop(rule, []))
            elif not obstacle.hopeless:
                waiting.setdefault(obstacle.rule, []).append((rule, symbols))
        return found


def _can_match(symbol: Symbol, possible: set[int]) -> bool:
    return symbol.optional or (not symbol.hopeless and (symbol.rule < 0 or symbol.rule in possible))


def _written(symbols: Sequence, possible: set[int]) -> str | None:
    """The Lark text of an alternative; None if it matches no text."""
    if not all(_can_match(symbol, possible) for symbol in symbols):
        return None
    kept = [one for one in symbols if not one.hopeless and (one.rule < 0 or one.rule in possible)]
    return " ".join(symbol.lark for symbol in kept) or '""'
