"""A client goes away while its long prompt is evaluated: how soon the next one is served, and at whose cost."""

from .load import Call, call, desertion
from .prompts import words
from .rounds import Bench, Figures, Row, Samples, alternate, pids
from .sides import OURS, Shape, Side, pair, warm_up
from .stats import Target, spread

PROMPT = 16  # tokens of the request that follows
RUNNERS = 3
STREAM = 64  # tokens of each running stream
AFTER = 8  # tokens of each before the long prompt comes
SOON, NONE = Target("<=", 200.0), Target("<=", 0.0)


def cancel(bench: Bench) -> tuple[list[Row], Samples]:
    """On a server with one slot; then on one with four, of which three are streaming."""
    sizes = bench.sizes

    def one_slot(side: Side, number: int) -> Figures:
        alone, _ = desertion(_follower(side, f"alone {number}"))
        after, _ = desertion(
            _follower(side, f"after {number}"),
            deserted=_deserted(side, number, sizes.deserted),
            seconds=sizes.before_cancel,
        )
        return {"extra_ms": 1000 * (after.whole - alone.whole)}

    def beside_streams(side: Side, number: int) -> Figures:
        alone, undisturbed = desertion(_follower(side, f"alone {number}"), runners=_runners(side, number), after=AFTER)
        after, runners = desertion(
            _follower(side, f"after {number}"),
            runners=_runners(side, number),
            deserted=_deserted(side, number, sizes.deserted),
            after=AFTER,
            seconds=sizes.before_cancel,
        )
        pairs = list(zip(runners, undisturbed, strict=True))
        return {
            "extra_ms": 1000 * (after.whole - alone.whole),
            "lost_tokens": float(sum(STREAM - len(runner.tokens) for runner in runners)),
            "changed_texts": float(sum(runner.text != other.text for runner, other in pairs)),
        }

    with pair(Shape(bench.model, 1, 4096, bench.threads), bench.program, bench.env) as sides:
        warm_up(sides.values())
        single = alternate("cancel, one slot", sizes.rounds, sides, one_slot, pids(sides))
    shape = Shape(bench.model, RUNNERS + 1, (RUNNERS + 1) * 4096, bench.threads)
    with pair(shape, bench.program, bench.env) as sides:
        warm_up(sides.values())
        beside = alternate("cancel, beside streams", sizes.rounds, sides, beside_streams, pids(sides))
    unit = "ms beyond its own time alone"
    rows = [
        single.plain_row("cancel_one_slot", "extra_ms", unit, SOON),
        beside.plain_row("cancel_beside_streams", "extra_ms", unit, SOON),
        _lost(beside),
    ]
    single.others += beside.others
    return rows, single


def _lost(samples: Samples) -> Row:
    """Tokens that any stream lost in all rounds together: one is too many, so the median will not do."""
    lost = {side: sum(figures["lost_tokens"]) for side, figures in samples.figures.items()}
    changed = {side: sum(figures["changed_texts"]) for side, figures in samples.figures.items()}
    notes = {"texts_unlike_undisturbed": changed}
    return Row("cancel_lost_tokens", "tokens", spread([lost[OURS]]), NONE, lost, "tokens", notes)


def _follower(side: Side, name: str) -> Call:
    return call(side.port, words(f"follower {name}", PROMPT), 1)


def _deserted(side: Side, number: int, length: int) -> Call:
    """Long enough that its client leaves before it is evaluated."""
    return call(side.port, words(f"deserted {number}", length), 1)


def _runners(side: Side, number: int) -> list[Call]:
    """The same both times; nothing is reused, so that both are computed alike."""
    names = [f"runner {number} {i}" for i in range(RUNNERS)]
    return [call(side.port, words(name, PROMPT), STREAM, cache_prompt=False, return_tokens=True) for name in names]
