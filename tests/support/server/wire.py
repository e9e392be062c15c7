"""A server that sends what it is told to, byte by byte: right answers, wrong ones, and none."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Self

Step = Callable[["Wire", asyncio.StreamWriter], Awaitable[None]]


def answer(head: str, body: bytes = b"", *, length: int | None = -1) -> Step:
    """A status line with headers, and a body; `length` other than the body's, None for no Content-Length."""

    async def step(wire: "Wire", writer: asyncio.StreamWriter) -> None:
        size = len(body) if length == -1 else length
        lines = [f"HTTP/1.1 {head}", "Connection: close"]
        lines += [] if size is None else [f"Content-Length: {size}"]
        writer.write("\r\n".join([*lines, "", ""]).replace("{url}", wire.url).encode() + body)
        await writer.drain()
        writer.close()

    return step


def raw(data: bytes) -> Step:
    """These bytes."""

    async def step(wire: "Wire", writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return step


def reset(before: bytes = b"") -> Step:
    """These bytes, then a reset."""

    async def step(wire: "Wire", writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        await writer.drain()
        writer.transport.abort()

    return step


def silence(before: bytes = b"") -> Step:
    """These bytes, then nothing until the client leaves."""

    async def step(wire: "Wire", writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        await writer.drain()
        await wire.left.wait()
        writer.close()

    return step


class Wire:
    """Takes connections; each gets the next step, and the last step again and again.

    A step begins when a request has come, or `at_once`.
    """

    def __init__(
        self, *steps: Step, secure: ssl.SSLContext | None = None, at_once: bool = False, host: str = "127.0.0.1"
    ) -> None:
        self.requests: list[str] = []  # heads, as they came
        self.left = asyncio.Event()
        self.port = 0
        self._steps, self._secure, self._at_once, self._host = list(steps), secure, at_once, host

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http{'s' if self._secure else ''}://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._secure)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.left.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = b"" if self._at_once else await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            writer.close()
            return
        self.requests.append(head.decode())
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        try:
            await step(self, writer)
        except ConnectionError:
            return
