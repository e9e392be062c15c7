"""The work queue. It runs one reconcile of an object at a time, and several objects at the same time.

- A key that is added while it waits is run once. A key that is added while it runs is run once more.
- A failed run is repeated after a pause that doubles each time, with jitter. An event does not wait for the pause.
- A run may return the seconds until the next run.
- Namespaces take turns, and one worker is left to the others (fairqueue.py).
- A key that is added again and again runs once a second (pace.py).

This module does not depend on Kubernetes.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from . import logs
from .errors import ClusterError, Unreachable
from .fairqueue import FairQueue, Key
from .metrics import Metrics
from .pace import Pace

_log = logging.getLogger(__name__)
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 120.0
_BURST, _INTERVAL = 10, 1.0  # runs of a key at once, and seconds between two runs after them
_RUN_LIMIT = 120.0  # seconds; every request has a shorter limit of its own


def pause(failures: int) -> float:
    """Seconds before the next try, after this number of failures in a row."""
    seconds = min(_LAST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 30))
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311 - no secret


def _now() -> float:
    return asyncio.get_running_loop().time()


class WorkQueue:
    """Calls `reconcile` for keys that are added."""

    def __init__(
        self,
        reconcile: Callable[[Key], Awaitable[float | None]],
        metrics: Metrics,
        workers: int = 4,
        run_limit: float = _RUN_LIMIT,
    ) -> None:
        self._reconcile = reconcile
        self._metrics = metrics
        self._workers = workers
        self._run_limit = run_limit
        self._ready = FairQueue(workers - 1 if workers > 2 else workers)
        self._pace = Pace(_BURST, _INTERVAL, _now)
        self._waiting: set[Key] = set()  # the keys in _ready
        self._running: dict[Key, float] = {}  # start time by key
        self._again: set[Key] = set()  # added while running
        self._timers: dict[Key, asyncio.TimerHandle] = {}  # the earliest future run
        self._failures: dict[Key, int] = {}
        self._outage = False
        self._closed = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def depth(self) -> int:
        """Number of keys that wait for a worker."""
        return len(self._waiting)

    def stuck_for(self) -> float:
        """Seconds by which the longest run exceeds twice its limit. 0 when none does."""
        now = _now()
        return max(0.0, now - min(self._running.values(), default=now) - 2 * self._run_limit)

    def add(self, key: Key) -> None:
        """Run soon. Call it from the thread of the event loop only."""
        if self._closed or key in self._waiting:
            return
        self._forget_timer(key)
        if key in self._running:
            self._again.add(key)
            return
        if seconds := self._pace.wait(key):
            self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)
            return
        self._waiting.add(key)
        self._ready.put(key)
        self._metrics.queue_depth.set(self.depth)

    def add_after(self, key: Key, seconds: float) -> None:
        """Run after this number of seconds, or earlier if `add` is called."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if self._closed or key in self._waiting or (timer is not None and timer.when() <= loop.time() + seconds):
            return
        self._forget_timer(key)
        self._timers[key] = loop.call_later(seconds, self.add, key)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            self.close()

    async def drain(self, seconds: float) -> bool:
        """Start no further run and wait for running ones. True when all of them ended in time."""
        self.close()
        try:
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Accept no further key and start no further run."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._waiting.clear()
        self._metrics.queue_depth.set(0)

    def _forget_timer(self, key: Key) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            if self._closed:
                self._ready.done(key)
                continue
            self._waiting.discard(key)
            self._metrics.queue_depth.set(self.depth)
            self._running[key] = _now()
            self._quiet.clear()
            again: float | None = None
            try:
                again = await self._run(key)
            finally:
                del self._running[key]
                self._ready.done(key)
                if not self._running:
                    self._quiet.set()
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            elif again is not None:
                self.add_after(key, again)

    async def _run(self, key: Key) -> float | None:
        """Run once. Returns the seconds until the next run."""
        token = logs.current.set(key)
        result, started = "cancelled", _now()
        try:
            async with asyncio.timeout(self._run_limit):
                again = await self._reconcile(key)
        except Exception as error:
            result = "error"
            return self._failed(key, error)
        else:
            result = "ok"
            self._outage = False
            self._failures.pop(key, None)
            return again
        finally:
            seconds = _now() - started
            self._metrics.reconciles.labels(result).inc()
            self._metrics.reconcile_duration.observe(seconds)
            _log.debug("reconciled", extra={"fields": {"result": result, "seconds": round(seconds, 3)}})
            logs.current.reset(token)

    def _failed(self, key: Key, error: Exception) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        seconds = pause(failures)
        self._metrics.errors.labels(type(error).__name__).inc()
        fields = {"failures": failures, "retry_seconds": round(seconds, 1)}
        if isinstance(error, ClusterError):
            again = self._outage and isinstance(error, Unreachable)  # an outage is logged once, not for each object
            _log.log(logging.DEBUG if again else logging.WARNING, "%s", error, extra={"fields": fields})
            self._outage = isinstance(error, Unreachable)
        else:
            _log.error("reconcile failed", exc_info=error, extra={"fields": fields})
        return seconds
