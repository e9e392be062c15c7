"""Three running streams while a long prompt arrives: how long they stall, and how long the prompt takes."""

from .load import call, intrusion
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids
from .sides import Shape, Side, pair, warm_up
from .stats import Target

SLOTS = 4
RUNNERS = 3
PROMPT = 32  # tokens of a runner's prompt
ENDLESS = 1900  # tokens a runner would generate
AFTER = 8  # tokens of each runner before the long prompt comes
GAP, TIME = Target("<=", 1 / 10), Target("<=", 1.3)


def long_prompt(bench: Bench) -> tuple[list[Row], Samples]:
    """From the long prompt's arrival to its first token."""
    length = bench.sizes.long_prompt

    def measure(side: Side, number: int) -> Figures:
        runners = [call(side.port, words(f"runner {number} {i}", PROMPT), ENDLESS) for i in range(RUNNERS)]
        intruder, running = intrusion(runners, call(side.port, words(f"long {number}", length), 4), after=AFTER)
        if any(runner.ended for runner in running):
            raise RuntimeError("a stream ended before the long prompt was evaluated")
        start, end = intruder.sent, intruder.times[0]
        return {"gap": max(runner.longest_gap(start, end) for runner in running), "time": intruder.first}

    with pair(Shape(bench.model, SLOTS, SLOTS * 2048, bench.threads), bench.program, bench.env) as sides:
        warm_up(sides.values())
        samples = alternate("long_prompt", bench.sizes.rounds, sides, measure, pids(sides))
    rows = [
        samples.versus_peer("long_prompt_gap", "gap", "s between tokens, longest", GAP),
        samples.versus_peer("long_prompt_time", "time", "s to first token", TIME),
    ]
    return rows, samples
