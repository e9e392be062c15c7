"""Leader election with a coordination.k8s.io Lease.

Each call ends before the renew deadline, and a failed call is repeated. At the deadline the work is cancelled, well
before another instance may take over the Lease. The holder releases the Lease when it stops. Clocks of different
machines are never compared: a Lease is free when it has not changed for its duration, measured by the local clock.
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from .cluster import Cluster
from .config import Config
from .errors import ClusterError, Conflict, Unreachable
from .kinds import LEASE
from .manifests import Manifest
from .metrics import Metrics

_log = logging.getLogger(__name__)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # also counts the time while the machine sleeps
_RELEASE_TIMEOUT = 2.0
_T = TypeVar("_T")


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class Lease:
    """The part of this instance in the election. Every write checks `holds()` first."""

    def __init__(self, api: Cluster, config: Config, metrics: Metrics, clock: Callable[[], float] = _now) -> None:
        self._api = api
        self._config = config
        self._metrics = metrics
        self._clock = clock
        # the random part differs after a restart of the container
        self.identity = f"{config.identity}_{uuid.uuid4().hex[:8]}"
        self._body: Manifest | None = None  # as last read or written
        self._changed = 0.0  # local time of the last change that was seen
        self._deadline: float | None = None  # while holding the Lease: the end of the time to work
        self._call_limit = config.renew_seconds / 2  # seconds; leaves time for a second try
        self._complaint = ""
        self.contacted = False  # whether the Lease was read or created at least once

    def holds(self) -> bool:
        """Whether this instance may write now. It is correct also just after the process was suspended."""
        return self._deadline is not None and self._clock() < self._deadline

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` whenever this instance is active, until cancelled. An error of `work` is raised."""
        while True:
            await self._acquire()
            try:
                await self._hold(work)
            finally:
                self._deadline = None
                self._metrics.is_leader.set(0)
                await self._release()

    # ---- standing by

    async def _acquire(self) -> None:
        logged = ""
        while True:
            started = self._clock()
            try:
                self._observe(await self._get(self._call_limit))
                self.contacted = True
                self._complaint = ""
                if self._is_free() and await self._take(started):
                    _log.info("active now", extra={"fields": {"identity": self.identity}})
                    return
                if self._holder not in ("", logged):
                    logged = self._holder
                    _log.info("standing by", extra={"fields": {"holder": self._holder}})
            except Conflict:
                pass  # another instance was faster
            except ClusterError as error:
                self._complain("cannot read the Lease: %s", error)
            await asyncio.sleep(self._config.retry_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    def _complain(self, text: str, error: ClusterError) -> None:
        """Log a warning. Repetitions are logged at level DEBUG."""
        self._metrics.errors.labels("lease").inc()
        complaint = text % error
        _log.log(logging.DEBUG if complaint == self._complaint else logging.WARNING, complaint)
        self._complaint = complaint

    def _observe(self, body: Manifest | None) -> None:
        """Store the Lease and the time of its change."""
        if self._body is None or body is None or _version(body) != _version(self._body):
            self._changed = self._clock()
        self._body = body

    @property
    def _spec(self) -> Manifest:
        spec: Manifest = (self._body or {}).get("spec") or {}
        return spec

    @property
    def _holder(self) -> str:
        return self._spec.get("holderIdentity") or ""

    def _is_free(self) -> bool:
        if self._holder in ("", self.identity):
            return True
        seconds = float(self._spec.get("leaseDurationSeconds") or self._config.lease_seconds)
        return self._clock() >= self._changed + seconds

    async def _take(self, started: float) -> bool:
        """Write the name of this instance into the Lease. The deadline counts from `started`."""
        now = _timestamp()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._config.lease_seconds)),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": int(self._spec.get("leaseTransitions") or 0) + (1 if self._body else 0),
        }
        if self._body is None:
            metadata = {"namespace": self._config.namespace, "name": self._config.lease_name}
            body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
            self._body = await _bounded(self._api.create(body), self._call_limit)
        else:
            self._body = await self._replace({**self._body, "spec": spec}, self._call_limit)
        self._deadline = started + self._config.renew_seconds
        return self.holds()

    # ---- holding

    async def _hold(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Work and renew until one of them ends. The work has ended when this returns."""
        self._metrics.is_leader.set(1)
        working = asyncio.create_task(work(), name="work")
        renewing = asyncio.create_task(self._renew(), name="renew the Lease")
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._deadline = None if renewing.done() else self._deadline
            await self._end(working, renewing)
        for task in (working, renewing):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _end(self, working: "asyncio.Task[None]", renewing: "asyncio.Task[None]") -> None:
        working.cancel()
        limit = self._config.lease_seconds - self._config.renew_seconds
        _, late = await asyncio.wait({working}, timeout=limit)
        renewing.cancel()
        await asyncio.wait({renewing})
        if late:  # it can no longer write, but no second work may start beside it
            raise RuntimeError("the work does not end after it was cancelled")

    async def _renew(self) -> None:
        """Renew until the deadline has passed, or another instance has the Lease."""
        while await self._until_next():
            started = self._clock()
            try:
                if not await self._write_renewal():
                    _log.error(
                        "lost the Lease: it was deleted, or another instance holds it",
                        extra={"fields": {"holder": self._holder}},
                    )
                    return
            except ClusterError as error:
                self._complain("cannot renew the Lease: %s", error)
            else:
                self._complaint = ""
                self._deadline = started + self._config.renew_seconds
        _log.error("the Lease was not renewed in time, this instance stands by")

    async def _until_next(self) -> bool:
        """Wait for the next renewal. False when the deadline has passed."""
        if not self.holds():
            return False
        await asyncio.sleep(min(self._config.retry_seconds, self._remaining()))
        return self.holds()

    def _remaining(self) -> float:
        return max(0.0, (self._deadline or 0.0) - self._clock())

    async def _write_renewal(self) -> bool:
        """True when renewed. After a conflict, read the Lease: our own write may have succeeded without an answer."""
        assert self._body is not None
        try:
            self._body = await self._replace(self._with(renewTime=_timestamp()), self._limit())
        except Conflict:
            found = await self._get(self._limit())
            self._observe(found)
            if found is None or self._holder != self.identity:
                return False
            self._body = await self._replace(self._with(renewTime=_timestamp()), self._limit())
        return True

    async def _get(self, seconds: float) -> Manifest | None:
        return await _bounded(self._api.get(LEASE, self._config.namespace, self._config.lease_name), seconds)

    async def _replace(self, body: Manifest, seconds: float) -> Manifest:
        return await _bounded(self._api.replace(body), seconds)

    def _limit(self) -> float:
        return max(0.05, min(self._call_limit, self._remaining()))

    def _with(self, **changes: Any) -> Manifest:
        return {**(self._body or {}), "spec": {**self._spec, **changes}}

    async def _release(self) -> None:
        """Release the Lease, so that the next instance starts at once and need not wait for its end."""
        if self._holder != self.identity:
            return
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                # read it again: the answer to the last renewal may have been lost
                self._observe(await self._api.get(LEASE, self._config.namespace, self._config.lease_name))
                if self._body is not None and self._holder == self.identity:
                    self._body = await self._api.replace(self._with(holderIdentity="", leaseDurationSeconds=1))
        except (ClusterError, TimeoutError) as error:
            _log.warning("cannot release the Lease: %s", str(error) or "no answer in time")


async def _bounded(call: Coroutine[Any, Any, _T], seconds: float) -> _T:
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError as error:
        raise Unreachable(f"no answer within {seconds:.1f} s") from error


def _version(body: Manifest) -> str:
    return str(body["metadata"].get("resourceVersion", ""))


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
