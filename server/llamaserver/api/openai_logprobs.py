"""`logprobs` in OpenAI's answers. Chats and completions have different forms."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from ..interfaces.output import TokenProb, TokenProbs
from .answer import logprob

MAX_TOP_LOGPROBS = 20
Logprobs = Callable[[Sequence[TokenProbs]], dict[str, Any]]


def probabilities(logprobs: int | None) -> dict[str, Any]:
    """The engine's own fields for `logprobs`. The chosen token's probability comes with any number."""
    return {} if logprobs is None else {"n_probs": max(logprobs, 1), "post_sampling_probs": False}


class ChatLogprobs:
    """For one choice of a chat. `top` is the number of alternatives for each token."""

    def __init__(self, top: int) -> None:
        self._top = top

    def __call__(self, items: Sequence[TokenProbs]) -> dict[str, Any]:
        """The logprobs of the next tokens. `refusal` is always null here."""
        return {"content": self.of(items), "refusal": None}

    def of(self, items: Sequence[TokenProbs]) -> list[dict[str, Any]]:
        """One object for each token."""
        return [{**_one(item.chosen), "top_logprobs": [_one(top) for top in item.top[: self._top]]} for item in items]


def _one(prob: TokenProb) -> dict[str, Any]:
    return {"token": _text(prob), "logprob": logprob(prob.prob), "bytes": list(prob.piece)}


class TextLogprobs:
    """For one choice of a completion. `before` is the number of characters before the first token (`echo`)."""

    def __init__(self, top: int, before: int) -> None:
        self._top = top
        self._at = before
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, items: Sequence[TokenProbs]) -> dict[str, Any]:
        """The logprobs of the next tokens. The alternatives include the chosen token, as in OpenAI's answers."""
        return {
            "tokens": [_text(item.chosen) for item in items],
            "token_logprobs": [logprob(item.chosen.prob) for item in items],
            "top_logprobs": [self._alternatives(item) for item in items] if self._top else None,
            "text_offset": [self._offset(item) for item in items],
        }

    def _alternatives(self, item: TokenProbs) -> dict[str, float]:
        return {_text(prob): logprob(prob.prob) for prob in (item.chosen, *reversed(item.top[: self._top]))}

    def _offset(self, item: TokenProbs) -> int:
        """The place of a token in the text. A token inside a character has the place of that character."""
        at = self._at
        self._at += len(self._decoder.decode(item.chosen.piece))
        return at


def _text(prob: TokenProb) -> str:
    return prob.piece.decode("utf-8", "replace")
