"""The ports of a server: opened before the model is there, so that /health can answer."""

import asyncio
import logging
import ssl

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from . import tls
from .api.app import build_app, build_management_app
from .api.context import Context
from .config import Config
from .errors import ConfigError

_log = logging.getLogger(__name__)
_BACKLOG = 512  # connections that wait to be accepted
_KEEP_ALIVE = 75.0  # seconds that an idle connection stays open, where --timeout is 0
_SHUTDOWN = 2.0  # seconds that handlers get when a port is closed


class Ports:
    """The clients' port and the management port."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runners: list[web.AppRunner] = []
        self._watcher: asyncio.Task[None] | None = None  # of the TLS certificate

    async def open(self) -> None:
        """Listen. Raises ConfigError if an address or a certificate cannot be used."""
        config = self._context.config
        secure = self._secure(config) if config.ssl_cert_file else None
        await self._listen(build_app(self._context), config.host, config.port, secure)
        if config.management_port:
            app = build_management_app(self._context)
            await self._listen(app, config.management_host, config.management_port, None)

    def _secure(self, config: Config) -> ssl.SSLContext:
        files = (config.ssl_cert_file, config.ssl_key_file)
        seen = tls.stamps(*files)
        secure = tls.load(*files)
        self._watcher = asyncio.create_task(tls.watch(secure, *files, seen))
        return secure

    async def _listen(self, app: web.Application, host: str, port: int, secure: ssl.SSLContext | None) -> None:
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=float(self._context.config.timeout or _KEEP_ALIVE),
            shutdown_timeout=_SHUTDOWN,
        )
        await runner.setup()
        self._runners.append(runner)
        site: web.BaseSite
        if host.endswith(".sock"):
            site = web.UnixSite(runner, host, ssl_context=secure)
        else:
            site = web.TCPSite(runner, host, port, ssl_context=secure, backlog=_BACKLOG)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        _log.info("listening on %s", ", ".join(str(address) for address in runner.addresses))

    def connections(self) -> list[RequestHandler]:
        """The open connections of the clients' port."""
        server = self._runners[0].server
        return server.connections if server is not None else []

    def stop_watching(self) -> None:
        """Watch the certificate no longer."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def close(self) -> None:
        """Close both ports and their connections."""
        for runner in self._runners:
            await runner.cleanup()
