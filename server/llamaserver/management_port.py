"""The management port: a thread with an event loop of its own, so that probes get an answer whatever clients do."""

import asyncio
import logging
import threading
from concurrent.futures import Future
from dataclasses import replace

from aiohttp import web

from .api.app import build_management_app
from .api.connections import Counts
from .api.context import Context
from .errors import ConfigError
from .listener import Limits, Listener

_log = logging.getLogger(__name__)
_LIMITS = Limits(most=64, of_address=0, head=10.0)
_KEEP_ALIVE = 75.0  # seconds
_SHUTDOWN = 0.5  # seconds that its handlers get at the end
_JOIN = 3.0  # seconds that its thread gets


class ManagementPort:
    """Serves the probes, metrics and status of a context."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._thread = threading.Thread(target=self._run, name="management", daemon=True)
        self._opened: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()

    async def open(self) -> None:
        """Listen. Raises ConfigError if the address cannot be used."""
        self._clients = asyncio.get_running_loop()
        self._thread.start()
        await asyncio.wrap_future(self._opened)

    async def close(self) -> None:
        """Close the port and its connections."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            await asyncio.to_thread(self._thread.join, _JOIN)

    # ---- on its own thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if not self._opened.done():
                self._opened.set_exception(error)

    async def _serve(self) -> None:
        config = self._context.config
        runner = web.AppRunner(
            build_management_app(self._context),
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE,
            shutdown_timeout=_SHUTDOWN,
        )
        await runner.setup()
        assert runner.server is not None
        listener = Listener(runner.server, replace(_LIMITS, unread=config.timeout), Counts())
        try:
            _log.info(
                "the management port listens on %s",
                await listener.listen(config.management_host, config.management_port),
            )
        except OSError as error:
            where = f"{config.management_host}:{config.management_port}"
            raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error
        self._loop = asyncio.get_running_loop()
        self._opened.set_result(None)
        watching = asyncio.create_task(self._context.heartbeat.watch(self._clients))
        await self._end.wait()
        watching.cancel()
        listener.close()
        await runner.cleanup()
