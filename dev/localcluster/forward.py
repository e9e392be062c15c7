"""A relay between the host's 127.0.0.1 and the cluster's network: one thread, TCP only.

A socket belongs to the network namespace of the thread that opens it. So each side may be the host's or the cluster's.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_CHUNK = 1 << 16


def enter_network(namespace: Path) -> None:
    """Move the calling thread, and no other, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(file, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns {namespace}: {os.strerror(number)}")
    finally:
        os.close(file)


def listen(address: tuple[str, int], namespace: Path | None = None) -> socket.socket:
    """A listening socket, in the namespace if one is given."""
    return _inside(namespace, lambda: socket.create_server(address, backlog=512))


def _inside(namespace: Path | None, act: Callable[[], T]) -> T:
    def entered() -> T:
        if namespace:
            enter_network(namespace)
        return act()

    with ThreadPoolExecutor(1) as pool:  # a thread of its own: it does not come back from the namespace
        return pool.submit(entered).result()


class Relay:
    """Connects clients of `listener` to an address in the network of `namespace` (None: the host)."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], namespace: Path | None) -> None:
        self._listener, self._target, self._namespace = listener, target, namespace
        self.host, self.port = listener.getsockname()[:2]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"relay to {target[0]}:{target[1]}", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the relay answers, for HTTP."""
        return f"http://{self.host}:{self.port}"

    def is_open(self) -> bool:
        """Whether the address accepts connections. A Service may still lead to a pod that is gone, and hang."""
        try:
            with _inside(self._namespace, lambda: socket.create_connection(self._target, timeout=0.5)):
                return True
        except OSError:
            return False

    def wait(self) -> None:
        """Wait for the end of the relay."""
        self._thread.join()

    def close(self) -> None:
        """Close the listener and all connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        if self._namespace:
            enter_network(self._namespace)
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()
        server.close()
        running = asyncio.all_tasks(self._loop)
        for task in running:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*running, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()  # the client sees a reset, as from a closed port
            return
        ends = (writer, back)
        try:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except (OSError, asyncio.CancelledError):
            for end in ends:
                end.transport.abort()
        finally:
            for end in ends:
                end.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK):
        target.write(chunk)
        await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()
