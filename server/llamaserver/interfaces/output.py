"""The events of one request, in their order.

The engine thread makes these values. The event loop gives them to the handler of the request.
A completion is zero or more `Delta`, then exactly one `Finish` or one `Failed`.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TokenProb:
    """One candidate: its id, the bytes of its piece and its probability in 0..1."""

    id: int
    piece: bytes
    prob: float


@dataclass(frozen=True, slots=True)
class TokenProbs:
    """The chosen token, and the `n_probs` most likely candidates for its place, the most likely first."""

    chosen: TokenProb
    top: tuple[TokenProb, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the evaluation of a prompt is. `processed` counts the reused tokens too. `ms` is the time so far."""

    total: int
    cached: int
    processed: int
    ms: float


@dataclass(slots=True)
class Delta:
    """New text since the last event. `tokens` are the ids that made it.

    `timings` are those so far, if they were asked for. `progress` comes without text, before the first token, and so
    does `scores`: the probabilities of the tokens of the prompt.
    """

    content: str
    tokens: list[int] = field(default_factory=list)
    probs: list[TokenProbs] = field(default_factory=list)
    timings: "Timings | None" = None
    progress: Progress | None = None
    scores: list[TokenProbs] = field(default_factory=list)

    @property
    def weight(self) -> int:
        """What it counts while its client has not read it: 1, and more with probabilities."""
        return 1 + sum(len(item.top) for item in self.probs) // 2


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds and token counts of one request.

    `prompt_n` tokens of the prompt were evaluated. `cache_n` tokens were reused from `cache_source`, which is
    slot, ram, disk or empty.
    """

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    cache_n: int
    cache_source: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a completion.

    `content` is text that no Delta has sent yet. `reason` is "eos", "limit" (also for n_predict 0) or "word".
    `n_prompt` counts the prompt's tokens after truncation. `n_cached` counts the reused tokens. `n_reasoning`
    counts the tokens of thoughts, which are among `n_decoded`. `truncated` says that the prompt was cut or the context
    was shifted. `has_new_line` says that the answer has the end of a line.
    """

    content: str
    reason: str
    stopping_word: str
    truncated: bool
    n_prompt: int
    n_cached: int
    n_decoded: int
    id_slot: int
    timings: Timings
    tokens: tuple[int, ...] = ()
    probs: tuple[TokenProbs, ...] = ()
    n_reasoning: int = 0
    has_new_line: bool = False


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer to an embedding request: float32 of shape (n_vectors, n_embd), not normalised."""

    vectors: npt.NDArray[np.float32]
    n_prompt: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without an answer."""

    error: Exception


Event = Delta | Finish | Embedded | Failed
