"""A server's life: bind, download, load, serve, drain, end.

The ports are bound before the model is there, so that /health can say so. SIGTERM drains, SIGINT
and a second SIGTERM stop at once.
"""

import asyncio
import contextlib
import logging
import math
import signal
import ssl
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from . import store_setup, termination, tls
from .api.app import build_app, build_context, build_management_app
from .api.context import Context, Download
from .api.system import load_system_prompt
from .api.template_check import check_given_template, check_template
from .config import Config
from .engine.loop import Engine
from .errors import ConfigError, ModelLoadError, TemplateInvalid, Unavailable
from .interfaces.backend import Backend
from .kvstore.store import KVStore
from .llama.templates import LlamaTemplates
from .models import cache, digest, download, huggingface, origin
from .models.source import Source, file_name, shards
from .scheduling.settings import EngineSettings
from .threads import default_threads

if TYPE_CHECKING:
    from .llama.options import LoadOptions

_log = logging.getLogger(__name__)
_RETIRED = 8  # sequences that a unified cache keeps beside the slots
_STORE_STALLS = 10.0  # seconds without a byte written after which an ending server goes
_FORGOTTEN = 3.0  # seconds without a request after which nobody is led here any more
_LOOK = 0.1  # seconds between two looks at what runs
_QUIT = 1.5  # seconds that a stop without drain may take


def engine_settings(config: Config) -> EngineSettings:
    """How the engine schedules. A slot's size is exact: ctx_size // parallel, in a unified cache all of it."""
    return EngineSettings(
        n_slots=config.parallel,
        slot_ctx=config.ctx_size if config.kv_unified else config.slot_ctx,
        prompt_budget=config.prompt_budget,
        cont_batching=config.cont_batching,
        context_shift=config.context_shift,
        max_queue=config.max_queue,
        grp_attn_n=config.grp_attn_n,
        grp_attn_w=config.grp_attn_w,
        n_predict=config.n_predict,
        lora_scales=tuple(scale for _, scale in config.lora),
    )


def load_options(config: Config, model: Path) -> "LoadOptions":
    """What the backend loads. Options of the same name have the same meaning."""
    from .llama.options import LoadOptions

    threads = config.threads or default_threads()
    same = {name: getattr(config, name) for name in LoadOptions.__slots__ if hasattr(config, name)}
    return LoadOptions(
        **{
            **same,
            "model": str(model),
            "n_slots": config.parallel,
            "n_seq_max": min(256, config.parallel + _RETIRED) if config.kv_unified else config.parallel,
            "kv_unified": bool(config.kv_unified),
            # a pooled input has to fit one physical batch
            "ubatch_size": config.batch_size if config.embedding else min(config.ubatch_size, config.batch_size),
            "shifts": config.context_shift or config.grp_attn_n > 1,
            "threads": threads,
            "threads_batch": config.threads_batch or threads,
        }
    )


def _bytes_of(model: Path) -> int:
    """Size of all parts of a model; 0 when they are not there, which loading will tell."""
    try:
        return sum(model.with_name(part).stat().st_size for part in shards(model.name))
    except OSError:
        return 0


