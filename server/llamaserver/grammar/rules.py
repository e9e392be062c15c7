"""The rules of a grammar during its parsing: their parts, their checks and their compilation. Pure."""

from array import array
from dataclasses import dataclass, field

from ..interfaces.grammar import CHARS, END, RULE, Chars, Grammar, Ranges

MAX_ITEMS = 100_000  # items of all rules, with repetitions expanded

Item = tuple[int, int]  # (kind, value). The value is the index of the characters or the rule, or the token id
Items = list[Item]


class GrammarError(ValueError):
    """The text is not a grammar, or it exceeds the bounds."""


@dataclass(slots=True)
class Rules:
    """The rules that the parser collects. Each rule has a number, which is the key of its alternatives."""

    alternatives: dict[int, list[Items]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    count: int = 0
    chars: list[Chars] = field(default_factory=list)
    known: dict[tuple[object, ...], int] = field(default_factory=dict)
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

    def define(self, rule: int, alternatives: list[Items]) -> None:
        """Set the alternatives of a rule. A later definition replaces an earlier one."""
        self.pay(sum(map(len, alternatives)) + len(alternatives))
        self.alternatives[rule] = alternatives

    def pay(self, items: int) -> None:
        """Count items. Checks the bound before their memory is allocated."""
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


def compiled(rules: Rules, text: str) -> Grammar:
    """Check the rules of `text` and compile them. Raises GrammarError."""
    for name, rule in rules.names.items():
        if rule not in rules.alternatives:
            raise GrammarError(f"rule {name} is not defined")
    if "root" not in rules.names:
        raise GrammarError("no rule is named root")
    if rules.names["root"] not in _deriving(rules, empty=False):
        raise GrammarError("no text matches it")
    _refuse_left_recursion(rules)
    kinds, values, nexts = array("b"), array("i"), array("i")
    grammar = Grammar(text, kinds, values, nexts, [()] * rules.count, rules.chars, rules.names["root"])
    for rule, alternatives in rules.alternatives.items():
        firsts = []
        for items in alternatives:
            firsts.append(len(kinds) if items else END)
            for kind, value in items:
                kinds.append(kind)
                values.append(value)
                nexts.append(len(kinds))
            if items:
                nexts[-1] = END
        grammar.rules[rule] = tuple(dict.fromkeys(firsts))
    return grammar


def _refuse_left_recursion(rules: Rules) -> None:
    """Raise if the expansion of a rule could grow the stack for ever without consuming a character.

    A rule may come back to itself as the last item of each alternative on the way. This leaves the stack as it
    was, so it is harmless. ("a"*)* is an example.
    """
    empty = _deriving(rules, empty=True)
    edges = {rule: _leftmost(alternatives, empty) for rule, alternatives in rules.alternatives.items()}
    component = _components(edges)
    for rule, targets in edges.items():
        if any(not last and component[rule] == component[target] for target, last in targets.items()):
            raise GrammarError("left recursion")


def _leftmost(alternatives: list[Items], empty: set[int]) -> dict[int, bool]:
    """The rules that may come first, and whether each of them is always the last item."""
    found: dict[int, bool] = {}
    for items in alternatives:
        for place, (kind, value) in enumerate(items, 1):
            if kind == RULE:
                found[value] = found.get(value, True) and place == len(items)
            if kind != RULE or value not in empty:
                break
    return found


def _components(edges: dict[int, dict[int, bool]]) -> dict[int, int]:
    """Number each rule by its strongly connected component (Tarjan's algorithm, without recursion)."""
    order: dict[int, int] = {}
    lowest: dict[int, int] = {}
    component: dict[int, int] = {}
    open_rules: list[int] = []
    for root, first_targets in edges.items():
        if root in order:
            continue
        order[root] = lowest[root] = len(order)
        open_rules.append(root)
        path = [(root, iter(first_targets))]
        while path:
            rule, targets = path[-1]
            target = next(targets, None)
            if target is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[rule])
                if lowest[rule] == order[rule]:
                    _close(rule, open_rules, component)
            elif target not in order:
                order[target] = lowest[target] = len(order)
                open_rules.append(target)
                path.append((target, iter(edges[target])))
            elif target not in component:
                lowest[rule] = min(lowest[rule], order[target])
    return component


def _close(root: int, open_rules: list[int], component: dict[int, int]) -> None:
    """Put all rules that were opened since `root` into one component with `root`."""
    while True:
        rule = open_rules.pop()
        component[rule] = root
        if rule == root:
            return


def _deriving(rules: Rules, *, empty: bool) -> set[int]:
    """The rules that match the empty text. With `empty` False, the rules that match any text at all."""
    waiting: dict[int, list[tuple[int, Items]]] = {}
    found: set[int] = set()
    todo = [(rule, items) for rule, alternatives in rules.alternatives.items() for items in alternatives]
    while todo:
        rule, items = todo.pop()
        if rule in found:
            continue
        open_items = (item for item in items if (empty if item[0] != RULE else item[1] not in found))
        obstacle = next(open_items, None)
        if obstacle is None:
            found.add(rule)
            todo.extend(waiting.pop(rule, []))
        elif obstacle[0] == RULE:
            waiting.setdefault(obstacle[1], []).append((rule, items))
    return found
