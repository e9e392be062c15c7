"""The texts beside images. Our tokenizer takes linear time and can be cancelled, that of the library cannot.

So the library gets a few copies of one token in place of a text, and its answer gets the tokens of the text there.
The library can align an image to a multiple of 4 tokens, so the copies are as many as the tokens, modulo 4.
"""

from collections import deque
from collections.abc import Callable, Sequence

from .vocab import LlamaVocab

_ALIGNED = 4
_MOST_COPIES = 2 * _ALIGNED


class TextParts:
    """The texts of one prompt."""

    def __init__(self, vocab: LlamaVocab, stand_in: int, cancelled: Callable[[], bool]) -> None:
        self._vocab = vocab
        self._stand_in = stand_in
        self._cancelled = cancelled
        self._waiting: deque[tuple[list[int], int]] = deque()  # tokens, and how many copies stand for them

    def shortened(self, text: str) -> str:
        """The text for the library. Raises CancelledError."""
        if self._stand_in < 0:
            return text
        tokens = self._vocab.tokenize(text, add_special=False, parse_special=True, cancelled=self._cancelled)
        copies = _ALIGNED + len(tokens) % _ALIGNED if tokens else 0
        if copies:
            self._waiting.append((tokens, copies))
        return _text(self._vocab, self._stand_in) * copies

    def completed(self, tokens: Sequence[int]) -> list[int]:
        """The library's tokens between two images with those of the texts."""
        whole: list[int] = []
        at = 0
        while at < len(tokens):
            if tokens[at] == self._stand_in and self._waiting:
                text, copies = self._waiting.popleft()
                whole += text
                at += copies
            else:
                whole.append(tokens[at])
                at += 1
        return whole


def stand_in(vocab: LlamaVocab) -> int:
    """A token whose copies the library finds in a text, and writes around no image: one that ends answers.

    -1 if the vocabulary has none.
    """
    for token in sorted(vocab.eog - {vocab.bos}):
        text = _text(vocab, token) * _MOST_COPIES
        if vocab.tokenize(text, add_special=False, parse_special=True) == [token] * _MOST_COPIES:
            return token
    return -1


def _text(vocab: LlamaVocab, token: int) -> str:
    return vocab.special_piece(token).decode("utf-8", "replace")
