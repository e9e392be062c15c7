"""Rounds in which both sides take turns, A B B A, so that what drifts with time hits both alike."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tools.cache import say

from . import machine
from .sides import OURS, PEER, Shape, Side, ours, warm_up
from .stats import Spread, Target, differences, ratios, spread

Figures = dict[str, float]
Measure = Callable[[Side, int], Figures]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything, in tokens unless said otherwise."""

    rounds: int = 7
    one_stream: int = 384
    eight_streams: int = 128
    prefix: int = 900
    long_prompt: int = 1600
    tiny: int = 3000
    two_servers: int = 96
    tools: int = 256
    deserted: int = 2000
    before_cancel: float = 0.5  # seconds
    beats: int = 12  # conversations that end beside a stream, one a second


QUICK = Sizes(
    rounds=1,
    one_stream=48,
    eight_streams=24,
    prefix=200,
    long_prompt=800,
    tiny=300,
    two_servers=32,
    tools=32,
    deserted=1200,
    before_cancel=0.2,
    beats=3,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every workload needs."""

    model: Path
    program: Path  # llama-server
    env: Mapping[str, Mapping[str, str]]  # by side, on top of this process's
    threads: int
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result: a figure, the target for its median, and the raw medians behind it."""

    name: str
    unit: str
    value: Spread
    target: Target | None = None
    raw: dict[str, float] = field(default_factory=dict)  # medians by side
    raw_unit: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None without one."""
        return self.target.met(self.value.median) if self.target else None


@dataclass(slots=True)
class Samples:
    """All figures of one workload."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # side -> name -> by round
    others: list[float] = field(default_factory=list)  # cores that other processes used

    def add(self, side: str, figures: Figures) -> None:
        """Take one side's figures of one round."""
        for name, value in figures.items():
            self.figures.setdefault(side, {}).setdefault(name, []).append(value)

    def of(self, side: str, name: str) -> list[float]:
        """One figure by round."""
        return self.figures[side][name]

    def medians(self, name: str) -> dict[str, float]:
        """One figure's median by side."""
        return {side: spread(figures[name]).median for side, figures in self.figures.items() if name in figures}

    def ratio_row(self, row: str, name: str, unit: str, target: Target | None, sides: tuple[str, str]) -> Row:
        """First side / second side."""
        values = ratios(self.of(sides[0], name), self.of(sides[1], name))
        return Row(row, "/".join(sides), spread(values), target, self.medians(name), unit)

    def versus_peer(self, row: str, name: str, unit: str, target: Target | None) -> Row:
        """Ours / peer."""
        return self.ratio_row(row, name, unit, target, (OURS, PEER))

    def difference_row(self, row: str, name: str, unit: str, target: Target) -> Row:
        """Ours - peer."""
        values = differences(self.of(OURS, name), self.of(PEER, name))
        return Row(row, f"{unit}, ours - peer", spread(values), target, self.medians(name), unit)

    def plain_row(self, row: str, name: str, unit: str, target: Target | None, side: str = OURS) -> Row:
        """One side's figure as it is; the other side's for comparison, where it was measured."""
        return Row(row, unit, spread(self.of(side, name)), target, self.medians(name), unit)


def turns(rounds: int, names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(round, side) in the order A B B A A B ..."""
    order = list(names)
    for number in range(rounds):
        yield from ((number, name) for name in order)
        order.reverse()


def alternate(title: str, rounds: int, sides: Mapping[str, Side], measure: Measure, watched: Iterable[int]) -> Samples:
    """Measure each side once a round; `watched` are the processes whose CPU use is not others'."""
    samples = Samples()
    pids = tuple(watched)
    for number, name in turns(rounds, sides):
        for side in sides.values():
            side.wait_idle()
        with machine.watching(pids) as others:
            figures = measure(sides[name], number)
        samples.add(name, figures)
        samples.others.append(others.cores)
        shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        say(f"{title} {number + 1}/{rounds} {name}: {shown} (others used {others.cores:.2f} cores)")
    return samples


def two_ways(title: str, rounds: int, shape: Shape, ways: Iterable[str], measure: Measure) -> Samples:
    """Measure one server of ours in two ways, which are the names of the sides. Each is tried once before."""
    with ours(shape) as side:
        sides = {way: replace(side, name=way) for way in ways}
        warm_up([side])
        for each in sides.values():
            measure(each, -1)
        return alternate(title, rounds, sides, measure, pids(sides))


def pids(sides: Mapping[str, Side]) -> tuple[int, ...]:
    """The servers' processes."""
    return tuple(side.server.pid for side in sides.values())
