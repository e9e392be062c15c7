"""Notices that the engine thread hangs, as after a lost GPU or in a page fault of a volume that does not answer.

It looks from the event loop. A decode that takes too long first makes the server unready, so that clients use another
one. When it takes twice as long, the server is not alive any more, and every request ends with an error. If the thread
goes on after all, both come back.

A decode that reads pages from a file does not hang. A mapped model whose pages were dropped is read again that way, and
a large one takes minutes. The kernel counts such reads as major page faults of the process.
"""

import asyncio
import resource
from collections.abc import Callable

from ..standstill import TICK, Alarm
from .activity import Activity

_LEAST = 60.0  # seconds
_TIMES = 20  # the usual time
_UNKNOWN = 600.0  # seconds, before anything was measured: the first prompt of a large model on a CPU may take minutes
_DEAD = 2  # limits


def limit(timeout: float | None, activity: Activity) -> float:
    """Seconds that an activity may take. `timeout` is --decode-timeout: None for an automatic one."""
    if timeout is not None:
        return timeout
    return max(_LEAST, _TIMES * activity.usual) if activity.usual else _UNKNOWN


def major_faults() -> int:
    """Page faults of this process so far that have read from a file."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


class Watchdog:
    """Watches one engine thread. `timeout` is --decode-timeout, `current` tells what the thread does.

    `faults` counts the pages that were read.
    """

    def __init__(
        self,
        timeout: float | None,
        current: Callable[[], Activity | None],
        alarm: Alarm,
        faults: Callable[[], int] = major_faults,
    ) -> None:
        self.alarm = alarm
        self._timeout = timeout
        self._current = current
        self._faults = faults
        self._faulted = faults()

    async def watch(self) -> None:
        """Look again and again until cancelled. Ends at once when --decode-timeout is 0."""
        while self._timeout != 0:
            self.look()
            await asyncio.sleep(TICK)

    def look(self) -> None:
        """Compare the current activity with its limit, from the last page on that was read."""
        activity = self._current()
        before, self._faulted = self._faulted, self._faults()
        if self._faulted > before and not self.alarm.dead:
            self.alarm.look(None, "", 0.0, 0.0)
        most = limit(self._timeout, activity) if activity else 0.0
        self.alarm.look(activity, activity.what if activity else "", most, _DEAD * most)
