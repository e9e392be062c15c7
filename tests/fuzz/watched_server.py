"""A server that measures how late the callbacks of its clients' event loop run.

It writes, each second, how many callbacks were late by how many milliseconds to the file LAG_FILE. Beside it, the file
with `-own` at its end has the same without the time in which other processes had the processors: a callback is late by
itself for at most the processor time that this process took meanwhile.
"""

import asyncio
import json
import os
import time
from collections import Counter
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
        self._late: Counter[int] = Counter()
        self._own: Counter[int] = Counter()
        self._used = time.process_time()
        self._written = self._loop.time()

    def tick(self, due: float) -> None:
        now = self._loop.time()
        used, before = time.process_time(), self._used
        self._used = used
        self._late[_milliseconds(now - due)] += 1
        self._own[_milliseconds(min(now - due, used - before))] += 1
        if now - self._written > 1:
            self._written = now
            self._path.write_text(json.dumps(self._late))
            self._path.with_name(f"{self._path.name}-own").write_text(json.dumps(self._own))
        due = self._loop.time() + _EVERY
        self._loop.call_at(due, self.tick, due)


def _milliseconds(seconds: float) -> int:
    return min(_MOST, max(0, int(seconds * 1000)))


def _watched(server: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        _Watch(Path(os.environ["LAG_FILE"])).tick(asyncio.get_running_loop().time())
        await server

    _run(run())


_run = uvloop.run

if __name__ == "__main__":
    uvloop.run = _watched  # type: ignore[assignment]
    main()
