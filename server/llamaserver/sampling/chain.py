"""Samplers that narrow or change a set of candidates: plain functions of numbers.

The formulas are those of llama.cpp's samplers of the same names. Tail-free sampling is that of the version of
April 2024. Each step takes candidates and returns candidates. This module knows nothing of a vocabulary, a
request or the generated text.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .mersenne import Twister

Ids = npt.NDArray[np.intp]
Floats = npt.NDArray[Any]  # float32 for a whole vocabulary, float64 for a narrowed set

COLDEST = 1e-20  # at or below this temperature the best token is chosen, because a division would overflow
_WIDTH = 1024  # columns of the block maxima
_NARROW = 4096  # with this many candidates or fewer, float64 and full sorts are cheap
_NUCLEUS = 256  # first guess of the number of candidates that have the mass top_p


class Candidates(NamedTuple):
    """Token ids with their logits. `ids` is None for the whole vocabulary in order.

    `ranked` says that the logits descend.
    """

    ids: Ids | None
    logits: Floats
    ranked: bool


Step = Callable[[Candidates], Candidates]


class NothingLeftError(Exception):
    """The logits allow no choice: all are -inf, or NaN is among them."""


def best(logits: Floats, k: int) -> Ids:
    """Indices of the `k` largest logits, the largest first, ties by index. Fewer if the logits contain -inf or NaN."""
    size = logits.shape[0]
    if k < _WIDTH // 2 and size >= 8 * _WIDTH:
        found = _above(logits, _bound(logits, k))
    elif k < size:
        found = _above(logits, float(np.partition(logits, size - k)[size - k]))
    else:
        found = _above(logits, -math.inf)
    ranked: Ids = found[(-logits[found]).argsort(kind="stable")[:k]]
    return ranked


def _bound(logits: Floats, k: int) -> float:
    """A lower bound for the k-th largest logit: the k-th largest of 1024 column maxima."""
    rows = logits.shape[0] // _WIDTH
    columns = np.maximum.reduce(logits[: rows * _WIDTH].reshape(rows, _WIDTH), axis=0)
    columns.partition(_WIDTH - k)
    return float(columns[_WIDTH - k])


def _above(logits: Floats, bound: float) -> Ids:
    mask: npt.NDArray[np.bool_] = logits >= bound if bound > -math.inf else logits > bound
    found: Ids = mask.nonzero()[0]
    return found


def take(c: Candidates, order: Any, *, ranked: bool) -> Candidates:
    """The candidates at these places, in float64 if they are few."""
    ids = order if c.ids is None else c.ids[order]
    logits = c.logits[order]
    if logits.dtype != np.float64 and logits.shape[0] <= _NARROW:
        logits = logits.astype(np.float64)
    return Candidates(ids, logits, ranked)


def rank(c: Candidates) -> Candidates:
    """Sort by descending logit and drop the candidates with probability 0."""
    return c if c.ranked else take(c, best(c.logits, c.logits.shape[0]), ranked=True)


def cut(c: Candidates, count: int) -> Candidates:
    """The first `count` of the ranked candidates."""
    if count >= c.logits.shape[0]:
        return c
    return Candidates(None if c.ids is None else c.ids[:count], c.logits[:count], True)


def weights(c: Candidates) -> Floats:
    """exp(logit - largest logit): the probabilities before the division by their sum."""
    if c.logits.shape[0] == 0:
        raise NothingLeftError
    highest = c.logits[0] if c.ranked else c.logits.max()
    if not math.isfinite(highest):
        raise NothingLeftError
    w: Floats = np.exp(c.logits - highest)
    return w


def probabilities(c: Candidates) -> npt.NDArray[np.float64]:
    """Softmax of the candidates."""
    w = weights(c)
    result: npt.NDArray[np.float64] = w / w.sum(dtype=np.float64)
    return result


def running(w: Floats) -> npt.NDArray[np.float64]:
    """Cumulative sums in double precision."""
    if w.dtype == np.float64:
        return np.add.accumulate(w)
    sums: npt.NDArray[np.float64] = w.cumsum(dtype=np.float64)
    return sums


def top_k(k: int) -> Step:
    """Keep the k largest logits."""

    def step(c: Candidates) -> Candidates:
        return cut(c, k) if c.ranked else take(c, best(c.logits, k), ranked=True)

    return step


def top_p(p: float, min_keep: int) -> Step:
    """Keep the smallest set of most likely candidates whose probabilities reach p."""

    def step(c: Candidates) -> Candidates:
        w = weights(c)
        if c.ranked:
            sums = running(w)
            return cut(c, max(int(sums.searchsorted(p * sums[-1])) + 1, min_keep))
        mass = p * float(w.sum(dtype=np.float64))
        return take(c, _leading(c.logits, w, mass, min_keep, "left"), ranked=True)

    return step


def _leading(keys: Floats, w: Floats, mass: float, min_keep: int, side: Literal["left", "right"]) -> Ids:
    """The places with the largest keys. Their total weight reaches (left) or exceeds (right) `mass`."""
    guess = max(_NUCLEUS, min_keep)
    while True:
        order = best(keys, guess)
        count = max(int(running(w[order]).searchsorted(mass, side)) + 1, min_keep)
        if count <= order.shape[0] or order.shape[0] < guess:
            return order[:count]
        guess *= 8


def min_p(p: float, min_keep: int) -> Step:
    """Keep candidates with at least p times the probability of the most likely one."""
    distance = math.log(p)

    def step(c: Candidates) -> Candidates:
        if c.logits.shape[0] == 0:
            raise NothingLeftError
        if c.ranked:
            kept = int(np.count_nonzero(c.logits >= c.logits[0] + distance))
            return cut(c, max(kept, min_keep, 1))
        mask = c.logits >= c.logits.max() + distance
        if np.count_nonzero(mask) >= min_keep:
            return take(c, mask.nonzero()[0], ranked=False)
        return take(c, best(c.logits, min_keep), ranked=True)

    return step


def tfs_z(z: float, min_keep: int) -> Step:
    """Cut the tail where the cumulative second derivative of the sorted probabilities exceeds the share z."""

    def step(c: Candidates) -> Candidates:
        if c.logits.shape[0] <= 2:
            return c
        c = rank(c)
        if c.logits.shape[0] <= 2:
            return c
        curvature = np.abs(np.diff(probabilities(c), 2))
        total = curvature.sum()
        if total > 1e-6:
            curvature /= total
        else:
            curvature[:] = 1.0 / curvature.shape[0]
        count = max(int(curvature.cumsum().searchsorted(z, side="right")), min_keep)
        return cut(c, count) if count < curvature.shape[0] else c

    return step


def typical_p(p: float, min_keep: int) -> Step:
    """Keep the candidates whose surprise is closest to the entropy, up to the mass p."""

    def step(c: Candidates) -> Candidates:
        shares = probabilities(c)
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(shares)
            entropy = float(np.nansum(shares * surprise))
        oddness = np.abs(surprise - entropy)
        return take(c, _leading(-oddness, shares, p, min_keep, "right"), ranked=False)

    return step


def temperature(value: float) -> Step:
    """Divide the logits by a value larger than COLDEST."""

    def step(c: Candidates) -> Candidates:
        return Candidates(c.ids, c.logits / value, c.ranked)

    return step


def dynamic_temperature(value: float, spread: float, exponent: float) -> Step:
    """Divide the logits by a temperature in value ± spread. It grows with the entropy of the probabilities."""
    lowest, highest = max(0.0, value - spread), value + spread

    def step(c: Candidates) -> Candidates:
        size = c.logits.shape[0]
        if size <= 1:
            return c
        c = rank(c)
        shares = probabilities(c)
        shares = shares[shares > 0]
        entropy = max(float(-(shares * np.log(shares)).sum()), 0.0)
        result = lowest + (highest - lowest) * (entropy / math.log(size)) ** exponent
        return temperature(result)(c) if result > COLDEST else cut(c, 1)

    return step


def top_n_sigma(n: float) -> Step:
    """Keep candidates within n standard deviations of the largest logit."""

    def step(c: Candidates) -> Candidates:
        if c.logits.shape[0] <= 1:
            return c
        finite = c.logits[c.logits > -math.inf]
        highest = finite.max(initial=-math.inf)
        if not math.isfinite(highest):
            raise NothingLeftError
        bound = highest - n * finite.std(dtype=np.float64)
        return take(c, (c.logits >= bound).nonzero()[0], ranked=c.ranked)

    return step


def xtc(probability: float, threshold: float, min_keep: int, seed: int) -> Step:
    """With the given probability, drop all candidates that reach the threshold, except the least likely of them."""
    random = Twister(seed)

    def step(c: Candidates) -> Candidates:
        size = c.logits.shape[0]
        if size < 2 or random.single() > probability:
            return c
        c = rank(c)
        over = int(np.count_nonzero(probabilities(c) >= threshold))
        first = max(over - 1, 0)
        if first == 0 or c.logits.shape[0] - first < min_keep:
            return c
        return Candidates(None if c.ids is None else c.ids[first:], c.logits[first:], True)

    return step


def draw(c: Candidates, random: Twister) -> int:
    """Draw one candidate by its probability and return its place."""
    number = random.double()
    sums = running(weights(c))
    total = float(sums[-1])
    if not math.isfinite(total):
        raise NothingLeftError
    last: int = sums.shape[0] - 1
    return min(int(sums.searchsorted(total * number)), last)


def token_at(c: Candidates, place: int) -> int:
    """The token id at a place."""
    return place if c.ids is None else int(c.ids[place])
