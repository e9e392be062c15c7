"""Reads the reports of model pods from their management port.

The requests run beside the workers, because a pod may run any image, and may accept a connection and never answer. A
worker waits for answers for a short time and then uses the last ones.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

from . import names
from .manifests import Pod
from .reports import Report, parse_report

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_MOST_BYTES = 16 << 10
_PATIENCE = 0.25  # seconds that a worker waits for answers
_FRESH = 0.5  # seconds for which an answer is not asked for again
# The oldest report in seconds that is used. The next reconcile after one without a report comes 15 s later: it must see
# an answer that came too late for the first.
_OLDEST = 20.0
# The same for a decision that needs the present state: it waits for the time-out of a request.
_EXACT_PATIENCE, _EXACT_OLDEST = 2.0, 5.0
_SHARE = 8  # requests at a time in one namespace, of _CONNECTIONS
_CONNECTIONS = 32
_FIRST_REST, _LAST_REST = 4.0, 30.0  # seconds without a request to a pod that twice has not answered in time
_MANY, _OLD = 1024, 600.0  # pods that are remembered, and seconds after which they may be forgotten


@dataclass(slots=True)
class _Asked:
    """What is known about a pod."""

    report: Report | None = None
    reported: float = 0.0  # when the report came
    running: "asyncio.Task[None] | None" = None
    next_time: float = 0.0  # when it may be asked again
    silent: bool = False  # whether the last answer did not come in time
    rest: float = 0.0  # seconds; grows while the pod does not answer in time


class PodReader:
    """The reports of pods. Requests that run longer than a worker waits go on, for the next reconcile."""

    def __init__(self, port: int = names.MANAGEMENT_PORT) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None
        self._asked: dict[tuple[str, str], _Asked] = {}  # by uid and address
        # To wait for a turn here does not count towards the time-out, as it would in the connector.
        self._shares: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_SHARE))
        self._turns = asyncio.Semaphore(_CONNECTIONS)

    async def close(self) -> None:
        """End the requests and close the connections."""
        for asked in self._asked.values():
            if asked.running is not None:
                asked.running.cancel()
        if self._session is not None:
            await self._session.close()

    async def reports(self, pods: Iterable[Pod], *, exact: bool = False) -> dict[str, Report]:
        """The reports by name of the pod. A pod that has not answered in time keeps its last report for a moment.

        `exact` waits longer for answers, and leaves out reports of more than some seconds ago.
        """
        patience, oldest = (_EXACT_PATIENCE, _EXACT_OLDEST) if exact else (_PATIENCE, _OLDEST)
        found = {pod["metadata"]["name"]: self._ask(pod) for pod in pods}
        running = [asked.running for asked in found.values() if asked.running is not None and not asked.rest]
        if running:
            await asyncio.wait(running, timeout=patience)
        since = asyncio.get_running_loop().time() - oldest
        known = ((name, asked.report) for name, asked in found.items() if asked.reported >= since)
        return {name: report for name, report in known if report is not None}

    def _ask(self, pod: Pod) -> _Asked:
        """Begin a request, unless one runs, or the last answer is fresh, or the pod is left alone for some time."""
        now = asyncio.get_running_loop().time()
        key = (pod["metadata"].get("uid", ""), pod.get("status", {}).get("podIP", ""))
        asked = self._asked.get(key)
        if asked is None:
            self._forget(now)
            asked = self._asked[key] = _Asked()
        if asked.running is None and now >= asked.next_time:
            asked.running = asyncio.create_task(self._answer(pod, asked), name="report")
        return asked

    def _forget(self, now: float) -> None:
        if len(self._asked) >= _MANY:
            old = [key for key, asked in self._asked.items() if not asked.running and now - asked.next_time > _OLD]
            for key in old:
                del self._asked[key]

    async def _answer(self, pod: Pod, asked: _Asked) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async with self._shares[pod["metadata"].get("namespace", "")], self._turns:
                asked.report = await self.status(pod)
            asked.reported, asked.silent, asked.rest = clock(), False, 0.0
        except TimeoutError:
            if asked.silent:
                asked.rest = min(max(_FIRST_REST, asked.rest * 2), _LAST_REST)
            asked.silent = True
        finally:
            asked.running = None
            asked.next_time = clock() + max(_FRESH, asked.rest)

    async def status(self, pod: Pod) -> Report | None:
        """The answer of a pod. None when it is no report. TimeoutError when there is none in time."""
        address = pod.get("status", {}).get("podIP", "")
        if not address:
            return None
        if self._session is None:  # each request makes a connection: a kept one may be dead
            self._session = aiohttp.ClientSession(
                timeout=_TIMEOUT, connector=aiohttp.TCPConnector(force_close=True, limit=0)
            )
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{self._port}/status", allow_redirects=False) as answer:
                data = await _read(answer.content)
                return parse_report(data) if answer.status == 200 else None
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError):
            return None


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The body, at most _MOST_BYTES. ValueError when it is longer."""
    data = bytearray()
    async for chunk in content.iter_any():
        data += chunk
        if len(data) > _MOST_BYTES:
            raise ValueError("the report is too long")
    return bytes(data)
