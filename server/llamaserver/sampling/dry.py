"""DRY ("don't repeat yourself"): a penalty for continuing a repeated sequence. It grows with the sequence's length.

The formulas are those of llama.cpp's sampler. The object is the state of one request. Requests share the
breakers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..interfaces.backend import Vocab
from .chain import Candidates

_MOST_BYTES = 40  # of a breaker's text
_MOST_LENGTH = 256  # measured tokens of a match. Longer matches cost as much
_MOST_TAIL = 20  # tokens of a breaker after its first token
_MOST_COMPARED = 1 << 20  # tokens, for one new token: about 10 ms. Of more matches a shorter length is measured
_LOG_OF_LARGEST_FLOAT = 88.7228391

# first token -> the token sequences that complete a breaker after it
Breakers = dict[int, tuple[tuple[int, ...], ...]]
_WHOLE: tuple[tuple[int, ...], ...] = ((),)  # of a token that holds the breaker


def find_breakers(vocab: Vocab, text: str) -> Breakers:
    """All tokens that contain `text` or its beginning, with the tokens that complete it. Reads the whole vocabulary."""
    wanted = text.encode("utf-8", "replace")[:_MOST_BYTES]
    found: Breakers = {}
    if not wanted:
        return found
    for token in range(vocab.n_vocab):
        piece = vocab.special_piece(token)
        if wanted in piece:
            found[token] = _WHOLE
            continue
        at = piece.find(wanted[:1])
        while at >= 0:
            if wanted.startswith(piece[at:]):
                rest = wanted[len(piece) - at :].decode("utf-8", "replace")
                tail = tuple(vocab.tokenize(rest, add_special=False, parse_special=False)[:_MOST_TAIL])
                if tail not in found.get(token, ()):
                    found[token] = (*found.get(token, ()), tail)
            at = piece.find(wanted[:1], at + 1)
    return found


def merged(breakers: Iterable[Breakers]) -> Breakers:
    """All breakers in one table."""
    result: Breakers = {}
    for one in breakers:
        for token, rests in one.items():
            known = result.get(token, ())
            result[token] = (*known, *(rest for rest in rests if rest not in known)) if known else rests
    return result


@dataclass(frozen=True, slots=True)
class DryParams:
    """The values of one request. The penalty looks back over `last_n` tokens."""

    multiplier: float
    base: float
    allowed_length: int
    last_n: int


class Dry:
    """Finds earlier occurrences of the end of the text. Gives a penalty to the tokens that followed there."""

    def __init__(self, params: DryParams, breakers: Breakers) -> None:
        self._params = params
        self._breakers = breakers
        self._tokens: list[int] = []
        base = params.base
        self._most_exponent = int(_LOG_OF_LARGEST_FLOAT / math.log(base)) if base > 1.000001 else 0
        # A longer match costs no more than this one, so it is not measured.
        self._longest = min(max(params.allowed_length, 0) + self._most_exponent, _MOST_LENGTH)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens of the prompt."""
        self._tokens.extend(tokens[-self._params.last_n :])

    def add(self, token: int) -> None:
        """Add one token."""
        self._tokens.append(token)
        if len(self._tokens) > 2 * self._params.last_n + 1024:
            del self._tokens[: -self._params.last_n]

    def penalties(self) -> dict[int, float]:
        """Amounts to subtract from logits, by token id."""
        recent = self._tokens[-self._params.last_n :]
        allowed = self._params.allowed_length
        if len(recent) <= allowed:
            return {}
        limit = self._limit(recent)
        if limit < allowed:
            return {}
        prices: dict[int, float] = {}
        for token, length in self._repeats(recent, limit).items():
            if length >= allowed and () not in self._breakers.get(token, ()):
                exponent = length - allowed
                if self._most_exponent:
                    exponent = min(exponent, self._most_exponent)
                prices[token] = self._params.multiplier * self._params.base**exponent
        return prices

    def _limit(self, recent: list[int]) -> int:
        """Number of tokens since the last breaker. No match may reach across a breaker."""
        size = len(recent)
        if not self._breakers:
            return size
        for back in range(min(size, self._longest + _MOST_TAIL)):
            rests = self._breakers.get(recent[size - 1 - back])
            if rests is None:
                continue
            after = tuple(recent[size - back : size - back + _MOST_TAIL])
            lengths = [len(rest) for rest in rests if after[: len(rest)] == rest]
            if lengths:
                return back - max(lengths)
        return size

    def _repeats(self, recent: list[int], limit: int) -> dict[int, int]:
        """For each token that followed an earlier occurrence of the end: the length of the longest such match."""
        tokens = np.array(recent, np.intp)
        last = tokens.shape[0] - 1
        lengths = np.zeros(last, np.intp)
        ends = np.arange(last)
        compared = 0
        for length in range(min(limit, self._longest, last)):
            if compared >= _MOST_COMPARED:
                break
            ends = ends[ends >= length]
            compared += ends.shape[0]
            ends = ends[tokens[ends - length] == tokens[last - length]]
            if ends.shape[0] == 0:
                break
            lengths[ends] = length + 1
        followed = np.arange(last) if self._params.allowed_length <= 0 else np.flatnonzero(lengths)
        found, at = np.unique(tokens[followed + 1], return_inverse=True)
        longest = np.zeros(found.shape[0], np.intp)
        np.maximum.at(longest, at, lengths[followed])
        return dict(zip(found.tolist(), longest.tolist(), strict=True))

    def __call__(self, c: Candidates) -> Candidates:
        """The candidates after the penalties."""
        prices = self.penalties()
        if not prices:
            return c
        logits = c.logits.copy()
        for token, price in prices.items():
            if c.ids is not None:
                logits[c.ids == token] -= price
            elif 0 <= token < logits.shape[0]:
                logits[token] -= price
        return Candidates(c.ids, logits, False)
