"""A random model with a very short step: what HTTP, scheduling and sampling cost around decode."""

from . import tiny_model
from .load import call, together
from .rounds import Bench, Figures, Row, Samples, alternate, pids
from .sides import Shape, Side, pair, warm_up
from .stats import Target

RATE, OVERHEAD = Target(">=", 1.0), Target("<=", 250.0)
_OUTSIDE, _STEPS = "llamaserver:step_overhead_seconds_total", "llamacpp:n_decode_total"
_INSIDE = "llamaserver:decode_seconds_total"


def tiny(bench: Bench) -> tuple[list[Row], Samples]:
    """One stream; and from our counters what a step takes beside decode."""
    count = bench.sizes.tiny

    def measure(side: Side, number: int) -> Figures:
        before = side.counters() if side.management else {}
        (answer,) = together([call(side.port, f"round {number}", count)])
        figures = {"tokens_per_second": answer.rate}
        if not side.management:
            return figures
        side.wait_idle()
        after = side.counters()
        steps = after[_STEPS] - before[_STEPS]
        figures["overhead_us"] = 1e6 * (after[_OUTSIDE] - before[_OUTSIDE]) / steps
        figures["decode_us"] = 1e6 * (after[_INSIDE] - before[_INSIDE]) / steps
        return figures

    shape = Shape(tiny_model.ensure(), 1, tiny_model.CONTEXT, bench.threads)
    with pair(shape, bench.program, bench.env) as sides:
        warm_up(sides.values())
        samples = alternate("tiny", bench.sizes.rounds, sides, measure, pids(sides))
    overhead = samples.plain_row("step_overhead", "overhead_us", "us a step beside decode", OVERHEAD)
    overhead.notes["decode_us"] = samples.medians("decode_us")
    return [samples.versus_peer("tiny", "tokens_per_second", "tokens/s", RATE), overhead], samples
