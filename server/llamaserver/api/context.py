"""What every handler shares: configuration, engine, worker threads, and the server's changeable state."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import time
from typing import TypeVar

from aiohttp import web

from ..config import HTTP_THREADS, Config
from ..engine.loop import Engine
from ..interfaces.backend import BuiltinTemplates
from ..readiness import Phase, Readiness, readiness
from .drain import Drain
from .keys import KeyStore

T = TypeVar("T")
_SLOW_LANE_FROM = 100_000  # bytes of a body: larger ones are worked on in the slow lane


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """The initial prompt of all slots: its token ids, and the names that /props tells clients."""

    tokens: tuple[int, ...] = ()
    assistant_name: str = ""
    user_name: str = ""


@dataclass(frozen=True, slots=True)
class Download:
    """How far the server's own download has come, in bytes; total 0: unknown."""

    file: str
    have: int = 0
    total: int = 0


@dataclass(slots=True)
class Context:
    """One server's state; lives on the event loop's thread."""

    config: Config
    engine: Engine
    keys: KeyStore
    builtin: BuiltinTemplates
    drain: Drain = field(default_factory=Drain)
    preparing: bool = False  # the model is there; template and system prompt are still looked at
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # it serves now, or it never will
    system: SystemPrompt = field(default_factory=SystemPrompt)
    download: Download | None = None  # while one runs
    model_sha256: str = ""  # as kept beside the file
    template_file: str = ""  # text of --chat-template-file
    started: float = field(default_factory=time)
    executor: ThreadPoolExecutor = field(init=False)
    slow_lane: ThreadPoolExecutor = field(init=False)
    store_lane: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.executor = ThreadPoolExecutor(self.config.threads_http or HTTP_THREADS, "http")
        self.slow_lane = ThreadPoolExecutor(1, "http-large")
        self.store_lane = ThreadPoolExecutor(1, "http-store")

    async def blocking(self, call: Callable[[], T], size: int = 0) -> T:
        """Run what may take long off the event loop; `size` bytes of input choose the lane.

        Huge inputs share one thread, so that they wait for each other and not everybody for them.
        """
        executor = self.slow_lane if size > _SLOW_LANE_FROM else self.executor
        return await asyncio.get_running_loop().run_in_executor(executor, call)

    async def storing(self, call: Callable[[], T]) -> T:
        """Run what may hang with the KV store's volume: on a thread that nobody else needs."""
        return await asyncio.get_running_loop().run_in_executor(self.store_lane, call)

    def require_ready(self) -> None:
        """Raise Unavailable unless the model serves."""
        self.readiness().require()

    def readiness(self) -> Readiness:
        """Whether the server can take requests, and if not, why."""
        snapshot, engine = self.engine.snapshot, self.engine
        return readiness(
            snapshot.state,
            snapshot.error,
            preparing=self.preparing,
            draining=self.drain.begun,
            lacks_gpu=snapshot.state == Phase.READY
            and self.config.require_offload
            and not engine.info.layers_offloaded,
        )

    def close(self) -> None:
        """Let go of the worker threads."""
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.slow_lane.shutdown(wait=False, cancel_futures=True)
        self.store_lane.shutdown(wait=False, cancel_futures=True)


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
