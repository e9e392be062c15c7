"""Which values of a JSON schema are equal: 1 and 1.0 are, 1 and true are not. Pure."""

from collections.abc import Hashable, Mapping
from typing import Any


class Values:
    """Gives equal values the same key. Each array and object is read once."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}  # of what arrays and objects have in them
        self._known: dict[int, tuple[object, int]] = {}  # id of an array or object -> itself, its number

    def key(self, value: Any) -> Hashable:
        """The key of a JSON value."""
        if isinstance(value, bool):
            return ("truth value", value)
        if not isinstance(value, list | Mapping):
            return value  # type: ignore[no-any-return]
        if id(value) not in self._known:
            inside: Hashable = (
                tuple(map(self.key, value))
                if isinstance(value, list)
                else frozenset((name, self.key(one)) for name, one in value.items())
            )
            self._known[id(value)] = value, self._numbers.setdefault(inside, len(self._numbers))
        return ("inside", self._known[id(value)][1])

    def common(self, left: list[Any], right: list[Any]) -> list[Any]:
        """The values of `left` that are in `right`, too."""
        wanted = set(map(self.key, right))
        return [one for one in left if self.key(one) in wanted]
