"""Tokens/s of one stream and of eight streams with distinct prompts."""

from .load import call, together
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids
from .sides import Shape, Side, pair, warm_up
from .stats import Target

PROMPT = 32  # tokens
SLOTS = 8
FASTER = Target(">=", 1.05)


def one_stream(bench: Bench) -> tuple[list[Row], Samples]:
    """One answer as it streams, from its first token to its last."""
    count = bench.sizes.one_stream
    texts: dict[int, set[str]] = {}

    def measure(side: Side, number: int) -> Figures:
        (answer,) = together([call(side.port, words(f"one {number}", PROMPT), count)])
        texts.setdefault(number, set()).add(answer.text)
        return {"tokens_per_second": answer.rate, "first_token": answer.first}

    shape = Shape(bench.model, 1, 1024, bench.threads)
    with pair(shape, bench.program, bench.env) as sides:
        warm_up(sides.values())
        samples = alternate("one_stream", bench.sizes.rounds, sides, measure, pids(sides))
    row = samples.versus_peer("one_stream", "tokens_per_second", "tokens/s", FASTER)
    row.notes["rounds_with_equal_text"] = sum(len(both) == 1 for both in texts.values())
    return [row], samples


def eight_streams(bench: Bench) -> tuple[list[Row], Samples]:
    """All tokens of eight answers, over the time from the first request to the end of the last answer."""
    count = bench.sizes.eight_streams

    def measure(side: Side, number: int) -> Figures:
        calls = [call(side.port, words(f"eight {number} {i}", PROMPT), count) for i in range(SLOTS)]
        answers = together(calls)
        wall = max(answer.sent + answer.whole for answer in answers) - min(answer.sent for answer in answers)
        return {"tokens_per_second": SLOTS * count / wall}

    with pair(Shape(bench.model, SLOTS, SLOTS * 512, bench.threads), bench.program, bench.env) as sides:
        warm_up(sides.values())
        samples = alternate("eight_streams", bench.sizes.rounds, sides, measure, pids(sides))
    return [samples.versus_peer("eight_streams", "tokens_per_second", "tokens/s", FASTER)], samples
