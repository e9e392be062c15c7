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
    """For one choice of a completion. `top` is the number of alternatives for each token."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def prompt(self, text: str, first: bytes | None, scores: Sequence[TokenProbs]) -> dict[str, Any]:
        """The logprobs of the tokens of a prompt (`echo`). Call this before any other.

        `first` is the piece of the first token if nothing tells how likely that is, else None.
        """
        told = b"".join([first or b"", *(item.chosen.piece for item in scores)]).decode("utf-8", "replace")
        self._at = len(text) - len(told)  # some tokenizers put a blank before a text
        start = [self._offset(first)] if first is not None else []
        found = self(scores)
        if first is None:
            return found
        return {
            "tokens": [first.decode("utf-8", "replace"), *found["tokens"]],
            "token_logprobs": [None, *found["token_logprobs"]],
            "top_logprobs": [None, *found["top_logprobs"]] if self._top else None,
            "text_offset": start + found["text_offset"],
        }

    def __call__(self, items: Sequence[TokenProbs]) -> dict[str, Any]:
        """The logprobs of the next tokens. The alternatives include the chosen token, as in OpenAI's answers."""
        return {
            "tokens": [_text(item.chosen) for item in items],
            "token_logprobs": [logprob(item.chosen.prob) for item in items],
            "top_logprobs": [self._alternatives(item) for item in items] if self._top else None,
            "text_offset": [self._offset(item.chosen.piece) for item in items],
        }

    def _alternatives(self, item: TokenProbs) -> dict[str, float]:
        return {_text(prob): logprob(prob.prob) for prob in (item.chosen, *reversed(item.top[: self._top]))}

    def _offset(self, piece: bytes) -> int:
        """The place of a token in the text. A token inside a character has the place of that character."""
        at = max(0, self._at)
        self._at += len(self._decoder.decode(piece))
        return at


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The logprobs of a completion: those of the prompt, and then those of the answer."""
    return {name: one[name] + other[name] if one[name] is not None else None for name in one}


def _text(prob: TokenProb) -> str:
    return prob.piece.decode("utf-8", "replace")
