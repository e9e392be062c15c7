"""`multipleOf` of JSON schemas within what llguidance can follow: it has a state for each remainder. Pure."""

import math
from collections.abc import Iterable
from fractions import Fraction

_MOST_REMAINDERS = 10_000  # of one number: 0.1 s and 5 MB. Ten times as many take 3 s
_MOST_IN_ALL = 50_000  # of all numbers of a schema
_MOST_DECIMALS = 9


class Multiples:
    """Combines the steps of the numbers of one schema, until they cost too much together."""

    def __init__(self) -> None:
        self._left = _MOST_IN_ALL

    def combined(self, steps: Iterable[int | float], *, whole: bool) -> tuple[Fraction | None, bool]:
        """The least number whose multiples are multiples of all steps, and whether all steps are in it.

        None if nothing is left of them. `whole` says that only integers are meant.
        """
        found = Fraction(1) if whole else None
        exact = True
        for step in steps:
            fraction = Fraction(step if isinstance(step, int) else str(step))
            both = fraction if found is None else _least(found, fraction)
            if _remainders(both) is None:
                exact = False
            else:
                found = both
        if found is None or (whole and found == 1):
            return None, exact
        self._left -= _remainders(found) or 0
        return (found, exact) if self._left >= 0 else (None, False)


def number(step: Fraction) -> int | float:
    """The step as a schema writes it."""
    return step.numerator if step.denominator == 1 else float(step)


def _least(left: Fraction, right: Fraction) -> Fraction:
    """The least common multiple."""
    scale = math.lcm(left.denominator, right.denominator)
    return Fraction(math.lcm(int(left * scale), int(right * scale)), scale)


def _remainders(step: Fraction) -> int | None:
    """The remainders that llguidance tells apart, None if they are too many, or if it cannot read the step exactly."""
    if step > _MOST_REMAINDERS:
        return None
    value, decimals = float(step), 0
    while not value.is_integer() and decimals < _MOST_DECIMALS:  # llguidance removes decimals like this
        value, decimals = value * 10, decimals + 1
    exact = value.is_integer() and Fraction(int(value), 10**decimals) == step
    return int(value) if exact and value <= _MOST_REMAINDERS else None
