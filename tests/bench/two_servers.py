"""Two of our servers on the same cores: what each keeps of the rate it has alone."""

from contextlib import ExitStack

from .load import Answer, call, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids
from .sides import OURS, Shape, Side, ours, warm_up
from .stats import Target

PROMPT = 32  # tokens
LONG = 6  # times as many tokens alone: at first the threads still wait as they did beside the other
KEPT = Target(">=", 0.2)


def two_servers(bench: Bench) -> tuple[list[Row], Samples]:
    """In each round each server alone, then both at once; counted is the one that keeps less."""
    count = bench.sizes.two_servers
    shape = Shape(bench.model, 1, 1024, bench.threads)
    with ExitStack() as stack:
        pair = {name: stack.enter_context(ours(shape, name, bench.env[OURS])) for name in ("first", "second")}
        warm_up(pair.values())

        def measure(side: Side, number: int) -> Figures:
            (alone,) = together([call(side.port, words(f"alone {side.name} {number}", PROMPT), LONG * count)])
            calm = _rate_within(alone, alone.times[-count], alone.times[-1])
            calls = [call(each.port, words(f"both {side.name} {number}", PROMPT), count) for each in pair.values()]
            both = together(calls)
            start, end = max(answer.times[0] for answer in both), min(answer.times[-1] for answer in both)
            rate = _rate_within(both[list(pair).index(side.name)], start, end)
            return {"alone": calm, "together": rate, "kept": rate / calm}

        samples = alternate("two_servers", bench.sizes.rounds, pair, measure, pids(pair))
    kept = samples.medians("kept")
    row = samples.plain_row("two_servers", "kept", "share of its rate alone", KEPT, min(kept, key=kept.__getitem__))
    row.notes["tokens_per_second"] = {name: samples.medians(name) for name in ("alone", "together")}
    return [row], samples


def _rate_within(answer: Answer, start: float, end: float) -> float:
    """Events/s while both servers were generating; 0 when they never were at once."""
    inside = [time for time in answer.times if start <= time <= end]
    return (len(inside) - 1) / (inside[-1] - inside[0]) if len(inside) > 1 else 0.0
