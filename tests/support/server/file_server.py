"""A real HTTP server of one file on this machine that breaks, stalls, redirects and changes its mind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

Plan = int | web.StreamResponse | Callable[["FileServer"], web.StreamResponse | None] | None


@dataclass
class FileServer:
    """Ranges and conditional requests are understood; `plan` holds what goes wrong, one entry a request.

    A number ends the connection after so many bytes, a response is sent as it is, a function is called before.
    """

    data: bytes
    etag: str = '"one"'
    ranges: bool = True
    plan: list[Plan] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    arrived: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FileServer"]:
        """Serve, under `url` and every other path."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/folder/model.gguf"))
            yield self

    def progress(self, have: int, total: int) -> None:
        """What the client reports."""
        self.arrived = have
        self.came.set()

    def ranges_asked(self) -> list[str]:
        """Of each request."""
        return [request.headers.get("Range", "") for request in self.requests]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        step = self.plan.pop(0) if self.plan else None
        if callable(step):
            step = step(self)
        if isinstance(step, web.StreamResponse):
            return step
        if self.etag and request.headers.get("If-None-Match") == self.etag:
            return web.Response(status=304, headers=self.headers)
        date = self.headers.get("Last-Modified")
        if not self.etag and date and request.headers.get("If-Modified-Since") == date:
            return web.Response(status=304)
        start = self._start(request)
        if start is not None and start >= len(self.data):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(self.data)}"})
        body = self.data[start or 0 :]
        response = web.StreamResponse(status=200 if start is None else 206, headers=dict(self.headers))
        if self.etag:
            response.headers["ETag"] = self.etag
        if start is not None:
            response.headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        response.content_length = len(body)
        await response.prepare(request)
        if step is None:
            await response.write(body)
            return response
        self.arrived = start or 0
        await response.write(body[:step])
        while self.arrived < (start or 0) + step:  # what the client has not taken by then would be lost
            self.came.clear()
            await self.came.wait()
        assert request.transport is not None
        request.transport.close()
        return response

    def _start(self, request: web.Request) -> int | None:
        ranged = self.ranges and "Range" in request.headers and request.headers["If-Range"] == self.etag
        return int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) if ranged else None
