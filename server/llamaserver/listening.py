"""The ports of a server: opened before the model is there, so that /health can answer."""

import asyncio
import logging
import ssl

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from . import tls
from .api.app import build_app
from .api.context import Context
from .config import Config
from .errors import ConfigError
from .file_limit import default_connections
from .listener import Limits, Listener
from .management_port import ManagementPort

_log = logging.getLogger(__name__)
_SHUTDOWN = 2.0  # seconds that handlers get when the port is closed


class Ports:
    """The clients' port and the management port."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None
        self._management: ManagementPort | None = None
        self._watcher: asyncio.Task[None] | None = None  # of the TLS certificate

    async def open(self) -> None:
        """Listen. Raises ConfigError if an address or a certificate cannot be used."""
        config = self._context.config
        secure = self._secure(config) if config.ssl_cert_file else None
        await self._listen(config, secure)
        if config.management_port:
            self._management = ManagementPort(self._context)
            await self._management.open()

    def _secure(self, config: Config) -> ssl.SSLContext:
        files = (config.ssl_cert_file, config.ssl_key_file)
        seen = tls.stamps(*files)
        secure = tls.load(*files)
        self._watcher = asyncio.create_task(tls.watch(secure, *files, seen))
        return secure

    async def _listen(self, config: Config, secure: ssl.SSLContext | None) -> None:
        self._runner = web.AppRunner(
            build_app(self._context),
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=float(config.keep_alive_timeout),
            shutdown_timeout=_SHUTDOWN,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        most = config.max_connections or default_connections()
        limits = Limits(most, config.max_connections_per_address, config.header_timeout, config.timeout)
        self._listener = Listener(self._runner.server, limits, self._context.connections, secure)
        addresses, port = [], config.port
        for host in config.hosts:
            try:
                addresses.append(await self._listener.listen(host, port, reuse_port=config.reuse_port))
            except OSError as error:
                raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
            port = port or self._listener.port
        _log.info("listening on %s, for at most %d connections", ", ".join(addresses), most)

    def connections(self) -> list[RequestHandler]:
        """The open connections of the clients' port."""
        server = self._runner.server if self._runner is not None else None
        return server.connections if server is not None else []

    def stop_watching(self) -> None:
        """Watch the certificate no longer."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def close(self) -> None:
        """Close both ports and their connections, the management port last."""
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._management is not None:
            await self._management.close()
