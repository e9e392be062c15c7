"""Cuts off clients that do not read their answers: streams, whole answers, files, and what is left at the end."""

import asyncio
import fcntl
import logging
import socket
import struct
import termios
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

_log = logging.getLogger(__name__)
_LOOKS = 4  # in one time-out
_LONGEST_PAUSE = 5.0  # seconds between two looks
_BYTES_ACKED = struct.Struct("120xQ")  # in Linux's struct tcp_info


@dataclass(frozen=True, slots=True)
class _Sent:
    """How far an answer has come. It is equal as long as the client takes nothing."""

    buffered: int  # bytes in the process
    queued: int  # bytes in the kernel that the client's machine has not taken
    taken: int  # bytes that it has taken, 0 where the kernel does not count them


def _sent(transport: asyncio.Transport) -> _Sent:
    queued, taken = bytearray(4), 0
    try:
        buffered, sock = transport.get_write_buffer_size(), transport.get_extra_info("socket")
    except AttributeError:  # asyncio's TLS transport after a second close: it ends by itself
        return _Sent(0, 0, 0)
    with suppress(OSError, AttributeError, ValueError, struct.error):  # closed, or another kernel
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
        (taken,) = _BYTES_ACKED.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size))
    return _Sent(buffered, int.from_bytes(queued, "little"), taken)


class Client(Protocol):
    """One connection. `wire` is None before it begins and after it has ended."""

    @property
    def wire(self) -> asyncio.Transport | None:
        """Where answers are written."""

    def drop(self) -> None:
        """Close at once."""


class Unread:
    """Looks at the open connections of a port, which others add and remove."""

    def __init__(self, connections: Collection[Client], limit: float) -> None:
        self._connections = connections
        self._limit = limit
        self._before: dict[Client, tuple[_Sent, float]] = {}  # and since when it is so

    async def watch(self) -> None:
        """Cut off a connection when its client has taken nothing of an answer for `limit` seconds. Until cancelled."""
        while True:
            await asyncio.sleep(min(self._limit / _LOOKS, _LONGEST_PAUSE))
            known, self._before = self._before, {}
            for connection in list(self._connections):
                try:
                    self._look(connection, known)
                except Exception:
                    _log.exception("a connection cannot be looked at")

    def _look(self, connection: Client, known: dict[Client, tuple[_Sent, float]]) -> None:
        if connection.wire is None:
            return
        sent, now = _sent(connection.wire), monotonic()
        if not (sent.buffered or sent.queued):
            return
        last, since = known.get(connection, (sent, now))
        if sent == last and now - since >= self._limit:
            _log.info("a client has read nothing for %g s: its connection is closed", self._limit)
            connection.drop()
        else:
            self._before[connection] = (sent, since if sent == last else now)
