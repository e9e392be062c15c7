"""How often a key may be worked on: a token bucket for each key.

The generic cell rate algorithm (ITU-T I.371) keeps one number for a key: when its bucket is full again.
"""

from collections.abc import Callable, Hashable

_MANY = 4096  # keys; above it, full buckets are forgotten


class Pace:
    """`burst` runs of a key at once, then one each `interval` seconds."""

    def __init__(self, burst: int, interval: float, clock: Callable[[], float]) -> None:
        self._ahead = (burst - 1) * interval
        self._interval = interval
        self._clock = clock
        self._full: dict[Hashable, float] = {}

    def wait(self, key: Hashable) -> float:
        """Take a token and return 0, or the seconds until there is one."""
        now = self._clock()
        full = max(self._full.get(key, now), now)
        if full - now > self._ahead:
            return full - now - self._ahead
        if len(self._full) >= _MANY:
            self._full = {other: when for other, when in self._full.items() if when > now}
        self._full[key] = full + self._interval
        return 0.0
