"""How long something has stood still, as an observer sees it that looks again and again from another thread."""

import logging
import sys
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
TICK = 1.0  # seconds between two looks


class Standstill:
    """Measures for how long the same thing has been seen. `clock` is in seconds.

    Only time in which the observer ran itself counts. So a process that was suspended, or that had no CPU, does not
    find afterwards that everything else stood still.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
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


class Alarm:
    """What a standstill means for the probes. Any thread may read `reason` and `dead`.

    `reason` says what hangs and since when, "" when nothing does. `dead` is True when only a new start helps. `place`
    gives the line of code for the log. `on_dead` is called once with the reason.
    """

    def __init__(
        self,
        place: Callable[[], str],
        on_dead: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reason = ""
        self.dead = False
        self._place = place
        self._on_dead = on_dead
        self._still = Standstill(clock)

    def look(self, what: object, name: str, unready: float, dead: float) -> None:
        """See `what`, which `name` describes. It may last `unready` seconds, and `dead` seconds at the very most."""
        before, seconds = self._still.seconds, self._still.look(what)
        if what is None or seconds < unready:
            if self.reason:
                _log.warning("it goes on after %d seconds: %s", before, self.reason)
            self.reason, self.dead = "", False
            return
        if not self.reason:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))
            self.reason = f"{name} hangs since {since}"
            _log.error("%s, longer than %d seconds: unready. It is at %s", self.reason, unready, self._place())
        if seconds >= dead and not self.dead:
            self.dead = True
            _log.error("%s, for %d seconds now: not alive", self.reason, seconds)
            self._on_dead(self.reason)


def place_of(thread: int | None) -> str:
    """The line of Python that a thread executes now."""
    frame = sys._current_frames().get(thread or 0)
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame else "its end"
