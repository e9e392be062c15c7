"""A server's life: open the ports, load the model, serve, drain, end.

SIGTERM drains. SIGINT and a second SIGTERM end the server at once.
"""

import asyncio
import logging
import signal
from asyncio import FIRST_COMPLETED
from collections.abc import Mapping
from pathlib import Path

from . import termination
from .config import Config
from .errors import ConfigError, ModelLoadError, Reason, TemplateInvalid
from .file_limit import raise_file_limit
from .listening import Ports
from .models import cache
from .readiness import Phase
from .shutdown import Shutdown
from .startup import Startup

_log = logging.getLogger(__name__)
_EXIT_FAILED = 1  # the model cannot be loaded, or the engine cannot go on
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130  # as shells have it for SIGINT


class Server:
    """One server from start to end."""

    def __init__(self, config: Config, environ: Mapping[str, str], crash_log: termination.CrashLog) -> None:
        self._config = config
        self._crash_log = crash_log
        self._startup = Startup(config, environ, crash_log)
        self._engine = self._startup.engine
        self._context = self._startup.context
        self._ports = Ports(self._context)
        self._terminate = asyncio.Event()  # drain, then end
        self._quit = asyncio.Event()  # end now
        self._shutdown = Shutdown(self._context, self._ports, self._quit)
        self._signal = signal.SIGTERM

    async def run(self) -> int:
        """Serve until a signal ends the server. Returns the exit code."""
        self._catch_signals()
        raise_file_limit()
        self._crash_log.phase("load")
        for note in self._config.notes:
            _log.info("%s", note)
        for warning in self._config.warnings:
            _log.warning("%s", warning)
        self._make_folders()
        await self._ports.open()
        tasks = [asyncio.create_task(self._startup.prepare())]
        if self._config.models_owner:
            tasks.append(asyncio.create_task(cache.keep(self._claim(), prune=True)))
        try:
            return await self._until_end(tasks[0])
        finally:
            for task in tasks:
                task.cancel()
            self._ports.stop_watching()
            self._context.close()

    def _claim(self) -> cache.Claim:
        config = self._config
        return cache.Claim(config.models_dir, config.models_owner, config.models_use, config.models_prune_after)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        loop.add_signal_handler(signal.SIGINT, self._on_sigint)

    def _on_sigterm(self) -> None:
        if self._terminate.is_set():
            self._quit.set()
        self._terminate.set()

    def _on_sigint(self) -> None:
        self._signal = signal.SIGINT
        self._quit.set()
        self._terminate.set()

    def _make_folders(self) -> None:
        """Make the folder for saved slots. They hold what users wrote, so nobody else may read it."""
        if path := self._config.slot_save_path:
            try:
                Path(path).mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"--slot-save-path {path}: {error.strerror or error}") from error

    async def _until_end(self, loading: "asyncio.Task[None]") -> int:
        terminated = asyncio.create_task(self._terminate.wait())
        await asyncio.wait({loading, terminated}, return_when=FIRST_COMPLETED)
        error = loading.exception() if loading.done() else None
        if error is not None:
            await self._report(error)
            if not self._config.stay_on_load_error:
                termination.write(self._config.termination_log, _reason(error), self._context.failure)
                await self._shutdown.stop()
                return _EXIT_USAGE if isinstance(error, ConfigError) else _EXIT_FAILED
        lost = asyncio.create_task(self._engine.lost.wait())
        await asyncio.wait({terminated, lost}, return_when=FIRST_COMPLETED)
        if lost.done():
            termination.write(self._config.termination_log, Reason.ENGINE_FAILED, self._engine.snapshot.error)
            await self._shutdown.stop()
            return _EXIT_FAILED
        self._crash_log.phase("draining")
        serves = self._engine.snapshot.state == Phase.READY and not self._engine.alarm.dead
        if self._signal == signal.SIGTERM and serves:
            await self._shutdown.drain()
        code = 0 if self._signal == signal.SIGTERM else _EXIT_INTERRUPTED
        await self._shutdown.stop()
        self._crash_log.clear()
        return code

    async def _report(self, error: BaseException) -> None:
        """Show in the log and to the probes that there is no model."""
        _log.error("%s", error)
        if not isinstance(error, ModelLoadError | ConfigError):
            _log.error("loading failed", exc_info=error)
        self._context.failure = str(error) or type(error).__name__
        self._context.settled.set()
        if self._config.stay_on_load_error:
            await self._shutdown.stop_engine()


def _reason(error: BaseException) -> Reason:
    """The word for the termination log."""
    if isinstance(error, ConfigError):
        return Reason.BAD_ARGUMENTS
    if isinstance(error, TemplateInvalid):
        return Reason.TEMPLATE_INVALID
    return Reason.MODEL_LOAD_FAILED
