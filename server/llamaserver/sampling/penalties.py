"""Penalties for tokens that are in the text already. A window covers prompt and answer. Changes a row of logits.

The formulas are those of llama.cpp's penalties sampler. The object is the state of one request.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class Penalties:
    """A ring of the last `last_n` tokens, and their penalties."""

    def __init__(self, n_vocab: int, last_n: int, repeat: float, frequency: float, presence: float) -> None:
        self._n_vocab = n_vocab
        self._repeat = repeat
        self._frequency = frequency
        self._presence = presence
        self._side = np.minimum if repeat > 1.0 else np.maximum
        self._ring = np.zeros(last_n, np.intp)
        self._filled = 0
        self._at = 0
        # Only the frequency penalty needs the number of occurrences. The other penalties apply once to each token.
        self._counts = np.zeros(n_vocab, np.float32) if frequency else None

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens of the prompt."""
        for token in tokens[-self._ring.shape[0] :]:
            self.add(token)

    def add(self, token: int) -> None:
        """Add one token. If the window is full, the oldest token leaves it."""
        if not 0 <= token < self._n_vocab:
            return
        ring, at = self._ring, self._at
        if self._counts is not None:
            if self._filled == ring.shape[0]:
                self._counts[ring[at]] -= 1
            self._counts[token] += 1
        ring[at] = token
        self._at = at + 1 if at + 1 < ring.shape[0] else 0
        if self._filled < ring.shape[0]:
            self._filled += 1

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Lower the logits of the window's tokens, in place."""
        if not self._filled:
            return
        seen = self._ring[: self._filled]
        values = logits[seen]
        if self._repeat != 1.0:
            # A positive logit is divided, a negative one is multiplied. That is always the smaller of both results,
            # or always the larger one.
            values = self._side(values / self._repeat, values * self._repeat)
        if self._counts is not None:
            values -= self._counts[seen] * self._frequency
        if self._presence:
            values -= self._presence
        logits[seen] = values
