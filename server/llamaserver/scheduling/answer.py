"""The answer to one request while it is generated."""

from dataclasses import dataclass, field

from ..interfaces.output import Delta, Timings, TokenProbs
from .lines import Lines
from .text_stream import TextStream

_EXTRA_FOR_CHARACTER = 8  # tokens that may follow n_predict to complete a multi-byte character


@dataclass(slots=True)
class Answer:
    """Tokens, text and times of one answer. Only the engine's core changes it. Times are seconds of one clock."""

    text: TextStream
    lines: Lines = field(default_factory=Lines)
    token: int = -1  # the last sampled token, which is not in the cache yet
    n_decoded: int = 0
    pending_tokens: list[int] = field(default_factory=list)  # have not become text yet
    pending_probs: list[TokenProbs] = field(default_factory=list)
    n_scored: int = 0  # tokens of the prompt that have their scores
    pending_scores: list[TokenProbs] = field(default_factory=list)
    arrived: float = 0.0
    started: float = 0.0  # of prefill, 0: not yet
    first_token: float = 0.0
    last_token: float = 0.0
    reason: str = ""

    def take(self, text: str, n_predict: int, max_predict_ms: float, now: float) -> tuple[str, str]:
        """The part of new text that belongs to the answer, and why it ends with it: "word", "limit" or ""."""
        line_ends, cut = "\n" in text, self.lines.read(text)
        if cut is not None:
            self.text.discard()
            return text[:cut], "limit"
        if self.text.stopping_word:
            return text, "word"
        if 0 <= n_predict <= self.n_decoded and not (
            self.text.mid_character and self.n_decoded < n_predict + _EXTRA_FOR_CHARACTER
        ):
            return text, "limit"
        late = line_ends and max_predict_ms and (now - self.first_token) * 1000 > max_predict_ms
        return text, "limit" if late else ""

    def delta(self, text: str, timings: Timings | None) -> Delta:
        """An event with `text` and the tokens that made it."""
        delta = Delta(text, self.pending_tokens, self.pending_probs, timings)
        self.pending_tokens, self.pending_probs = [], []
        return delta
