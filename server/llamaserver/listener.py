"""Accepts the connections of one port, within limits.

The servers of asyncio accept whatever comes, and count nothing. So this one accepts by itself, and hands each
connection to the loop. At the limit, the connection that has been idle longest makes room. Where all of them are busy,
new ones wait in the kernel's queue.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from .api.connections import Connection, Counts
from .api.unread import Unread

_log = logging.getLogger(__name__)
_BACKLOG = 512  # connections that wait to be accepted
_BURST = 64  # connections accepted in one go
_PAUSE = 0.1  # seconds without accepting where there is no room
_GRACE = 0.1  # seconds in which a new connection may send a head before it can make room for another
_LOG_EVERY = 10.0  # seconds
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_LACKING = {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL}  # an address that is not of this machine
_TEXT = {
    "address": "a client's address has --max-connections-per-address connections: closing new ones",
    "busy": "all --max-connections connections are busy: new ones have to wait",
    "files": "no file descriptor is left for a new connection",
    "idle": "--max-connections is reached: closing the connections that were idle longest",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a port allows. 0 is no limit, except for `most`."""

    most: int  # connections
    of_address: int  # connections of one address
    head: float  # seconds for the head of a request
    unread: float = 0.0  # seconds in which a client must take something of its answer


class Listener:
    """The sockets of one port and its connections. Used on one event loop's thread."""

    def __init__(
        self, server: web.Server, limits: Limits, counts: Counts, secure: ssl.SSLContext | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._limits = limits
        self._secure = secure
        self._counts = counts
        self._sockets: list[socket.socket] = []
        self._open: set[Connection] = set()
        self._of_address: Counter[str] = Counter()
        self._oldest: deque[tuple[Connection, float]] = deque()  # idle ones, as of the last time it was made
        self._logged: dict[str, float] = {}
        self._watching: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int, *, reuse_port: bool = False) -> str:
        """Listen on one more address, or on a UNIX socket whose path ends in .sock. With `reuse_port`, others can too.

        Returns what the address has become. Raises OSError.
        """
        if host.endswith(".sock"):
            sockets = [_unix_socket(host)]
        else:
            sockets = await _tcp_sockets(self._loop, host, port, reuse_port=reuse_port)
        self._sockets += sockets
        for sock in sockets:
            sock.listen(_BACKLOG)
            sock.setblocking(False)
            self._loop.add_reader(sock, self._accept, sock)
        if self._limits.unread and self._watching is None:
            self._watching = self._loop.create_task(Unread(self._open, self._limits.unread).watch())
        return ", ".join(str(sock.getsockname()) for sock in sockets)

    @property
    def port(self) -> int:
        """The port of the first address, 0 without one."""
        return next((sock.getsockname()[1] for sock in self._sockets if sock.family != socket.AF_UNIX), 0)

    def close(self) -> None:
        """Accept nothing more, and end the handshakes."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets = []
        if self._watching is not None:
            self._watching.cancel()
        for connection in [each for each in self._open if each.opening is not None]:
            self._drop(connection)

    # ---- accepting

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_BURST):
            full = len(self._open) >= self._limits.most
            if full and self._oldest_idle() is None:
                self._limited("busy")
                self._pause(sock)
                return
            try:
                client, address = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _SCARCE:  # an error of the new connection's network, as accept(2) says
                    _log.debug("a connection failed before it was accepted: %s", error)
                    continue
                self._no_descriptor(sock)
                return
            if full:
                self._make_room()
            self._take(client, str(address[0]) if sock.family != socket.AF_UNIX else "")

    def _no_descriptor(self, sock: socket.socket) -> None:
        self._limited("files")
        if self._oldest_idle() is not None:
            self._make_room()
        self._pause(sock)

    def _pause(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        self._loop.call_later(_PAUSE, self._resume, sock)

    def _resume(self, sock: socket.socket) -> None:
        if sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def _take(self, client: socket.socket, address: str) -> None:
        client.setblocking(False)
        if self._limits.of_address and address and self._of_address[address] >= self._limits.of_address:
            self._limited("address")
            client.close()
            return
        connection = Connection(
            self._server,
            self._loop,
            address=address,
            head_timeout=self._limits.head,
            counts=self._counts,
            lost=self._forget,
        )
        self._open.add(connection)
        self._counts.open = len(self._open)
        if self._limits.of_address:
            self._of_address[address] += 1
        connection.opening = self._loop.create_task(self._hand_over(connection, client))

    async def _hand_over(self, connection: Connection, client: socket.socket) -> None:
        handshake = self._limits.head or None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                client,
                ssl=self._secure,
                ssl_handshake_timeout=handshake if self._secure else None,
            )
        except asyncio.CancelledError:
            self._forget(connection)
            raise
        except OSError as error:  # errors of TLS too
            if isinstance(error, ConnectionAbortedError):
                self._counts.limited["head"] += 1
            self._forget(connection)

    # ---- room

    def _oldest_idle(self) -> Connection | None:
        """The connection that has been idle longest, None if all are busy or new."""
        for _ in range(2):
            while self._oldest:
                connection, since = self._oldest[0]
                if connection in self._open and connection.idle_since == since:
                    return connection
                self._oldest.popleft()
            newest = self._loop.time() - _GRACE
            idle = [(one, at) for one in self._open if (at := one.idle_since) is not None and at <= newest]
            self._oldest = deque(sorted(idle, key=lambda item: item[1]))
        return None

    def _make_room(self) -> None:
        if (connection := self._oldest_idle()) is not None:
            self._limited("idle")
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        connection.drop()
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        if connection not in self._open:
            return
        self._open.remove(connection)
        self._counts.open = len(self._open)
        if self._limits.of_address:
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]

    def _limited(self, reason: str) -> None:
        """Count what a limit did, and log it now and then."""
        self._counts.limited[reason] += 1
        now = self._loop.time()
        if now - self._logged.get(reason, -_LOG_EVERY) >= _LOG_EVERY:
            self._logged[reason] = now
            _log.warning("%s (%d open, %d times so far)", _TEXT[reason], len(self._open), self._counts.limited[reason])


def _unix_socket(path: str) -> socket.socket:
    """A socket at this path, in place of the one of an earlier process."""
    with suppress(FileNotFoundError):
        if Path(path).is_socket():
            Path(path).unlink()
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


async def _tcp_sockets(
    loop: asyncio.AbstractEventLoop, host: str, port: int, *, reuse_port: bool
) -> list[socket.socket]:
    """One socket for each address of the host that this kernel has: one without IPv6 still finds ::1 in /etc/hosts."""
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    lacking: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sockets.append(_tcp_socket(family, kind, protocol, address, reuse_port=reuse_port))
            except OSError as error:
                if error.errno not in _LACKING:
                    raise
                lacking = error
        if lacking is not None and not sockets:
            raise lacking
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _tcp_socket(
    family: int, kind: int, protocol: int, address: tuple[object, ...], *, reuse_port: bool
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
