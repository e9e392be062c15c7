"""Eight requests at once that share a prefix: time to first token, and what memory it leaves in use."""

from . import machine
from .load import Call, call, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids
from .sides import Shape, Side, pair, warm_up
from .stats import Target

SLOTS = 8
OWN = 16  # tokens of each prompt after the prefix
ANSWER = 8  # tokens
COLD, WARM = Target("<=", 1 / 3), Target("<=", 1 / 10)
MEMORY = Target("<=", 150.0)


def shared_prefix(bench: Bench) -> tuple[list[Row], Samples]:
    """Cold: nobody has seen the prefix. Warm: exactly one request has, before. Each round has prefixes of its own."""
    length = bench.sizes.prefix

    def calls(side: Side, prefix: str, names: range) -> list[Call]:
        return [call(side.port, prefix + words(f"{prefix} {i}", OWN), ANSWER) for i in names]

    def mean_first(side: Side, prefix: str) -> float:
        answers = together(calls(side, prefix, range(SLOTS)))
        return sum(answer.first for answer in answers) / SLOTS

    def measure(side: Side, number: int) -> Figures:
        cold = mean_first(side, words(f"cold {number}", length))
        prefix = words(f"warm {number}", length)
        together(calls(side, prefix, range(SLOTS, SLOTS + 1)))
        warm = mean_first(side, prefix)
        return {"cold": cold, "warm": warm, "rss": machine.anonymous_bytes(side.server.pid) / 1e6}

    with pair(Shape(bench.model, SLOTS, SLOTS * 1024, bench.threads), bench.program, bench.env) as sides:
        warm_up(sides.values())
        samples = alternate("shared_prefix", bench.sizes.rounds, sides, measure, pids(sides))
    rows = [
        samples.versus_peer("shared_prefix_cold", "cold", "s to first token, mean", COLD),
        samples.versus_peer("shared_prefix_warm", "warm", "s to first token, mean", WARM),
        samples.difference_row("rss", "rss", "MB", MEMORY),
    ]
    return rows, samples
