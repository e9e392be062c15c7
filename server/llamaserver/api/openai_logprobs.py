"""`logprobs` in OpenAI's answers: one shape for chats, an older one for completions."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from ..interfaces.output import TokenProb, TokenProbs
from .answer import logprob

Logprobs = Callable[[Sequence[TokenProbs]], dict[str, Any]]


class ChatLogprobs:
    """Of one choice of a chat. `top`: alternatives to tell at each place, none for 0."""

    def __init__(self, top: int) -> None:
        self._top = top

    def __call__(self, items: Sequence[TokenProbs]) -> dict[str, Any]:
        """The next tokens; refusals are no kind of their own here."""
        content = [
            {**_one(item.chosen), "top_logprobs": [_one(top) for top in item.top[: self._top]]} for item in items
        ]
        return {"content": content, "refusal": None}


def _one(prob: TokenProb) -> dict[str, Any]:
    return {"token": _text(prob), "logprob": logprob(prob.prob), "bytes": list(prob.piece)}


class TextLogprobs:
    """Of one choice of a completion. `before`: characters of its text that come before the first token (`echo`)."""

    def __init__(self, top: int, before: int) -> None:
        self._top = top
        self._at = before
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, items: Sequence[TokenProbs]) -> dict[str, Any]:
        """The next tokens. As in OpenAI's answers the chosen token is among the alternatives; null for none."""
        return {
            "tokens": [_text(item.chosen) for item in items],
            "token_logprobs": [logprob(item.chosen.prob) for item in items],
            "top_logprobs": [self._alternatives(item) for item in items] if self._top else None,
            "text_offset": [self._offset(item) for item in items],
        }

    def _alternatives(self, item: TokenProbs) -> dict[str, float]:
        return {_text(prob): logprob(prob.prob) for prob in (item.chosen, *reversed(item.top[: self._top]))}

    def _offset(self, item: TokenProbs) -> int:
        """Where a token begins; one that goes on with a character, where that does."""
        at = self._at
        self._at += len(self._decoder.decode(item.chosen.piece))
        return at


def _text(prob: TokenProb) -> str:
    return prob.piece.decode("utf-8", "replace")
