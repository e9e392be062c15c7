"""The parts of an answer that all dialects share: joined text, probabilities and timings."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..interfaces.output import Delta, Event, Finish, Timings, TokenProb, TokenProbs

_BYTES_OF_TOKEN = 8  # as JSON
_BYTES_OF_PROB = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """All events of one completion, joined."""

    content: str
    tokens: list[int]
    probs: list[TokenProbs]
    finish: Finish
    scores: list[TokenProbs] = field(default_factory=list)  # of the prompt


def join(events: Sequence[Event]) -> Answer:
    """Join Deltas and their Finish."""
    finish = events[-1]
    assert isinstance(finish, Finish)
    before = join_deltas(events[:-1])
    return Answer(
        content=before.content + finish.content,
        tokens=[*before.tokens, *finish.tokens],
        probs=[*before.probs, *finish.probs],
        finish=finish,
        scores=before.scores,
    )


def join_deltas(events: Sequence[Event]) -> Delta:
    """One Delta for several."""
    deltas = [event for event in events if isinstance(event, Delta)]
    return Delta(
        content="".join(delta.content for delta in deltas),
        tokens=[token for delta in deltas for token in delta.tokens],
        probs=[probs for delta in deltas for probs in delta.probs],
        scores=[score for delta in deltas for score in delta.scores],
    )


def size_of(answers: Sequence[Answer]) -> int:
    """About how many bytes the texts and the probabilities take as JSON."""
    return sum(
        len(answer.content)
        + _BYTES_OF_TOKEN * len(answer.tokens)
        + sum(map(_size_of_probs, (*answer.scores, *answer.probs)))
        for answer in answers
    )


def _size_of_probs(item: TokenProbs) -> int:
    return _BYTES_OF_PROB * (1 + len(item.top))


def timings_json(timings: Timings) -> dict[str, Any]:
    """`timings`. A rate is 0 where no time was measured."""
    return {
        "cache_n": timings.cache_n,
        "cache_source": timings.cache_source,
        "prompt_n": timings.prompt_n,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_token_ms": _ratio(timings.prompt_ms, timings.prompt_n),
        "prompt_per_second": _ratio(timings.prompt_n * 1000, timings.prompt_ms),
        "predicted_n": timings.predicted_n,
        "predicted_ms": timings.predicted_ms,
        "predicted_per_token_ms": _ratio(timings.predicted_ms, timings.predicted_n),
        "predicted_per_second": _ratio(timings.predicted_n * 1000, timings.predicted_ms),
    }


def stream_json(delta: Delta) -> dict[str, Any]:
    """What an event of a stream has beside its text, in all dialects: `timings` and `prompt_progress`."""
    value: dict[str, Any] = {}
    if delta.timings is not None:
        value["timings"] = timings_json(delta.timings)
    if (progress := delta.progress) is not None:
        value["prompt_progress"] = {
            "total": progress.total,
            "cache": progress.cached,
            "processed": progress.processed,
            "time_ms": progress.ms,
        }
    return value


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0


def probabilities_json(items: Iterable[TokenProbs]) -> list[orjson.Fragment]:
    """`completion_probabilities`, each item in the document's shape and in today's.

    Each item is encoded at once: as JSON it takes a tenth of the memory.
    """
    return [orjson.Fragment(orjson.dumps(_one_token(item))) for item in items]


def _one_token(item: TokenProbs) -> dict[str, Any]:
    return {
        "content": token_text(item.chosen.piece),
        "probs": [{"tok_str": token_text(prob.piece), "prob": prob.prob} for prob in item.top],
        **logprob_json(item.chosen),
        "top_logprobs": [logprob_json(prob) for prob in item.top],
    }


def logprob_json(prob: TokenProb) -> dict[str, Any]:
    """id, token, bytes and logprob of one candidate."""
    return {
        "id": prob.id,
        "token": prob.piece.decode("utf-8", "replace"),
        "bytes": list(prob.piece),
        "logprob": logprob(prob.prob),
    }


def logprob(prob: float) -> float:
    """Natural logarithm of a probability. Zero has none, so it becomes -9999, which all clients can parse."""
    return math.log(prob) if prob > 0 else -9999.0


def token_text(piece: bytes) -> str:
    r"""The piece as text. A part of a character becomes `byte: \xNN`, as in the server of April 2024."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "byte: " + "".join(f"\\x{byte:02x}" for byte in piece)
