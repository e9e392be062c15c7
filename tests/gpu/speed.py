"""Tokens/s beside llama-server on the same card, from the same module, with the same arguments.

As in tests/bench, sides take turns, and a ratio is taken within each round. Where llama-server is not here,
only our own figures are taken.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.bench.load import call, intrusion, together
from tests.bench.prompts import words
from tests.bench.rounds import Figures, Samples, alternate, pids
from tests.bench.sides import OURS, PEER, Side, warm_up
from tests.bench.stats import ratios, significant, spread

from . import hardware, module
from .report import Report
from .session import Session
from .weights import Dimensions

PROMPT = 32  # tokens
RUNNERS = 3
AFTER = 8  # tokens of each runner before the long prompt comes
_ENDLESS = 3000  # tokens that a runner would generate
_STEPS, _BESIDE, _INSIDE = (
    "llamacpp:n_decode_total",
    "llamaserver:step_overhead_seconds_total",
    "llamaserver:decode_seconds_total",
)


def small(session: Session, report: Report) -> None:
    """The small model: a step is so short that what surrounds it weighs."""
    _streams(session, report, session.sizes.small)


def large(session: Session, report: Report) -> None:
    """The large model: the card decides."""
    _streams(session, report, session.sizes.large)


def _streams(session: Session, report: Report, dimensions: Dimensions) -> None:
    sizes, path = session.sizes, session.random_model(dimensions)

    def one(side: Side, number: int) -> Figures:
        (answer,) = together([call(side.port, words(f"one {number}", PROMPT), sizes.one)])
        return {"tokens_per_second": answer.rate, "first_token_ms": 1000 * answer.first}

    def many(side: Side, number: int) -> Figures:
        calls = [call(side.port, words(f"many {number} {i}", PROMPT), sizes.each) for i in range(sizes.streams)]
        answers = together(calls)
        wall = max(answer.sent + answer.whole for answer in answers) - min(answer.sent for answer in answers)
        first = sum(answer.first for answer in answers) / len(answers)
        return {"tokens_per_second": sizes.streams * sizes.each / wall, "first_token_ms": 1000 * first}

    for name, slots, measure in (("one_stream", 1, one), (f"{sizes.streams}_streams", sizes.streams, many)):
        with session.both(session.shape(path, slots, slots * 1024)) as pair:
            warm_up(pair.values())
            for side in pair.values():
                measure(side, -1)  # graphs of this many streams
            _check_modules(session, report, pair)
            samples = alternate(f"{dimensions.name} {name}", sizes.rounds, pair, _counted(measure), pids(pair))
        _tell(report, name, samples, higher_is_better=True)


def _check_modules(session: Session, report: Report, pair: Mapping[str, Side]) -> None:
    """Whether both have the CUDA module in use, and all layers on the GPU where they say so."""
    if session.card is None:
        return
    report.figure("gpu_memory_of_all_mib", hardware.memory_used_mib())
    for name, side in pair.items():
        mapped = module.NAME in Path(f"/proc/{side.server.pid}/maps").read_text()
        said = re.findall(r"offloaded (\d+)/(\d+) layers", side.server.log)
        all_on_it = not said or said[-1][0] == said[-1][1]
        report.check(f"{name} has loaded the CUDA module", mapped and all_on_it, {"mapped": mapped, "layers": said})


def _counted(measure: Callable[[Side, int], Figures]) -> Callable[[Side, int], Figures]:
    """Our side's figures, with what its counters say of a step."""

    def counted(side: Side, number: int) -> Figures:
        if not side.management:
            return measure(side, number)
        before = side.counters()
        figures = measure(side, number)
        side.wait_idle()
        after = side.counters()
        steps = max(1.0, after[_STEPS] - before[_STEPS])
        figures["step_overhead_us"] = 1e6 * (after[_BESIDE] - before[_BESIDE]) / steps
        figures["step_decode_us"] = 1e6 * (after[_INSIDE] - before[_INSIDE]) / steps
        return figures

    return counted


def long_prompt(session: Session, report: Report) -> None:
    """Three running streams while a long prompt arrives: their longest wait, and the prompt's time."""
    sizes = session.sizes

    def measure(side: Side, number: int) -> Figures:
        runners = [call(side.port, words(f"runner {number} {i}", PROMPT), _ENDLESS) for i in range(RUNNERS)]
        arriving = call(side.port, words(f"long {number}", sizes.long_prompt), 4)
        intruder, running = intrusion(runners, arriving, after=AFTER)
        if any(runner.ended for runner in running):
            raise RuntimeError("a stream ended before the long prompt was evaluated")
        start, end = intruder.sent, intruder.times[0]
        gap = max(runner.longest_gap(start, end) for runner in running)
        return {"gap_ms": 1000 * gap, "time_ms": 1000 * intruder.first}

    def alone(side: Side, number: int) -> Figures:
        (answer,) = together([call(side.port, words(f"alone {number}", sizes.long_prompt), 4)])
        return {"prompt_tokens_per_second": sizes.long_prompt / answer.first}

    slots = RUNNERS + 1
    shape = session.shape(session.random_model(sizes.large), slots, slots * sizes.context)
    with session.both(shape) as pair:
        warm_up(pair.values())
        lone = alternate("long prompt alone", sizes.rounds, pair, alone, pids(pair))
        samples = alternate("long prompt", sizes.rounds, pair, measure, pids(pair))
    _tell(report, "long_prompt_alone", lone, higher_is_better=True)
    _tell(report, "long_prompt", samples, higher_is_better=False)


def _tell(report: Report, row: str, samples: Samples, *, higher_is_better: bool) -> None:
    for name, values in samples.figures[OURS].items():
        figure: dict[str, Any] = {"ours": significant(spread(values).median, 4), "rounds": len(values)}
        if name in samples.figures.get(PEER, {}):
            others = samples.of(PEER, name)
            figure["peer"] = significant(spread(others).median, 4)
            figure["ratio"] = spread(ratios(values, others)).as_json()
            figure["better_is"] = "higher" if higher_is_better and "second" in name else "lower"
        report.figure(f"{row} {name}", figure)
