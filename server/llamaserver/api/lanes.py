"""Worker threads for calls of the event loop. Clients take turns, so that one of them cannot hold all threads."""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_thread = threading.local()


def cancelled() -> bool:
    """Whether nobody waits any more for the call that this worker thread runs. Long loops ask this."""
    job: _Job | None = getattr(_thread, "job", None)
    return job is not None and job.future.cancelled()


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    client: str
    call: Callable[[], Any]
    future: "asyncio.Future[Any]"  # cancelled when its client has gone

    def run(self) -> Any:
        _thread.job = self
        try:
            return self.call()
        finally:
            _thread.job = None


class Lane:
    """Some threads with a queue for each client. Used on the event loop's thread only.

    The next call comes from the client that has waited longest for its turn (round robin). One client can hold all
    threads but one. A call whose client goes away before it began is dropped.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, name)
        self._free = threads
        self._share = max(1, threads - 1)  # threads that one client can hold
        self._waiting: dict[str, deque[_Job]] = {}  # in the order of turns
        self._held: Counter[str] = Counter()  # threads, by client

    async def run(self, call: Callable[[], T], client: str = "") -> T:
        """Run a call on one of the threads, when it is the client's turn."""
        job = _Job(client, call, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(client, deque()).append(job)
        self._begin()
        try:
            result: T = await job.future
        except asyncio.CancelledError:
            self._forget(job)
            raise
        return result

    def close(self) -> None:
        """End the threads, each after its call. Calls that wait are cancelled."""
        for jobs in self._waiting.values():
            for job in jobs:
                job.future.cancel()
        self._waiting.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        while self._free and (job := self._next()) is not None:
            self._free -= 1
            self._held[job.client] += 1
            running = asyncio.get_running_loop().run_in_executor(self._executor, job.run)
            running.add_done_callback(lambda done, job=job: self._ended(job, done))  # type: ignore[misc]

    def _next(self) -> _Job | None:
        """Take the job whose turn it is. Its client goes to the end of the line."""
        client = next((one for one in self._waiting if self._held[one] < self._share), None)
        if client is None:
            return None
        jobs = self._waiting.pop(client)
        job = jobs.popleft()
        if jobs:
            self._waiting[client] = jobs
        return job

    def _ended(self, job: _Job, done: "asyncio.Future[Any]") -> None:
        self._free += 1
        self._held.subtract([job.client])
        if not self._held[job.client]:
            del self._held[job.client]
        if done.cancelled():
            job.future.cancel()
        elif job.future.cancelled():
            done.exception()  # it has been seen: nobody waits for it
        elif error := done.exception():
            job.future.set_exception(error)
        else:
            job.future.set_result(done.result())
        self._begin()

    def _forget(self, job: _Job) -> None:
        """Drop a job that has not begun, with all that its call refers to."""
        jobs = self._waiting.get(job.client)
        if jobs and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.client]
