"""Mirostat 1 and 2: choose a token so that the surprise of the text stays near a target.

The formulas are those of llama.cpp's samplers. The object is the state of one request.
"""

import math

import numpy as np

from .chain import Candidates, NothingLeftError, best, probabilities, take, weights
from .mersenne import Twister

_ESTIMATE_FROM = 100  # number of most likely candidates for the estimate of the distribution's shape


class Mirostat:
    """The common state: `mu` is the largest surprise (bits) of the candidates that are kept."""

    def __init__(self, target: float, rate: float, random: Twister) -> None:
        self.mu = 2.0 * target
        self._target = target
        self._rate = rate
        self._random = random

    def narrow(self, c: Candidates) -> Candidates:
        """The candidates that are kept."""
        raise NotImplementedError

    def choose(self, c: Candidates) -> tuple[Candidates, int]:
        """Narrow, draw, and adapt `mu`. Returns the kept candidates and the place of the chosen one."""
        kept = self.narrow(c)
        shares = probabilities(kept)
        place = 0
        if shares.shape[0] > 1:
            place = min(int(shares.cumsum().searchsorted(self._random.double())), shares.shape[0] - 1)
        surprise = -math.log2(max(float(shares[place]), 1e-45))
        self.mu -= self._rate * (surprise - self._target)
        return kept, place


class MirostatOne(Mirostat):
    """Keeps the k most likely candidates. An estimate of the Zipf exponent gives k."""

    def __init__(self, target: float, rate: float, random: Twister, n_vocab: int) -> None:
        super().__init__(target, rate, random)
        self._n_vocab = n_vocab

    def narrow(self, c: Candidates) -> Candidates:
        """The k most likely candidates."""
        head = take(c, best(c.logits, _ESTIMATE_FROM), ranked=True)
        if head.logits.shape[0] == 0 or not math.isfinite(head.logits[0]):
            raise NothingLeftError
        k = self._count(head)
        if k <= head.logits.shape[0]:
            return take(head, slice(0, k), ranked=True)
        # Drawing does not depend on the order, and sorting so many candidates takes long.
        size = c.logits.shape[0]
        return take(c, np.argpartition(c.logits, size - k)[size - k :], ranked=False) if k < size else c

    def _count(self, head: Candidates) -> int:
        n = head.logits.shape[0]
        if n < 2:
            return 1
        places = np.arange(1, n, dtype=np.float64)
        steps = np.log((places + 1) / places)
        drops = head.logits[:-1] - head.logits[1:]
        slope = float((steps * drops).sum() / (steps * steps).sum())
        excess = slope - 1.0
        try:
            mass = excess * 2.0**self.mu / (1.0 - self._n_vocab**-excess)
            k = mass ** (1.0 / slope)
        except (ZeroDivisionError, OverflowError):
            return self._n_vocab
        if isinstance(k, complex) or math.isnan(k):
            return 1
        return max(1, int(min(k, self._n_vocab)))


class MirostatTwo(Mirostat):
    """Keeps the candidates whose own surprise is at most mu."""

    def narrow(self, c: Candidates) -> Candidates:
        """The candidates with probability >= 2^-mu, at least one."""
        w = weights(c)
        # mu may drift far from the target. Beyond these bounds, the result is the same: all candidates or one.
        bound = float(w.sum(dtype=np.float64)) * 2.0 ** -min(max(self.mu, 0.0), 1000.0)
        places = (w >= bound).nonzero()[0]
        if places.shape[0] == 0:
            places = best(c.logits, 1)
        return take(c, places, ranked=False)
