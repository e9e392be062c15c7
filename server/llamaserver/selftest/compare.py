"""Whether two CPU modules compute the same: the difference of their logits, and how much of it is rounding."""

import math
from dataclasses import dataclass

import numpy as np

from ..interfaces.backend import FloatArray

# Modules round differently. Where activations are quantized, a rounding that goes the other way is a whole
# step, which the layers above spread. Measured over the twelve modules that an AMD EPYC with AVX-512
# runs, against the plainest one, with SmolLM2-135M in six types (docs/explanation/verification.md): at most 0.039
# as a mean and 0.067 in the worst row, for F16 0.001 and 0.002. A row of which nothing is right has 1
# or more.
MEAN_LIMIT = 0.12
WORST_LIMIT = 0.35


@dataclass(frozen=True, slots=True)
class Difference:
    """Of logits of shape (rows, n_vocab).

    `largest` and `mean` are absolute. `relative` is the standard deviation of a row's differences over
    that of the reference's row, as a mean of all rows; `worst` is that of the worst row. `same_top`
    counts rows with the same likeliest token.
    """

    largest: float
    mean: float
    relative: float
    worst: float
    same_top: int
    rows: int

    @property
    def sound(self) -> bool:
        """Whether the difference is only rounding."""
        return self.relative <= MEAN_LIMIT and self.worst <= WORST_LIMIT


def finite(rows: FloatArray) -> bool:
    """Whether each row has a finite number. A model may forbid tokens with -inf."""
    return not np.isnan(rows).any() and bool(np.isfinite(rows.max(axis=1)).all())


def compare(reference: FloatArray, found: FloatArray) -> Difference:
    """Compare with the reference. Numbers that are not finite, and another shape, differ infinitely.

    Tokens that the model forbids (-inf in the reference) do not count. A constant that is added to a
    row changes no probability, so it counts in `largest` and `mean` only.
    """
    rows = len(reference)
    if reference.shape != found.shape:
        return Difference(math.inf, math.inf, math.inf, math.inf, 0, rows)
    allowed = np.isfinite(reference).all(axis=0)
    expected, computed = reference[:, allowed].astype(np.float64), found[:, allowed].astype(np.float64)
    if not expected.size or not np.isfinite(computed).all():
        return Difference(math.inf, math.inf, math.inf, math.inf, 0, rows)
    difference = computed - expected
    relative = difference.std(axis=1) / np.maximum(expected.std(axis=1), 1e-12)
    return Difference(
        largest=float(np.abs(difference).max()),
        mean=float(np.abs(difference).mean()),
        relative=float(relative.mean()),
        worst=float(relative.max()),
        same_top=int((expected.argmax(axis=1) == computed.argmax(axis=1)).sum()),
        rows=rows,
    )
