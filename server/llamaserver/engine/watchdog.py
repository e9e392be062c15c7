"""Notices that the engine thread hangs, as after a lost GPU or in a page fault of a volume that does not answer.

It looks from the event loop. A decode that takes too long first makes the server unready, so that clients use another
one. When it takes twice as long, the server is not alive any more, and every request ends with an error. If the thread
goes on after all, both come back.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from ..standstill import TICK, Standstill
from .activity import Activity

_log = logging.getLogger(__name__)
_LEAST = 60.0  # seconds
_TIMES = 20  # the usual time
_UNKNOWN = 600.0  # seconds, before anything was measured: the first prompt of a large model on a CPU may take minutes
DEAD_AFTER = 2  # limits


def limit(timeout: float | None, activity: Activity) -> float:
    """Seconds that an activity may take. `timeout` is --decode-timeout: None for an automatic one."""
    if timeout is not None:
        return timeout
    return max(_LEAST, _TIMES * activity.usual) if activity.usual else _UNKNOWN


class Watchdog:
    """Watches one engine thread. Its attributes may be read by any thread.

    `reason` says what hangs, "" when nothing does. `dead` is True when it has hung for so long that only a new start
    helps. `current` and `place` give the activity and the Python line of the thread. `give_up` is called once with a
    text when the server counts as dead.
    """

    def __init__(
        self,
        timeout: float | None,
        current: Callable[[], Activity | None],
        place: Callable[[], str],
        give_up: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reason = ""
        self.dead = False
        self._timeout = timeout
        self._current = current
        self._place = place
        self._give_up = give_up
        self._still = Standstill(clock)

    async def watch(self) -> None:
        """Look again and again until cancelled. Ends at once when --decode-timeout is 0."""
        while self._timeout != 0:
            self.look()
            await asyncio.sleep(TICK)

    def look(self) -> None:
        """Compare the current activity with its limit."""
        activity, before = self._current(), self._still.seconds
        seconds = self._still.look(activity)
        most = limit(self._timeout, activity) if activity else 0.0
        if activity is None or seconds < most:
            if self.reason:
                _log.warning("the engine goes on after %d seconds", before)
            self.reason, self.dead = "", False
            return
        if not self.reason:
            self._report(activity, seconds, most)
        if seconds >= DEAD_AFTER * most and not self.dead:
            self.dead = True
            _log.error("%s for %d seconds: the server is not alive any more", self.reason, seconds)
            self._give_up(self.reason)

    def _report(self, activity: Activity, seconds: float, most: float) -> None:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))
        self.reason = f"the engine hangs in {activity.what} since {since}"
        _log.error("%s, longer than %d seconds: the server is unready. It is at %s", self.reason, most, self._place())
