"""A server that measures how late the callbacks of its clients' event loop run.

It writes, each second, how many callbacks were late by how many milliseconds to the file LAG_FILE.
"""

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop
from llamaserver.__main__ import main

_EVERY = 0.01  # seconds between callbacks
_MOST = 10_000  # milliseconds


class _Watch:
    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._late: dict[int, int] = {}
        self._written = self._loop.time()

    def tick(self, due: float) -> None:
        now = self._loop.time()
        milliseconds = min(_MOST, max(0, int((now - due) * 1000)))
        self._late[milliseconds] = self._late.get(milliseconds, 0) + 1
        if now - self._written > 1:
            self._written = now
            self._path.write_text(json.dumps(self._late))
        due = self._loop.time() + _EVERY
        self._loop.call_at(due, self.tick, due)


def _watched(server: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        _Watch(Path(os.environ["LAG_FILE"])).tick(asyncio.get_running_loop().time())
        await server

    _run(run())


_run = uvloop.run

if __name__ == "__main__":
    uvloop.run = _watched  # type: ignore[assignment]
    main()
