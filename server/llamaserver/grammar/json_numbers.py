"""Numbers of JSON schemas: the bounds as llguidance enforces them, and whether a number is within them. Pure.

llguidance reads bounds as 64-bit floats, and not always to the last digit. So they are rounded inwards here.
"""

import math
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

from .json_multiples import Multiples, number

LARGEST = 2**53 - 1  # of an integer: each reader of JSON keeps it exactly
_DIGITS = 15  # of a bound: a 64-bit float keeps them
_STEPS = 10**6  # between 0 and a bound below 1, where 0 is excluded
_LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")

Flat = dict[str, Any]


def number_schema(kind: str, flat: Flat, multiples: Multiples, weakened: set[str]) -> bool | Flat:
    """The schema of the numbers of a conjunction, False if there are none. `kind` is integer or number."""
    low, high = _bound(flat, "minimum", "exclusiveMinimum", max), _bound(flat, "maximum", "exclusiveMaximum", min)
    if low and high and (low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1]))):
        return False
    found = _whole(low, high) if kind == "integer" else _rounded(low, high)
    if isinstance(found, bool):
        return found
    if found is None:
        weakened.update(keyword for keyword in _LIMITS if keyword in flat)
    result: Flat = {"type": kind, **(found or {})}
    if "multipleOf" in flat:
        step, exact = multiples.combined(flat["multipleOf"], whole=kind == "integer")
        if not exact:
            weakened.add("multipleOf")
        if step is not None:
            result["multipleOf"] = number(step)
    return result


def is_within(value: float, flat: Flat) -> bool:
    """Whether a number is what the keywords for numbers ask for."""
    return not any(
        (
            value < flat.get("minimum", value),
            value > flat.get("maximum", value),
            "exclusiveMinimum" in flat and value <= flat["exclusiveMinimum"],
            "exclusiveMaximum" in flat and value >= flat["exclusiveMaximum"],
            any(Fraction(repr(value)) % Fraction(repr(step)) for step in flat.get("multipleOf", [])),
        )
    )


def _bound(flat: Flat, closed: str, opened: str, stricter: Any) -> tuple[float, bool] | None:
    """The stricter of two bounds, and whether the bound itself is excluded."""
    values = [flat[keyword] for keyword in (closed, opened) if keyword in flat]
    if not values:
        return None
    value = stricter(values)
    return value, flat.get(opened) == value


def _whole(low: tuple[float, bool] | None, high: tuple[float, bool] | None) -> Flat | bool | None:
    """The bounds of integers, None if they cannot be enforced, False if no integer is within them."""
    least = -LARGEST if low is None else math.floor(low[0]) + 1 if low[1] else math.ceil(low[0])
    most = LARGEST if high is None else math.ceil(high[0]) - 1 if high[1] else math.floor(high[0])
    if low and high and least > most:
        return False
    if least > LARGEST or most < -LARGEST:
        return None
    return {"minimum": max(least, -LARGEST), "maximum": min(most, LARGEST)}


def _rounded(low: tuple[float, bool] | None, high: tuple[float, bool] | None) -> Flat | None:
    """The bounds of numbers, None if they cannot be enforced."""
    if (low and low[0] > LARGEST) or (high and high[0] < -LARGEST):
        return None
    result = dict(_ends(low, high))
    least = result.get("minimum", result.get("exclusiveMinimum"))
    most = result.get("maximum", result.get("exclusiveMaximum"))
    return None if least is not None and most is not None and least > most else result


def _ends(low: tuple[float, bool] | None, high: tuple[float, bool] | None) -> Iterator[tuple[str, float]]:
    if low == (0, True) and (not high or (high[0] >= 1 and high != (1, True))):
        yield "exclusiveMinimum", 0
    elif low:
        yield "minimum", _inward(max(low[0], -LARGEST), low[1], high, up=True)
    if high == (0, True) and (not low or (low[0] <= -1 and low != (-1, True))):
        yield "exclusiveMaximum", 0
    elif high:
        yield "maximum", _inward(min(high[0], LARGEST), high[1], low, up=False)


def _inward(value: float, excluded: bool, other: tuple[float, bool] | None, *, up: bool) -> float:
    """A bound with few digits that allows no more. The next one if the bound itself is excluded."""
    if not value and excluded and other:
        value, excluded = other[0] / _STEPS, False
    exact = Decimal(repr(value))
    step = Decimal(1).scaleb(max(exact.adjusted() + 1, 0) - _DIGITS)
    found = exact.quantize(step, ROUND_CEILING if up else ROUND_FLOOR)
    if excluded and found == exact:
        found += step if up else -step
    return int(found) if found == found.to_integral_value() else float(found)


def is_of(value: object, kinds: list[str]) -> bool:
    """Whether a JSON value has one of the types."""
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        return "number" in kinds or (whole and "integer" in kinds)
    names = {str: "string", type(None): "null", list: "array"}
    return names.get(type(value), "object" if isinstance(value, Mapping) else "") in kinds
