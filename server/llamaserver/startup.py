"""From a configuration to a model in service: download, load, warm-up and checks."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from . import store_setup, termination
from .api.app import build_context
from .api.context import Context, Download
from .api.request_defaults import check_request_defaults
from .api.system import load_system_prompt
from .api.template_check import check_given_template, check_template
from .config import Config
from .engine.loop import Engine
from .engine_options import engine_settings, load_options
from .errors import ConfigError, ModelLoadError
from .interfaces.backend import Backend
from .kvstore.store import KVStore
from .llama.templates import LlamaTemplates
from .models import digest, download, huggingface, origin
from .models.source import Source, file_name, shards

_log = logging.getLogger(__name__)


class Startup:
    """The engine and the state of the API, and how they get a model."""

    def __init__(self, config: Config, environ: Mapping[str, str], crash_log: termination.CrashLog) -> None:
        self._config = config
        self._environ = environ
        self._crash_log = crash_log
        self._model = Path(config.model)
        self._identities: store_setup.Identities | None = None
        store_setup.secret(config)  # a mistake shows before the model is loaded
        self.engine = Engine(self._load, engine_settings(config), self._open_store)
        self.context: Context = build_context(config, self.engine, LlamaTemplates())
        self.context.preparing = True

    async def prepare(self) -> None:
        """Download the model if needed, load it, check its chat template, and set the system prompt.

        Raises ModelLoadError or ConfigError.
        """
        config = self._config
        if config.chat_template_file:
            self.context.template_file = await self._read_template(config.chat_template_file)
        await check_given_template(self.context)
        if config.model_url or config.hf_repo:
            self._crash_log.phase("download")
            self._model = await self._download()
        if config.device or config.override_tensor:
            await asyncio.to_thread(self._check_placement)
        self.engine.start()
        await self._loaded()
        info = self.engine.info
        self.context.model_sha256 = await asyncio.to_thread(digest.recorded, Path(info.path))
        await check_template(self.context)
        await asyncio.to_thread(check_request_defaults, self.context)
        if config.system_prompt_file:
            await load_system_prompt(self.context, config.system_prompt_file)
        self._crash_log.phase("serving")
        self.context.preparing = False
        self.context.settled.set()
        _log.info(
            "model %s is ready: %s, %d slots of %d tokens, %s, %d/%d layers offloaded",
            info.path, info.description, config.parallel, self.engine.settings.slot_ctx, info.device,
            info.layers_offloaded, info.layers_total,
        )  # fmt: skip
        if config.require_offload and not info.layers_offloaded:
            _log.error("--require-offload: no layer is on a GPU, so the server stays unready")

    async def _read_template(self, path: str) -> str:
        try:
            data = await asyncio.to_thread(Path(path).read_bytes)
            return data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--chat-template-file {path}: {error}") from error

    def _check_placement(self) -> None:
        from .llama import placement

        placement.check(self._config.device, self._config.override_tensor)

    async def _loaded(self) -> None:
        """Wait for the model. Downloads look up later whether files of the cache could be loaded, so it is recorded."""
        try:
            await self.engine.loaded()
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
            folder = config.models_dir / repo / config.hf_revision  # other revisions have files of the same name
        else:
            source = Source(config.model_url)
            folder = config.models_dir
        source = replace(source, sha256=config.model_sha256)
        target = Path(config.model) if config.model else folder / file_name(source.url)
        self.context.download = Download(target.name)
        try:
            return await download.fetch_model(source, target, self._on_download)
        finally:
            self.context.download = None

    def _on_download(self, have: int, total: int) -> None:
        if running := self.context.download:
            self.context.download = Download(running.file, have, total)

    # ---- on the engine's thread

    def _load(self, progress: Callable[[float], bool]) -> Backend:
        from .llama import devices
        from .llama.backend import LlamaBackend

        self._crash_log.model_bytes = bytes_of(self._model)
        self._crash_log.phase("load")
        self._progress = progress
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
        return store_setup.open_store(self._config, self._model, backend, self._identities, self._progress)


def bytes_of(model: Path) -> int:
    """Size of all parts of a model. 0 if some are missing: loading reports that."""
    try:
        return sum(model.with_name(part).stat().st_size for part in shards(model.name))
    except OSError:
        return 0
