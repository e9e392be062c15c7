"""How one field of a generation request is declared. The table of all of them is in `params.py`."""

from dataclasses import dataclass, field, fields
from typing import Any

_SCALARS = {int, float, bool, type(None)}
_KEY = "parameter"  # of a dataclass field's metadata


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a field may cost: the size of its value in `unit`, times the number of answers."""

    most: int
    unit: str


def size(value: Any, most: int) -> int:
    """Characters of all texts in a JSON value, and one for each value in it. Counting ends soon after `most`."""
    if isinstance(value, str):
        return len(value)
    total, todo = 0, [value]
    while todo and total <= most:
        one = todo.pop()
        total += 1
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, dict):
            total += sum(map(len, one))
            todo.extend(one.values())
        elif isinstance(one, list):
            kinds = set(map(type, one))
            if kinds <= _SCALARS:  # counted at once: such arrays can be long
                total += len(one)
            elif kinds == {str}:
                total += len(one) + sum(map(len, one))
            else:
                todo.extend(one)
    return total


@dataclass(frozen=True, slots=True)
class Parameter:
    """One field of a generation request.

    `names` are those in a request: the first one is also the name in `generation_settings`, the others are
    aliases. `kind` is the type of the value that the engine gets: a float, int or bool is read within
    [low, high] (None: no bound), all others have readers of their own (api/schema.py). `text` says what it does.
    """

    attribute: str
    names: tuple[str, ...]
    kind: Any
    default: Any
    low: float | None
    high: float | None
    text: str
    reported: bool  # in `generation_settings`
    budget: Budget | None  # None: the value costs nothing

    @property
    def bounds(self) -> dict[str, Any]:
        """`low` and `high`, as far as there are any."""
        return {name: bound for name, bound in (("low", self.low), ("high", self.high)) if bound is not None}


def parameter(
    default: Any,
    text: str,
    *names: str,
    low: float | None = None,
    high: float | None = None,
    reported: bool = True,
    budget: Budget | None = None,
) -> Any:
    """Declare a dataclass field that a request can set. Without `names` its own name is the only one."""
    return field(default=default, metadata={_KEY: (names, low, high, text, reported, budget)})


def parameters(owner: type) -> tuple[Parameter, ...]:
    """The parameters that a dataclass declares, in its order."""
    found = []
    for item in fields(owner):
        if _KEY in item.metadata:
            names, low, high, text, reported, budget = item.metadata[_KEY]
            names = names or (item.name,)
            found.append(Parameter(item.name, names, item.type, item.default, low, high, text, reported, budget))
    return tuple(found)