class Server:
    """One server from start to end."""

    def __init__(self, config: Config, environ: Mapping[str, str], crash_log: termination.CrashLog) -> None:
        self._config = config
        self._environ = environ
        self._crash_log = crash_log
        self._model = Path(config.model)
        self._engine = Engine(self._load, engine_settings(config), self._open_store)
        self._identities: store_setup.Identities | None = None
        self._context: Context = build_context(config, self._engine, LlamaTemplates())
        self._context.preparing = True
        self._runners: list[web.AppRunner] = []
        self._terminate = asyncio.Event()  # drain, then end
        self._quit = asyncio.Event()  # end now
        self._signal = signal.SIGTERM

    def _load(self, progress: Callable[[float], bool]) -> Backend:
        from .llama import devices
        from .llama.backend import LlamaBackend

        self._crash_log.model_bytes = _bytes_of(self._model)
        self._crash_log.phase("load")
        if store_setup.wanted(self._config):
            self._identities = store_setup.Identities(self._config, self._model)
        devices.initialise()
        self._crash_log.runs_on(devices.cpu_module())
        backend = LlamaBackend(load_options(self._config, self._model), progress)
        if self._config.warmup:
            self._crash_log.phase("warm-up")
            backend.warm_up()
        return backend

    def _open_store(self, backend: Backend) -> KVStore | None:
        if self._identities is None:
            return None
        return store_setup.open_store(self._config, self._model, backend, self._identities)

    async def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        self._catch_signals()
        self._crash_log.phase("load")
        for flag in self._config.ignored:
            _log.warning("%s has no effect here", flag)
        self._make_folders()
        background = [task async for task in self._bind()]
        if self._config.models_owner:
            background.append(asyncio.create_task(cache.keep(self._claim(), prune=True)))
        loading = asyncio.create_task(self._prepare())
        try:
            code = await self._until_end(loading)
        finally:
            for task in (*background, loading):
                task.cancel()
            self._context.close()
        return code

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

    # ---- start

    def _make_folders(self) -> None:
        """Saved slots hold what users wrote: for nobody else to read."""
        if path := self._config.slot_save_path:
            try:
                Path(path).mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"--slot-save-path {path}: {error.strerror or error}") from error

    async def _bind(self) -> AsyncIterator["asyncio.Task[None]"]:
        """Listen on both ports; yields tasks that run beside the server."""
        config = self._config
        secure: ssl.SSLContext | None = None
        if config.ssl_cert_file:
            files = (config.ssl_cert_file, config.ssl_key_file)
            seen = tls.stamps(*files)
            secure = tls.load(*files)
            yield asyncio.create_task(tls.watch(secure, *files, seen))
        await self._site(build_app(self._context), config.host, config.port, secure)
        if config.management_port:
            await self._site(build_management_app(self._context), config.management_host, config.management_port, None)

    async def _site(self, app: web.Application, host: str, port: int, secure: ssl.SSLContext | None) -> None:
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=float(self._config.timeout or 75),
            shutdown_timeout=2.0,
        )
        await runner.setup()
        self._runners.append(runner)
        site: web.BaseSite
        if host.endswith(".sock"):
            site = web.UnixSite(runner, host, ssl_context=secure)
        else:
            site = web.TCPSite(runner, host, port, ssl_context=secure, backlog=512)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        _log.info("listening on %s", ", ".join(str(address) for address in runner.addresses))

    async def _prepare(self) -> None:
        """Download when asked to, load, check the chat template, and set the system prompt."""
        config = self._config
        if config.chat_template_file:
            try:
                data = await asyncio.to_thread(Path(config.chat_template_file).read_bytes)
                self._context.template_file = data.decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"--chat-template-file {config.chat_template_file}: {error}") from error
        await check_given_template(self._context)
        if config.model_url or config.hf_repo:
            self._crash_log.phase("download")
            self._model = await self._download()
        self._engine.start()
        await self._loaded()
        info = self._engine.info
        self._context.model_sha256 = await asyncio.to_thread(digest.recorded, Path(info.path))
        await check_template(self._context)
        if config.system_prompt_file:
            await load_system_prompt(self._context, config.system_prompt_file)
        self._crash_log.phase("serving")
        self._context.preparing = False
        self._context.settled.set()
        _log.info(
            "model %s is ready: %s, %d slots of %d tokens, %s, %d/%d layers offloaded",
            info.path, info.description, config.parallel, self._engine.settings.slot_ctx, info.device,
            info.layers_offloaded, info.layers_total,
        )  # fmt: skip
        if config.require_offload and not info.layers_offloaded:
            _log.error("--require-offload: no layer is on a GPU; staying unready")

    async def _loaded(self) -> None:
        """Wait for the model. Of files from the cache it is kept whether they can be loaded: downloads read that."""
        try:
            await self._engine.loaded()
        except ModelLoadError as error:
            raise await asyncio.to_thread(origin.blamed, error) from error
        files = (str(self._model), self._config.mmproj, *(path for path, _ in self._config.lora))
        await asyncio.to_thread(origin.praise, [Path(file) for file in files if file])

    async def _download(self) -> Path:
        config = self._config
        if config.hf_repo:
            environ = {**self._environ, "HF_TOKEN": config.hf_token}
            repo, _, quant = config.hf_repo.partition(":")
            file = config.hf_file or await huggingface.choose_file(repo, quant, config.hf_revision, environ)
            source = huggingface.source(repo, file, config.hf_revision, environ)
            folder = config.models_dir / repo / config.hf_revision  # files of one name are not one file
        else:
            source = Source(config.model_url)
            folder = config.models_dir
        source = replace(source, sha256=config.model_sha256)
        target = Path(config.model) if config.model else folder / file_name(source.url)
        self._context.download = Download(target.name)
        try:
            return await download.fetch_model(source, target, self._on_download)
        finally:
            self._context.download = None

    def _on_download(self, have: int, total: int) -> None:
        if shown := self._context.download:
            self._context.download = Download(shown.file, have, total)
        self._engine.show_progress(have / total if total else 0.0)

    # ---- end

    async def _until_end(self, loading: "asyncio.Task[None]") -> int:
        stopping = asyncio.create_task(self._terminate.wait())
        await asyncio.wait({loading, stopping}, return_when=FIRST_COMPLETED)
        if loading.done() and (error := loading.exception()) is not None:
            _log.error("%s", error)
            if not isinstance(error, ModelLoadError | ConfigError):
                _log.error("loading failed", exc_info=error)
            self._engine.show_failure(error)
            self._context.settled.set()
            if not self._config.stay_on_load_error:
                reason = (
                    "BadArguments" if isinstance(error, ConfigError)
                    else "TemplateInvalid" if isinstance(error, TemplateInvalid)
                    else "ModelLoadFailed"
                )  # fmt: skip
                termination.write(self._config.termination_log, reason, str(error) or type(error).__name__)
                return await self._stop(2 if isinstance(error, ConfigError) else 1)
            await self._stop_engine()  # a model that was loaded all the same would say that it is ready
            self._engine.show_failure(error)
        await stopping
        self._crash_log.phase("draining")
        if self._signal == signal.SIGTERM and self._engine.snapshot.state == "ready":
            await self._drain()
        code = await self._stop(0 if self._signal == signal.SIGTERM else 130)
        self._crash_log.clear()
        return code

    async def _drain(self) -> None:
        """Let clients find another server, then running requests end."""
        config, drain, clock = self._config, self._context.drain, asyncio.get_running_loop().time
        began = clock()
        refusal = began + config.drain_delay
        deadline = refusal + config.drain_timeout
        _log.info("draining: unready now, refusing new connections in %gs", config.drain_delay)
        drain.begin()
        self._engine.save_all()
        while not self._quit.is_set() and not self._is_over():
            if clock() >= deadline:
                await self._cut_off()
                break
            if clock() >= refusal and not drain.refusing:
                drain.refuse(spared=self._connections())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quit.wait(), _LOOK)
        drain.refuse()
        self._close_idle_connections()
        if not self._quit.is_set():
            end = deadline + config.save_timeout if config.save_timeout else math.inf
            await self._finish_saving(end)

    def _connections(self) -> list[RequestHandler]:
        """Those of the client port that are open."""
        server = self._runners[0].server
        return server.connections if server is not None else []

    def _is_over(self) -> bool:
        """Whether the drain has nothing to wait for. Without a delay, nobody is expected to come."""
        return self._context.drain.is_over(self._connections(), min(_FORGOTTEN, self._config.drain_delay))

    async def _cut_off(self) -> None:
        """End running requests with an error."""
        _log.warning("running requests are cut off")
        self._context.drain.refuse()
        cut = self._engine.cut_off(Unavailable("the server is shutting down; this answer is not complete"))
        await self._until_quit_or(cut, self._config.save_timeout or None)

    def _close_idle_connections(self) -> None:
        """Not those of monitoring: they go on until the end."""
        for connection in self._connections():
            if self._context.drain.is_idle(connection) and connection.transport is not None:
                connection.transport.close()

    async def _finish_saving(self, end: float) -> None:
        """Wait for the KV store as long as it gets on, and not beyond `end`."""
        saved = asyncio.create_task(self._engine.saved())
        clock, left = asyncio.get_running_loop().time, (-1, -1)
        while not saved.done() and not self._quit.is_set() and left != (left := self._left_to_save()) and clock() < end:
            await self._until_quit_or(saved, min(_STORE_STALLS, end - clock()))
        if not saved.done():
            _log.warning("%d conversations are not saved", self._engine.snapshot.kv_unsaved)
            saved.cancel()

    def _left_to_save(self) -> tuple[int, int]:
        """Conversations, and how far the one is that is being written: it may take minutes."""
        store = self._engine.store
        return self._engine.snapshot.kv_unsaved, store.stats().bytes_written if store is not None else 0

    async def _until_quit_or(self, done: "asyncio.Future[Any]", seconds: float | None) -> None:
        """Wait for it, for a signal to end at once, or for so many seconds."""
        quitting = asyncio.create_task(self._quit.wait())
        await asyncio.wait({done, quitting}, timeout=seconds, return_when=FIRST_COMPLETED)
        quitting.cancel()

    async def _stop(self, code: int) -> int:
        """End the engine, then the ports; a library call that does not return is left behind."""
        self._context.drain.refuse()
        self._context.settled.set()
        await self._stop_engine()
        for runner in self._runners:
            await runner.cleanup()
        _log.info("stopped")
        return code

    async def _stop_engine(self) -> None:
        try:
            await asyncio.wait_for(self._engine.stop(), _QUIT)
        except TimeoutError:
            _log.warning("the library does not return; leaving it")
