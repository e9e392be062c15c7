"""The health port: /healthz, /readyz, /metrics."""

from collections.abc import Callable

from aiohttp import web, web_response
from prometheus_client import CONTENT_TYPE_LATEST

from .config import Config
from .errors import ConfigError
from .metrics import Metrics

# aiohttp's own text has the versions of aiohttp and Python.
web_response.SERVER_SOFTWARE = "llamaserver"  # type: ignore[attr-defined]  # no part of its interface


class Health:
    """`problem` returns what is wrong ("" means nothing). `ready` returns whether this instance can become active."""

    def __init__(self, config: Config, metrics: Metrics, problem: Callable[[], str], ready: Callable[[], bool]) -> None:
        self._config = config
        self._metrics = metrics
        self._problem = problem
        self._ready = ready
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._exposition)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> int:
        """Listen. Returns the port. ConfigError when it is in use."""
        await self._runner.setup()
        host, port = self._config.health_host or None, self._config.health_port
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise ConfigError(f"cannot listen on port {port}: {error.strerror or error}") from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        problem = self._problem()
        return web.Response(text=problem or "ok", status=500 if problem else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(
            text="ok" if ready else "the API server has not been reached yet", status=200 if ready else 503
        )

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})
