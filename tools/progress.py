"""Progress of long work: steps done, time gone, and an estimate of the time left.

Several works may run at once, each in its own thread. A terminal shows them in one line that is rewritten. Elsewhere,
each work prints a line of its own from time to time.
"""

import sys
import threading
import time

from .cache import say

_QUIET_SECONDS = 15.0


class Meter:
    """The progress of one work. Any thread may call its methods."""

    _lock = threading.Lock()
    _running: "list[Meter]" = []  # noqa: RUF012  all of this process, in the order of their start

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = self._told = time.monotonic()
        self._done, self._total = 0, 0
        with self._lock:
            self._running.append(self)

    def show(self, done: int, total: int) -> None:
        """Report that `done` of `total` steps are done."""
        with self._lock:
            self._done, self._total = done, total
            now = time.monotonic()
            if sys.stderr.isatty():
                self._rewrite()
            elif now - self._told >= _QUIET_SECONDS:
                self._told = now
                say(self.text())

    def end(self) -> None:
        """Print how long the work took."""
        with self._lock:
            self._running.remove(self)
            if sys.stderr.isatty():
                sys.stderr.write("\r\033[K")
            say(f"{self._title}: {_span(time.monotonic() - self._started)}")

    def text(self) -> str:
        """The title, the steps and the times, as one line."""
        gone = time.monotonic() - self._started
        parts = [f"{self._title}: {self._done} of {self._total}", _span(gone)]
        if 0 < self._done < self._total and gone >= 1:
            parts.append(f"about {_span(gone / self._done * (self._total - self._done))} left")
        return ", ".join(parts)

    @classmethod
    def _rewrite(cls) -> None:
        sys.stderr.write("\r\033[K" + " | ".join(meter.text() for meter in cls._running))
        sys.stderr.flush()


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
