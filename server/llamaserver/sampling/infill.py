"""The sampler for filling in the middle: it prefers the end of the text to text that the model is not sure of.

The algorithm is that of llama.cpp's sampler of the same name (`llama_sampler_infill_apply`), except that it compares
the pieces of few candidates only: the time grows with the square of their number.
"""

import numpy as np
import numpy.typing as npt

from ..interfaces.backend import Vocab
from .chain import Candidates, Floats, cut, probabilities, rank, take

_MOST = 128  # candidates whose pieces are compared. The share of all others is below the threshold
_SURE = 0.2  # smallest share of a text token
_END_WEIGHT = 3


class Infill:
    """A step of the chain. `restricted`: a grammar decides which tokens may come, so none is added."""

    def __init__(self, vocab: Vocab, *, restricted: bool) -> None:
        self._vocab = vocab
        self._ends = np.array(sorted(vocab.eog), np.intp)
        self._end = -1 if restricted else vocab.eot if vocab.eot >= 0 else vocab.eos

    def __call__(self, c: Candidates) -> Candidates:
        """Keep the ends of the text if they are likely together, else the text tokens that are likely enough."""
        c = rank(c)
        shares = probabilities(c)
        ends = np.isin(np.arange(len(shares)) if c.ids is None else c.ids, self._ends)
        end = float(shares[ends].sum())
        if _END_WEIGHT * end * len(shares) > float(shares[~ends].sum()):
            return take(c, ends.nonzero()[0], ranked=True)
        c, ends = cut(c, _MOST), ends[:_MOST]
        shares = self._joined(c, shares[:_MOST])
        ends &= shares > 0
        kept = (shares >= _SURE) | ends
        texts = int(np.count_nonzero(kept & ~ends))
        if not texts:
            return self._ended(c)
        shares /= shares[kept].sum()
        kept &= (shares >= 1 / (texts + 1)) | ends
        return take(c, kept.nonzero()[0], ranked=True)

    def _joined(self, c: Candidates, shares: Floats) -> npt.NDArray[np.float64]:
        """The shares, with that of a token added to the likelier one whose piece begins like its own, or the reverse.

        The token that has lost its share has 0.
        """
        pieces = [self._vocab.piece(token) for token in (range(len(shares)) if c.ids is None else c.ids.tolist())]
        joined: list[float] = shares.tolist()
        for one, piece in enumerate(pieces):
            if not piece:
                continue
            for other, longer in enumerate(pieces):
                if not joined[one]:
                    break
                if one == other or not joined[other] or not longer.startswith(piece):
                    continue
                source, target = (one, other) if joined[other] > joined[one] else (other, one)
                joined[target] += joined[source]
                joined[source] = 0.0
        return np.array(joined)

    def _ended(self, c: Candidates) -> Candidates:
        """The end of the text alone, or the likeliest candidate where it may not be added."""
        return cut(c, 1) if self._end < 0 else Candidates(np.array([self._end], np.intp), np.ones(1), True)
