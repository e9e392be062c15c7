"""One instance of the operator from start to end: stand by, lead, stop.

While it leads, the work queue runs, kopf adds objects to it, and all objects are reconciled at intervals.
"""

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import Callable
from typing import Protocol

from .cluster import Cluster
from .config import Config
from .errors import ClusterError, NotFound
from .fairqueue import Key
from .handlers import Watch
from .health import Health
from .kinds import CHILDREN, LLAMA_SERVER, SERVICE_MONITOR, Kind
from .lease import Lease
from .metrics import Metrics
from .podreader import PodReader
from .workqueue import WorkQueue

_log = logging.getLogger(__name__)
_DRAIN = 5.0  # seconds that running reconciles have to end when the instance stops
_SOON = 1.0  # least seconds between two checks for kinds
_MAY_BE_ABSENT = (LLAMA_SERVER, SERVICE_MONITOR)  # kinds of CRDs, which may be added and removed


class Reconciles(Protocol):
    """Reconciles objects."""

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Reconcile one object. Returns the seconds until the next reconcile. None when events are enough."""


class Operator:
    """One instance. `make` returns a new reconciler each time it starts to lead, because an old one has old data."""

    def __init__(self, config: Config, make: Callable[[Cluster, Config, PodReader], Reconciles]) -> None:
        self._config = config
        self._make = make
        self._metrics = Metrics()
        self._stopping = asyncio.Event()
        self._queue: WorkQueue | None = None  # while leading
        self._known: set[Key] = set()

    async def run(self) -> int:
        """Run until a signal stops it. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        async with await Cluster.connect(self._metrics) as cluster:
            lease = Lease(cluster, self._config, self._metrics)
            cluster.may_write = lease.holds
            health = Health(self._config, self._metrics, self._problem, lambda: lease.contacted)
            _log.info("listening on port %d", await health.start(), extra={"fields": {"identity": lease.identity}})
            try:
                return await self._elect(cluster, lease)
            finally:
                await health.stop()

    async def _elect(self, cluster: Cluster, lease: Lease) -> int:
        electing = asyncio.create_task(lease.run(lambda: self._lead(cluster)), name="election")
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({electing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not electing.done():
            _log.info("stopping")
            if self._queue is not None and not await self._queue.drain(_DRAIN):
                _log.warning("stopped before all running reconciles ended")
            electing.cancel()
        stopped.cancel()
        try:
            await electing
        except asyncio.CancelledError:
            _log.info("stopped")
            return 0
        except Exception:
            _log.exception("the operator failed")
        return 1

    def _problem(self) -> str:
        seconds = self._queue.stuck_for() if self._queue is not None else 0.0
        return f"a reconcile is {seconds:.0f} s over its limit" if seconds else ""

    # ---- leading

    async def _lead(self, cluster: Cluster) -> None:
        pods = PodReader()
        reconciler = self._make(cluster, self._config, pods)
        queue = WorkQueue(lambda key: reconciler.reconcile(*key), self._metrics, self._config.workers)
        self._queue = queue
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(queue.run())
                group.create_task(self._resync(cluster, queue))
                group.create_task(self._watch(cluster, queue))
        finally:
            self._queue = None
            await pods.close()

    async def _resync(self, cluster: Cluster, queue: WorkQueue) -> None:
        """Add all objects: at once at the beginning, later spread over a tenth of the interval."""
        spread = 0.0
        while True:
            try:
                await self._add_all(cluster, queue, spread)
                spread = self._config.resync_seconds / 10
                wait = self._config.resync_seconds
            except ClusterError as error:
                self._metrics.errors.labels("resync").inc()
                _log.warning("cannot list the LlamaServers: %s", error)
                wait = self._config.retry_seconds
            await asyncio.sleep(wait)

    async def _add_all(self, cluster: Cluster, queue: WorkQueue, spread: float) -> None:
        found: set[Key] = set()
        for namespace in self._config.watch_namespaces or ("",):
            with contextlib.suppress(NotFound):  # the CRD does not exist
                async for item in cluster.list_metadata(LLAMA_SERVER, namespace):
                    found.add((item["metadata"]["namespace"], item["metadata"]["name"]))
        for key in found | self._known:  # also deleted objects, so that the reconciler forgets them
            queue.add_after(key, random.uniform(0, spread))  # noqa: S311 - no secret
        self._known = found

    async def _watch(self, cluster: Cluster, queue: WorkQueue) -> None:
        """Watch the kinds that exist. When a kind is added or removed, watch again and reconcile all objects."""
        watching: asyncio.Task[None] | None = None
        watched: frozenset[Kind] = frozenset()
        behind = False  # whether all objects must still be added after a change
        cluster.rediscover()  # the cache may be old, if this instance has led before
        try:
            while True:
                looked = False
                with contextlib.suppress(ClusterError):  # without an answer, keep watching the same kinds
                    served = await self._served(cluster)
                    looked = True
                    if served != watched:
                        await _cancel(watching)
                        watch = Watch(cluster, self._config, served, queue.add, self._metrics)
                        watching = asyncio.create_task(watch.run(), name="watch")
                        if watched:
                            _log.info(
                                "the cluster serves other kinds now",
                                extra={"fields": {"watched": sorted(k.plural for k in served)}},
                            )
                        behind, watched = bool(watched), served
                    if behind:
                        await self._add_all(cluster, queue, 0.0)
                        behind = False
                await self._until_next_look(cluster)
                if looked:  # otherwise a reconcile may use an answer that was not compared here
                    cluster.rediscover()
        finally:
            await _cancel(watching)

    async def _until_next_look(self, cluster: Cluster) -> None:
        """Sleep until the next check. It is earlier when a request found that a kind does not exist."""
        seconds = self._config.discovery_seconds
        await asyncio.sleep(min(_SOON, seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds - _SOON)):
                await cluster.doubted.wait()

    async def _served(self, cluster: Cluster) -> frozenset[Kind]:
        absent = {kind for kind in _MAY_BE_ABSENT if not await cluster.serves(kind)}
        return frozenset({LLAMA_SERVER, *CHILDREN} - absent)


async def _cancel(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
