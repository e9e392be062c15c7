"""The last step of sampling, which chooses one candidate. Also the bias, which changes a row of logits at first."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..interfaces.backend import FloatArray
from .chain import Candidates, NothingLeftError, Step, draw
from .mersenne import Twister
from .mirostat import Mirostat


class Picker(Protocol):
    """Chooses one candidate of a set."""

    enough: int  # number of the most likely candidates that it needs at most, 0: all

    def choose(self, c: Candidates) -> tuple[Candidates, int]:
        """Return the remaining candidates and the place of the chosen one among them."""


class Greedy:
    """The most likely token. Of equal tokens, the one with the smaller id."""

    enough = 1

    def choose(self, c: Candidates) -> tuple[Candidates, int]:
        """Choose the largest logit."""
        if c.logits.shape[0] == 0:
            raise NothingLeftError
        place = int(c.logits.argmax())
        if not c.logits[place] > -math.inf:  # also catches NaN
            raise NothingLeftError
        return c, place


class Chain:
    """The requested samplers in order, then a random draw."""

    def __init__(self, steps: Sequence[Step], enough: int, random: Twister) -> None:
        self.enough = enough
        self._steps = tuple(steps)
        self._random = random

    def choose(self, c: Candidates) -> tuple[Candidates, int]:
        """Narrow and draw."""
        for step in self._steps:
            c = step(c)
        return c, draw(c, self._random)


class MirostatPicker:
    """Temperature, then mirostat."""

    enough = 0

    def __init__(self, first: Step, mirostat: Mirostat) -> None:
        self._first = first
        self._mirostat = mirostat

    def choose(self, c: Candidates) -> tuple[Candidates, int]:
        """Apply the temperature, then choose with mirostat."""
        return self._mirostat.choose(self._first(c))


class Bias:
    """Addends for some logits, and tokens that must never be chosen."""

    def __init__(self, addends: dict[int, float], banned: set[int]) -> None:
        self._ids = np.array(list(addends), np.intp)
        self._values = np.array(list(addends.values()), np.float32)
        self._banned = np.array(sorted(banned), np.intp)

    def apply(self, logits: FloatArray) -> None:
        """Change the row in place."""
        logits[self._ids] += self._values
        logits[self._banned] = -math.inf
