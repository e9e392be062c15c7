"""How long something has stood still, as an observer sees it that looks again and again.

The observer counts only time in which it ran itself. So a process that was suspended, or that had no CPU, does not find
afterwards that everything else stood still.
"""

from collections.abc import Callable

TICK = 1.0  # seconds between two looks


class Standstill:
    """Measures for how long the same thing has been seen. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._what: object = None
        self._looked = clock()
        self.seconds = 0.0

    def look(self, what: object) -> float:
        """See `what` now, None for nothing. Returns the seconds for which this very object has been seen."""
        now = self._clock()
        passed = min(now - self._looked, 2 * TICK)
        self._looked = now
        self.seconds = self.seconds + passed if what is not None and what is self._what else 0.0
        self._what = what
        return self.seconds
