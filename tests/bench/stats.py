"""Median, minimum and maximum of repeated measurements, and whether a target was met."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Spread:
    """What is left of one figure over all rounds."""

    median: float
    low: float
    high: float

    def as_json(self, digits: int = 3) -> dict[str, float]:
        """The three numbers, rounded to significant digits."""
        named = {"median": self.median, "min": self.low, "max": self.high}
        return {name: significant(value, digits) for name, value in named.items()}


def spread(values: Sequence[float]) -> Spread:
    """Summarise; ValueError when there is nothing to summarise."""
    if not values:
        raise ValueError("no measurement")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Each round's ours / peer; the two sides of a round were measured one after the other."""
    return [a / b for a, b in zip(ours, peer, strict=True)]


def differences(ours: Sequence[float], other: Sequence[float]) -> list[float]:
    """Each round's ours - other."""
    return [a - b for a, b in zip(ours, other, strict=True)]


def significant(value: float, digits: int) -> float:
    """Round to significant digits, keeping whole numbers whole."""
    return float(f"{value:.{digits}g}") if abs(value) < 10**digits else float(round(value))


@dataclass(frozen=True, slots=True)
class Target:
    """What the median has to reach."""

    sign: Literal[">=", "<="]
    limit: float

    def met(self, value: float) -> bool:
        """Whether a median is good enough."""
        return value >= self.limit if self.sign == ">=" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:.4g}"
