"""Server-sent events.

The response is opened with the first event or the first ping, so that an early failure is a plain HTTP error. A
later failure is an event of the stream. Pings keep a waiting stream alive. A slow reader delays its own stream,
and unread.py cuts off one that does not read at all.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from aiohttp import web

from ..engine.stream import Stream
from ..errors import ServerError, as_server_error
from ..interfaces.output import Delta, Event, Failed
from .answer import join_deltas
from .body import client_of, dumps
from .context import CONTEXT
from .fields import Fields

_PING = b": ping\n\n"
_ON_THREAD_FROM = 1 << 14  # characters that the end of an answer has to read
_JOINED_FROM = 256  # events of an answer in one piece: an event takes more memory than its text

Encode = Callable[[int, Event], bytes]
Batch = list[tuple[int, Event]]  # events that are ready, with the index of the stream of each
Ping = Callable[[], bytes]


class EventStream:
    """One text/event-stream response."""

    def __init__(self, request: web.Request, ping: Ping = lambda: _PING, ping_after: float | None = None) -> None:
        """Prepare a stream. `ping_after` is in seconds without an event: 0 or below is never, None is the server's."""
        self._request = request
        self._ping_after = request.app[CONTEXT].config.sse_ping_interval if ping_after is None else ping_after
        self._ping = ping
        self._response: web.StreamResponse | None = None
        self._opening = asyncio.Lock()
        self._wrote = False  # since the last look of the pinger
        self._encoding = False  # a worker thread makes the next events

    async def write(self, data: bytes) -> None:
        """Send bytes. Waits for a slow reader."""
        response = self._response or await self._open()
        self._wrote = True
        await response.write(data)

    async def _open(self) -> web.StreamResponse:
        async with self._opening:
            if self._response is None:
                response = web.StreamResponse(
                    headers={
                        "Content-Type": "text/event-stream",
                        "Cache-Control": "no-cache",
                        "X-Accel-Buffering": "no",
                    }
                )
                if self._request.app[CONTEXT].drain.closes(self._request):
                    response.force_close()
                await response.prepare(self._request)
                self._response = response
            return self._response

    @property
    def is_open(self) -> bool:
        """Whether the status line was sent."""
        return self._response is not None

    async def ping(self) -> None:
        """Send a sign of life after each time without an event. Runs until cancelled."""
        while self._ping_after > 0:
            await asyncio.sleep(self._ping_after)
            if not self._wrote and not self._encoding:
                await self.write(self._ping())
            self._wrote = False

    async def on_thread(self, encode: Callable[[], bytes]) -> bytes:
        """Make the next events on a worker thread. No sign of life comes between: it may share state with them."""
        self._encoding = True
        data = await self._request.app[CONTEXT].blocking(encode, client=client_of(self._request))
        self._encoding = False
        return data

    async def finish(self) -> web.StreamResponse:
        """End the response."""
        response = self._response or await self._open()
        await response.write_eof()
        return response


def ping_after(fields: Fields) -> float | None:
    """The field `sse_ping_interval`, for EventStream."""
    _, value = fields.get("sse_ping_interval")
    return None if value is None else fields.integer("sse_ping_interval", default=-1, low=-1)


async def respond(
    request: web.Request,
    streams: Sequence[Stream],
    encode: Encode,
    *,
    head: bytes = b"",
    tail: bytes = b"",
    fail: Callable[[ServerError], bytes] = lambda error: sse(error.body()),
    ping: Ping = lambda: _PING,
    ping_after: float | None = None,
    held: Callable[[], int] = lambda: 0,
) -> web.StreamResponse:
    """Stream the events of all `streams`, with `head` before the first and `tail` after the last one.

    If a stream that is open fails, `fail` tells the client. `ping` keeps a waiting stream alive, every `ping_after`
    seconds. `held` counts the characters that the end of an answer has to read. If they are many, a worker thread does.
    """
    out = EventStream(request, ping, ping_after)
    pinger = asyncio.create_task(out.ping())
    try:
        pending = head
        async for batch in batches(streams):
            failed = [as_server_error(event.error) for _, event in batch if isinstance(event, Failed)]
            if failed and not out.is_open:
                raise failed[0]
            call = partial(_encoded, batch, encode)
            data = await out.on_thread(call) if held() >= _ON_THREAD_FROM and _ends(batch) else call()
            await out.write(b"".join([pending, data, *map(fail, failed[:1])]))
            if failed:
                return await out.finish()
            pending = b""
        if tail:
            await out.write(tail)
        return await out.finish()
    finally:
        pinger.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await pinger


def _encoded(batch: Batch, encode: Encode) -> bytes:
    return b"".join(encode(index, event) for index, event in batch if not isinstance(event, Failed))


def _ends(batch: Batch) -> bool:
    return not all(isinstance(event, Delta) for _, event in batch)


def sse(value: Any) -> bytes:
    """One event."""
    return b"data: " + dumps(value) + b"\n\n"


async def batches(streams: Sequence[Stream]) -> AsyncIterator[Batch]:
    """Events of several streams as they come, with the index of the stream. Events that are ready come together."""
    if len(streams) == 1:
        only = streams[0]
        while True:
            batch: Batch = [(0, await only.next())]
            while only.ready() and isinstance(batch[-1][1], Delta):
                batch.append((0, only.take()))
            yield batch
            if not isinstance(batch[-1][1], Delta):
                return
    waiting = {asyncio.ensure_future(stream.next()): index for index, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            batch = []
            for task in done:
                index = waiting.pop(task)
                event = task.result()
                batch.append((index, event))
                if isinstance(event, Delta):
                    waiting[asyncio.ensure_future(streams[index].next())] = index
            yield batch
    finally:
        for task in waiting:
            task.cancel()


async def gather(streams: Sequence[Stream]) -> list[list[Event]]:
    """The events of every stream, many of them joined into one. Raises the first failure."""
    collected: list[list[Event]] = [[] for _ in streams]
    async for batch in batches(streams):
        for index, event in batch:
            if isinstance(event, Failed):
                raise as_server_error(event.error)
            collected[index].append(event)
            if len(collected[index]) >= _JOINED_FROM and isinstance(event, Delta):
                collected[index] = [join_deltas(collected[index])]
    return collected
