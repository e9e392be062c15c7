"""The end of a server: drain, save conversations, stop the engine and close the ports."""

import asyncio
import contextlib
import logging
import math
from asyncio import FIRST_COMPLETED
from typing import Any

from .api.context import Context
from .errors import Unavailable
from .listening import Ports

_log = logging.getLogger(__name__)
_STORE_STALLS = 10.0  # seconds without a byte written after which the KV store is given up
_QUIET = 3.0  # seconds without a request after which no more are expected
_POLL = 0.1  # seconds between two looks at what still runs
_STOP = 1.5  # seconds that the engine may take to stop


class Shutdown:
    """Ends one server. When `quit` is set, it waits for nothing any more."""

    def __init__(self, context: Context, ports: Ports, quit_event: asyncio.Event) -> None:
        self._config = context.config
        self._context = context
        self._engine = context.engine
        self._ports = ports
        self._quit = quit_event

    async def drain(self) -> None:
        """Let clients find another server, let running requests end, and save conversations."""
        config, drain, clock = self._config, self._context.drain, asyncio.get_running_loop().time
        refusal = clock() + config.drain_delay
        deadline = refusal + config.drain_timeout
        _log.info("draining: unready now, refusing new connections in %gs", config.drain_delay)
        drain.begin()
        self._engine.save_all()
        while not self._quit.is_set() and not self._is_over():
            if clock() >= deadline:
                await self._cut_off()
                break
            if clock() >= refusal and not drain.refusing:
                drain.refuse(spared=self._ports.connections())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quit.wait(), _POLL)
        drain.refuse()
        self._close_idle_connections()
        if not self._quit.is_set():
            await self.finish_saving(deadline + config.save_timeout if config.save_timeout else math.inf)

    def _is_over(self) -> bool:
        """Whether no request runs and none is expected. Without a delay, none is."""
        return self._context.drain.is_over(self._ports.connections(), min(_QUIET, self._config.drain_delay))

    async def _cut_off(self) -> None:
        """End running requests with an error."""
        _log.warning("running requests are cut off")
        self._context.drain.refuse()
        cut = self._engine.cut_off(Unavailable("the server is shutting down. This answer is not complete"))
        await self._until_quit_or(cut, self._config.save_timeout or None)

    def _close_idle_connections(self) -> None:
        """Close idle connections of clients. Those of the management port stay open until the end."""
        for connection in self._ports.connections():
            if self._context.drain.is_idle(connection) and connection.transport is not None:
                connection.transport.close()

    async def finish_saving(self, end: float) -> None:
        """Wait until the KV store has saved everything, while it makes progress and until `end` (the loop's time)."""
        clock = asyncio.get_running_loop().time
        saved = asyncio.create_task(self._engine.saved())
        before = None
        while not saved.done() and not self._quit.is_set() and clock() < end:
            left = self._left_to_save()
            if left == before:
                break
            before = left
            await self._until_quit_or(saved, min(_STORE_STALLS, end - clock()))
        if not saved.done():
            _log.warning("%d conversations are not saved", self._engine.snapshot.kv_unsaved)
            saved.cancel()

    def _left_to_save(self) -> tuple[int, int]:
        """Unsaved conversations, and bytes written so far: one conversation may take minutes."""
        store = self._engine.store
        return self._engine.snapshot.kv_unsaved, store.stats().bytes_written if store is not None else 0

    async def _until_quit_or(self, done: "asyncio.Future[Any]", seconds: float | None) -> None:
        """Wait for `done`, for a signal to end at once, or for this many seconds."""
        quitting = asyncio.create_task(self._quit.wait())
        await asyncio.wait({done, quitting}, timeout=seconds, return_when=FIRST_COMPLETED)
        quitting.cancel()

    async def stop(self) -> None:
        """Stop the engine, then close the ports."""
        self._context.drain.refuse()
        self._context.settled.set()
        await self.stop_engine()
        await self._ports.close()
        _log.info("stopped")

    async def stop_engine(self) -> None:
        """Stop the engine. Its thread is left behind if a call of the library does not return."""
        try:
            await asyncio.wait_for(self._engine.stop(), _STOP)
        except TimeoutError:
            _log.warning("a call of the llama.cpp library does not return. The server ends without it")
