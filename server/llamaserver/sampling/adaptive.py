"""Adaptive-p: choose tokens whose probability is near a target, on the average of the text.

The formulas are those of llama.cpp's sampler `adaptive-p`. The object is the state of one request.
"""

from collections.abc import Sequence

import numpy as np

from .chain import Candidates, Step, draw, probabilities
from .mersenne import Twister

_WIDTH = 0.3  # of the probabilities around the target
_PEAK = 5.0  # the logit at the target
_SHARPNESS = 10.0


class Adaptive:
    """The requested samplers in order, then a draw that prefers probabilities near `target`.

    `decay` says how fast earlier tokens lose their weight. A negative target is off.
    """

    def __init__(self, steps: Sequence[Step], enough: int, random: Twister, *, target: float, decay: float) -> None:
        self.enough = enough
        self._steps = tuple(steps)
        self._random = random
        self._target = target
        self._decay = decay
        self._weight = 1 / (1 - decay)
        self._sum = target * self._weight  # of the chosen tokens' probabilities by their weights

    def choose(self, c: Candidates) -> tuple[Candidates, int]:
        """Narrow and draw."""
        for step in self._steps:
            c = step(c)
        if self._target < 0:
            return c, draw(c, self._random)
        shares = probabilities(c)
        aim = min(max(2 * self._target - self._sum / self._weight, 0.0), 1.0)
        distance = np.abs(shares - aim) / _WIDTH
        logits = np.where(shares > 0, _PEAK - _SHARPNESS * distance**2 / (1 + distance), -np.inf)
        moved = Candidates(c.ids, logits, False)
        place = draw(moved, self._random)
        self._sum = float(shares[place]) + self._decay * self._sum
        self._weight = 1 + self._decay * self._weight
        return moved, place
