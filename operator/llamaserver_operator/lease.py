"""One active instance, by a coordination.k8s.io Lease.

The rules: each call ends before the renew deadline; what fails is tried again; work is cancelled at that deadline,
well before another instance may take the Lease over; the holder lets go of it when it stops. Clocks of different
machines are never compared: a Lease is free when it did not change for its duration, seen on the own clock.
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
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while a machine sleeps
_RELEASE_TIMEOUT = 2.0
_T = TypeVar("_T")


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class Lease:
    """The part of this instance in the election. `holds()` is what every write asks first."""

    def __init__(self, api: Cluster, config: Config, metrics: Metrics, clock: Callable[[], float] = _now) -> None:
        self._api = api
        self._config = config
        self._metrics = metrics
        self._clock = clock
        # a restarted container must not take its predecessor's Lease for its own
        self.identity = f"{config.identity}_{uuid.uuid4().hex[:8]}"
        self._body: Manifest | None = None  # as last read or written
        self._changed = 0.0  # when it was last seen to change
        self._deadline: float | None = None  # while holding: until when work may go on
        self._call_limit = config.renew_seconds / 2  # leaves time for a second try
        self._complaint = ""
        self.contacted = False  # the Lease was read (or made) at least once

    def holds(self) -> bool:
        """Whether this instance may act now. Right also just after the process was stopped for a while."""
        return self._deadline is not None and self._clock() < self._deadline

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `work` whenever this instance is the active one, until cancelled. An error of `work` ends it."""
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
        told = ""
        while True:
            started = self._clock()
            try:
                self._observe(await self._get(self._call_limit))
                self.contacted = True
                self._complaint = ""
                if self._is_free() and await self._take(started):
                    _log.info("active now", extra={"fields": {"identity": self.identity}})
                    return
                if self._holder not in ("", told):
                    told = self._holder
                    _log.info("standing by", extra={"fields": {"holder": self._holder}})
            except Conflict:
                pass  # another instance was faster
            except ClusterError as error:
                self._complain("cannot read the Lease: %s", error)
            await asyncio.sleep(self._config.retry_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    def _complain(self, text: str, error: ClusterError) -> None:
        """A warning for the first of several equal ones in a row."""
        self._metrics.errors.labels("lease").inc()
        complaint = text % error
        _log.log(logging.DEBUG if complaint == self._complaint else logging.WARNING, complaint)
        self._complaint = complaint

    def _observe(self, body: Manifest | None) -> None:
        """Note the Lease, and when it changed."""
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
        """Write this instance's name into the Lease as it was seen. Counted from before the look at it."""
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
        """Work and renew, until one of them ends. The work is over when this returns."""
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
        if late:  # it cannot write any more, but nothing may be started beside it
            raise RuntimeError("the work does not end after it was cancelled")

    async def _renew(self) -> None:
        """Renew until that fails for too long, or another instance has the Lease."""
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
        """Wait for the next renewal; False when the deadline was first, perhaps while the process stood still."""
        if not self.holds():
            return False
        await asyncio.sleep(min(self._config.retry_seconds, self._remaining()))
        return self.holds()

    def _remaining(self) -> float:
        return max(0.0, (self._deadline or 0.0) - self._clock())

    async def _write_renewal(self) -> bool:
        """True when renewed. A conflict may be our own write whose answer was lost, so look at the Lease again."""
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
        """Let the next instance begin at once. When it cannot be told so, it waits for the end of the Lease."""
        if self._holder != self.identity:
            return
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                # looked at anew: the last renewal may have been done without our hearing of it
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
