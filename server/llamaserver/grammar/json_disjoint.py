"""Whether an answer can fit two variants of `oneOf`. Pure.

An answer is written for one variant, and all others must refuse it. A schema without a type accepts values of all
types, while answers are written for one type of them, and without properties that the schema does not name.
"""

from collections.abc import Callable
from typing import Any

from .json_members import lists_all
from .json_numbers import is_of

_MOST_VARIANTS = 64
_MOST_COMPARED = 5_000  # pairs of schemas
_LEVELS = 3  # of objects that are looked at for a difference
_RANGES = (("number", "minimum", "maximum"), ("string", "minLength", "maxLength"), ("array", "minItems", "maxItems"))
_ALL = frozenset(("null", "boolean", "object", "array", "number", "string"))

Flat = dict[str, Any]


class Disjoint:
    """Compares variants.

    `resolved` makes the conjunction of a schema. `implied` tells the types of answers where a conjunction names none.
    """

    def __init__(self, resolved: Callable[[Any], Flat], implied: Callable[[Flat], list[str]]) -> None:
        self._resolved = resolved
        self._implied = implied
        self._known: dict[int, tuple[Any, Flat]] = {}
        self._left = _MOST_COMPARED

    def all_apart(self, written: list[Flat], variants: list[Flat]) -> bool:
        """Whether it is clear that no answer for a variant fits another. `written` has what answers must fit."""
        return len(variants) <= _MOST_VARIANTS and all(
            self._apart(left, right, _LEVELS)
            for at, left in enumerate(written)
            for other, right in enumerate(variants)
            if other != at
        )

    def _apart(self, written: Flat, other: Flat, levels: int) -> bool:
        self._left -= 1
        if self._left < 0:
            return False
        if "never" in written or "never" in other:
            return True
        if "enum" in written:
            return all(_refuses(other, value) for value in written["enum"])
        kinds, accepted = self._written(written), _accepted(other)
        if not kinds & accepted:
            return True
        beyond = all(_beyond(kind, written, other) for kind in kinds & accepted)
        return beyond or (levels > 0 and kinds & accepted == {"object"} and self._objects(written, other, levels))

    def _written(self, flat: Flat) -> frozenset[str]:
        """The types of answers."""
        implied = [] if flat.get("choices") else self._implied(flat)
        return _plain(flat.get("type") or implied) or _ALL

    def _objects(self, written: Flat, other: Flat, levels: int) -> bool:
        """Whether objects differ in a property, or only one of them can have a property that it must have."""
        mine, others = written.get("properties", {}), other.get("properties", {})
        needed = written.get("required", [])
        allowed = {*mine, *needed}
        absent = any(name not in allowed for name in other.get("required", []))
        if absent and not written.get("choices") and _is_closed(written):
            return True
        refused = any(name not in others for name in needed)
        if refused and other.get("additionalProperties") is False and not other.get("patternProperties"):
            return True
        return any(
            self._apart(self._known_flat(mine[name]), self._known_flat(others[name]), levels - 1)
            for name in needed
            if name in mine and name in others
        )

    def _known_flat(self, schema: Any) -> Flat:
        known = self._known.get(id(schema))
        if known is None:  # the schema is kept with it, so that its id stays its own
            known = self._known[id(schema)] = (schema, self._resolved(schema))
        return known[1]


def _plain(kinds: list[str]) -> frozenset[str]:
    return frozenset("number" if kind == "integer" else kind for kind in kinds)


def _accepted(flat: Flat) -> frozenset[str]:
    """The types that a schema accepts."""
    if "enum" in flat:
        return frozenset(kind for kind in _ALL if any(is_of(value, [kind]) for value in flat["enum"]))
    return _plain(flat.get("type", [])) or _ALL


def _refuses(flat: Flat, value: Any) -> bool:
    """Whether it is clear that a schema does not accept a value."""
    if "enum" in flat and not any(same(value, one) for one in flat["enum"]):
        return True
    return "type" in flat and not is_of(value, flat["type"])


def _beyond(kind: str, left: Flat, right: Flat) -> bool:
    """Whether all values of a type are larger on one side."""
    for name, low, high in _RANGES:
        if kind == name and any(
            low in one and high in other and one[low] > other[high] for one, other in ((left, right), (right, left))
        ):
            return True
    return False


def _is_closed(flat: Flat) -> bool:
    if flat.get("patternProperties"):
        return False
    return flat.get("additionalProperties") is False or lists_all(flat)


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)
