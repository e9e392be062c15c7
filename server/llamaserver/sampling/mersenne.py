"""The random numbers of one request, from the Mersenne Twister. They are drawn as llama.cpp's samplers draw them.

The same seed gives the same numbers on every machine, whatever other requests run.
"""

import numpy as np

_BLOCK = 64  # raw numbers of one numpy call. The call costs more than the numbers


class Twister:
    """A stream of uniform numbers in [0, 1) from a 32-bit seed."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.RandomState(seed & 0xFFFFFFFF)
        self._raw: list[int] = []

    def _next(self) -> int:
        if not self._raw:
            block = self._source.randint(0, 2**32, size=_BLOCK, dtype=np.uint32)
            self._raw = block.tolist()
            self._raw.reverse()
        return self._raw.pop()

    def double(self) -> float:
        """A number in double precision. Takes two raw numbers, the low half first."""
        low = self._next()
        return min((low + self._next() * 2.0**32) * 2.0**-64, 1.0 - 2.0**-53)

    def single(self) -> float:
        """A number in single precision. Takes one raw number."""
        return min(float(np.float32(self._next())) * 2.0**-32, 1.0 - 2.0**-24)
