"""One connection of a client: aiohttp's protocol, and what the limits of connections need to know of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler


@dataclass(slots=True)
class Counts:
    """The open connections of a port, and how often each limit was met. Any thread may read it."""

    open: int = 0
    limited: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("address", "busy", "files", "head", "idle"), 0)
    )


class Connection(RequestHandler):
    """A connection from its acceptance on, the TLS handshake included.

    It is closed if the head of a request comes too slowly: `head_timeout` is in seconds, 0 for none. `lost` is called
    when it ends.
    """

    __slots__ = ("_accepted", "_counts", "_head_timeout", "_head_timer", "_lost", "address", "opening", "wire")

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        *,
        address: str,
        head_timeout: float,
        counts: Counts,
        lost: Callable[["Connection"], None],
    ) -> None:
        super().__init__(server, loop=loop, **server._kwargs)
        self.address = address
        self.opening: asyncio.Task[None] | None = None  # until the protocol has a transport
        self.wire: asyncio.Transport | None = None  # aiohttp forgets its own before all is sent
        self._accepted = loop.time()
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None
        self._counts = counts
        self._lost = lost

    # ---- what aiohttp tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        self.opening = None
        self.wire = cast(asyncio.Transport, transport)
        super().connection_made(transport)
        self._limit_head()

    def data_received(self, data: bytes) -> None:
        """More bytes. Those of an incomplete head do not extend its time."""
        super().data_received(data)
        if not self._awaits_head:
            self._stop_timer()
        elif self._head_timer is None:
            self._limit_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has ended."""
        self._stop_timer()
        self.wire = None
        super().connection_lost(exc)
        self._lost(self)

    # ---- idleness

    @property
    def _awaits_head(self) -> bool:
        if self._messages:
            return False
        return self._request_count == 0 or (self._waiter is not None and not self._waiter.done())

    @property
    def idle_since(self) -> float | None:
        """The loop's time since which no request runs. None while one runs."""
        if not self._awaits_head:
            return None
        return max(self._accepted, self._next_keepalive_close_time - self._keepalive_timeout)

    def drop(self) -> None:
        """Close at once, also during a handshake or with an answer that is not read."""
        if self.opening is not None:
            self.opening.cancel()
        if self.wire is not None:
            self.wire.abort()

    # ---- the time of a head

    def _limit_head(self) -> None:
        if self._head_timeout:
            self._head_timer = self._loop.call_later(self._head_timeout, self._end_head)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_head(self) -> None:
        self._head_timer = None
        if self._awaits_head:
            self._counts.limited["head"] += 1
            self.drop()
