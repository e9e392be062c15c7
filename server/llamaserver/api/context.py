"""The state that all handlers share: configuration, engine, worker threads, and what changes while serving."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import TypeVar

from aiohttp import web

from ..config import HTTP_THREADS, Config
from ..engine.loop import Engine
from ..interfaces.backend import BuiltinTemplates, Sampler
from ..interfaces.params import GenerationParams
from ..readiness import Phase, Readiness, readiness
from .body_bytes import BodyBytes
from .connections import Counts
from .drain import Drain
from .failed_keys import FailedKeys
from .heartbeat import Heartbeat
from .image_hosts import ImageHosts
from .kept_responses import KeptResponses
from .keys import KeyStore
from .lanes import Lane
from .limits import Limits
from .origins import Origins
from .remote_images import RemoteImages
from .slot_quota import SlotQuota
from .traffic import Traffic

T = TypeVar("T")
_LARGE_FROM = 100_000  # bytes of a body: larger ones have threads of their own
_LARGE_THREADS = 2


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """The system prompt: its token ids, and the names that /props returns to clients."""

    tokens: tuple[int, ...] = ()
    assistant_name: str = ""
    user_name: str = ""


@dataclass(frozen=True, slots=True)
class Download:
    """Progress of the server's own download, in bytes. A total of 0 is unknown."""

    file: str
    have: int = 0
    total: int = 0


@dataclass(slots=True)
class Context:
    """The state of one server. It changes on the event loop's thread only.

    The management port reads on a thread of its own: `config`, `engine`, what `readiness` and `load_progress` read,
    `settled`, and plain attributes that are replaced as a whole. It reads no list or dict that changes in place.
    """

    config: Config
    engine: Engine
    keys: KeyStore
    builtin: BuiltinTemplates
    drain: Drain = field(default_factory=Drain)
    limits: Limits = field(default_factory=Limits)
    traffic: Traffic = field(default_factory=Traffic)
    failed_keys: FailedKeys = field(default_factory=FailedKeys)
    preparing: bool = False  # the model is loaded, its template and system prompt are not checked yet
    failure: str = ""  # why the start has failed, even if the engine could serve
    settled: threading.Event = field(default_factory=threading.Event)  # set when the server is ready or has failed
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    connections: Counts = field(default_factory=Counts)  # of the clients' port
    system: SystemPrompt = field(default_factory=SystemPrompt)
    download: Download | None = None  # while one runs
    model_sha256: str = ""  # as recorded beside the file
    defaults: GenerationParams = field(default_factory=GenerationParams)  # of a request without any fields
    template_file: str = ""  # text of --chat-template-file
    running: dict[tuple[str, str], list[Sampler]] = field(default_factory=dict)  # by key and id of the completion
    started: float = field(default_factory=time)
    origins: Origins = field(init=False)
    slot_quota: SlotQuota = field(init=False)
    bodies: BodyBytes = field(init=False)
    responses: KeptResponses = field(init=False)
    remote_images: RemoteImages = field(init=False)
    _small: Lane = field(init=False)
    _large: Lane = field(init=False)
    _images: Lane = field(init=False)
    _store: Lane = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.slot_quota = SlotQuota(Path(config.slot_save_path), config.slot_save_max_bytes, config.slot_save_max_files)
        self.origins = Origins(self.config, keyless=not self.keys.required)
        self.bodies = BodyBytes(self.config.largest_bodies, self.config.largest_body)
        self.responses = KeptResponses(config.response_store_bytes)
        self.remote_images = RemoteImages(ImageHosts(config.image_hosts))
        self._small = Lane("http", self.config.threads_http or HTTP_THREADS)
        self._large = Lane("http-large", _LARGE_THREADS)
        self._images = Lane("http-images", 1)  # a decoded image takes much memory
        self._store = Lane("http-store", 1)

    @property
    def load_progress(self) -> float:
        """Progress of the download while it runs, then of loading, from 0 to 1."""
        download = self.download
        if download is None:
            return self.engine.snapshot.load_progress
        return download.have / download.total if download.total else 0.0

    async def blocking(self, call: Callable[[], T], size: int = 0, client: str = "", *, images: bool = False) -> T:
        """Run a call that may take long on a worker thread, when it is the client's turn.

        Calls with a large input (`size` in bytes) have threads of their own, and so have those that decode images.
        They delay each other only.
        """
        lane = self._images if images else self._large if size > _LARGE_FROM else self._small
        return await lane.run(call, client)

    async def storing(self, call: Callable[[], T]) -> T:
        """Run a call that hangs if the volume of the KV store hangs. It has a thread of its own."""
        return await self._store.run(call)

    def require_ready(self) -> None:
        """Raise Unavailable unless the model serves."""
        self.readiness().require()

    def readiness(self) -> Readiness:
        """Whether the server can take requests, and if not, why."""
        snapshot, engine = self.engine.snapshot, self.engine
        return readiness(
            Phase.FAILED if self.failure else snapshot.state,
            self.failure or snapshot.error,
            preparing=self.preparing,
            draining=self.drain.begun,
            lacks_gpu=snapshot.state == Phase.READY
            and self.config.require_offload
            and not engine.info.layers_offloaded,
            hang=self.hang,
        )

    @property
    def hang(self) -> str:
        """What hangs, "" when nothing does."""
        return self.engine.alarm.reason or self.heartbeat.alarm.reason

    @property
    def alive(self) -> bool:
        """Whether the server can come back without a new start."""
        hangs = self.engine.alarm.dead or self.heartbeat.alarm.dead
        return not hangs and self.readiness().phase is not Phase.FAILED

    def close(self) -> None:
        """End the worker threads."""
        for lane in (self._small, self._large, self._images, self._store):
            lane.close()


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
