"""Cuts off clients that do not read their answers: streams, whole answers, files, and what is left at the end."""

import asyncio
import fcntl
import logging
import socket
import struct
import termios
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from weakref import WeakSet

from aiohttp import web

_log = logging.getLogger(__name__)
_LOOKS = 4  # in one time-out
_LONGEST_PAUSE = 5.0  # seconds between two looks
_BYTES_ACKED = struct.Struct("120xQ")  # in Linux's struct tcp_info


def cut_off_unread(app: web.Application, timeout: float) -> None:
    """Abort a connection when its client has taken nothing of an answer for `timeout` seconds. 0: never."""
    if not timeout:
        return
    transports: WeakSet[asyncio.Transport] = WeakSet()

    async def remember(request: web.Request, _: web.StreamResponse) -> None:
        if request.transport is not None:
            transports.add(request.transport)

    async def watching(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(_watch(transports, timeout))
        yield
        task.cancel()

    app.on_response_prepare.append(remember)
    app.cleanup_ctx.append(watching)


@dataclass(frozen=True, slots=True)
class _Sent:
    """How far an answer has come. It is equal as long as the client takes nothing."""

    buffered: int  # bytes in the process
    queued: int  # bytes in the kernel that the client's machine has not taken
    taken: int  # bytes that it has taken, 0 where the kernel does not count them


def _sent(transport: asyncio.Transport) -> _Sent:
    queued, taken = bytearray(4), 0
    sock = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError, ValueError, struct.error):  # closed, or another kernel
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
        (taken,) = _BYTES_ACKED.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size))
    return _Sent(transport.get_write_buffer_size(), int.from_bytes(queued, "little"), taken)


async def _watch(transports: Iterable[asyncio.Transport], limit: float) -> None:
    before: dict[asyncio.Transport, tuple[_Sent, float]] = {}  # and since when it is so
    while True:
        await asyncio.sleep(min(limit / _LOOKS, _LONGEST_PAUSE))
        now, known, before = monotonic(), before, {}
        for transport in list(transports):
            sent = _sent(transport)
            if not (sent.buffered or sent.queued):
                continue
            last, since = known.get(transport, (sent, now))
            if sent == last and now - since >= limit:
                _log.info("a client has read nothing for %g s: its connection is closed", limit)
                transport.abort()
            else:
                before[transport] = (sent, since if sent == last else now)
