"""The engine thread and its door: one inbox in, one wake-up of the event loop a step out.

The thread owns model and context. Requests, cancellations and slot operations reach it through
one queue; events leave in one call a step; statistics leave as an immutable snapshot.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..errors import (
    EngineFailure,
    InvalidRequest,
    ModelLoadError,
    Unavailable,
)
from ..interfaces.backend import Backend, MediaTokenizer, ModelInfo, SamplerFactory, Vocab
from ..interfaces.output import Delta, Event, Failed
from ..kvstore.store import KVStore
from ..readiness import Phase, readiness
from ..scheduling.intake import Request, make_sequence
from ..scheduling.residents import Slot
from ..scheduling.scheduler import Work
from ..scheduling.sequence import Sequence
from ..scheduling.settings import EngineSettings
from .core import Core
from .snapshot import Snapshot
from .stream import Stream

_log = logging.getLogger(__name__)
_PUBLISH_EVERY = 0.05  # seconds between snapshots while busy
_MOST_SLOT_CALLS = 64  # that wait for their slots
_STORE_POLL = 0.5  # seconds between looks at a KV store that does not answer
_ABORT_WORTH = 8  # prompt rows; a shorter decode ends soon by itself

Factory = Callable[[Callable[[float], bool]], Backend]
StoreFactory = Callable[[Backend], KVStore | None]
SlotCall = tuple[int, Callable[[Core, Slot], Any], "asyncio.Future[Any]"]


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot's cache outside the library: token ids, the bytes of `state_get`, and the LoRA scales they came under."""

    tokens: tuple[int, ...]
    data: bytes
    lora: tuple[float, ...] | None = None  # unknown: those of now


class Engine:
    """Owner of the engine thread. Its methods are called on the event loop's thread."""

    info: ModelInfo
    vocab: Vocab
    media: MediaTokenizer | None
    make_sampler: SamplerFactory

    def __init__(self, factory: Factory, settings: EngineSettings, open_store: StoreFactory | None = None) -> None:
        self.snapshot = Snapshot()
        self.settings = settings
        self.store: KVStore | None = None
        self._open_store = open_store
        self.lora_scales = settings.lora_scales
        self._factory = factory
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._slot_calls: list[SlotCall] = []
        self._streams: dict[Sequence, Stream] = {}
        self._next_task = 0
        self._slot_futures: set[asyncio.Future[Any]] = set()
        self._savers: list[asyncio.Future[None]] = []  # who waits for the KV store
        self._stopping = False
        self._cutting = False  # all requests are about to end
        self._lock = threading.Lock()
        self._current: Work | None = None  # what is being decoded; guarded by _lock
        self._backend: Backend | None = None
        self._published = 0.0
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    # ---- life

    def start(self) -> None:
        """Start the thread, which loads the model; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._thread.start()

    async def loaded(self) -> None:
        """Wait until the model serves; raises ModelLoadError."""
        await asyncio.shield(self._loaded)

    async def drain(self) -> None:
        """Wait until nothing runs or waits."""
        await self._quiet.wait()

    async def stop(self) -> None:
        """Cancel everything, end the thread and free the model."""
        self._stopping = True
        for sequence in list(self._streams):
            sequence.cancelled = True
        if self._backend is not None:
            self._backend.abort(True)
        self._inbox.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    # ---- the end

    def save_all(self) -> None:
        """Have the KV store write every cached sequence: idle ones now, running ones when they end."""
        self._inbox.put(self._save_all)

    def _save_all(self) -> None:
        if self._core.keeper is not None:
            self._core.keeper.draining = True
            self._publish(force=True)

    def cut_off(self, error: Exception) -> "asyncio.Future[None]":
        """End every request with an error, and a long decode with it; done when that has happened.

        What they have computed can still be saved.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._slot_futures.add(future)
        future.add_done_callback(self._slot_futures.discard)

        def end() -> None:
            self._cutting = False
            self._core.cut_off(error)
            self._post(partial(_settle_future, future, None))

        with self._lock:
            self._cutting = True
            if self._current is not None and self._backend is not None and self._is_long(self._current):
                self._backend.abort(True)
        self._inbox.put(end)
        return future

    def _is_long(self, work: Work) -> bool:
        """Whether a decode is worth an abort when its requests end. A recurrent state would not survive it."""
        return self.info.partial_reuse and sum(count for _, count in work.parts) >= _ABORT_WORTH

    async def saved(self) -> None:
        """Wait until all that was asked for before has happened and, after `save_all`, has been written."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._inbox.put(lambda: self._savers.append(future))
        await future

    def _tell_savers(self) -> None:
        if self._savers and not self._core.unsaved:
            for future in self._savers:
                self._post(partial(_settle_future, future, None))
            self._savers = []

    # ---- requests

    def submit(self, request: Request) -> Stream:
        """Queue a request.

        Raises Unavailable when loading, stopping or full, ContextExceeded or InvalidRequest when it
        can never run.
        """
        self._check_ready()
        limit = self.settings.max_queue
        if limit and len(self._streams) >= self.settings.n_slots + limit:
            waiting = "1 request is" if limit == 1 else f"{limit} requests are"
            raise Unavailable(f"{waiting} waiting already", retry_after=1)
        self._next_task += 1
        sequence = make_sequence(
            request, self._next_task, self.settings, self.info, self.vocab, scales=self.lora_scales
        )
        stream = Stream(sequence, self._cancel, self._wake)
        self._streams[sequence] = stream
        self._quiet.clear()
        self._inbox.put(lambda: self._core.submit(sequence))
        return stream

    def _check_ready(self) -> None:
        readiness(Phase.STOPPED if self._stopping else self.snapshot.state).require()

    def _cancel(self, sequence: Sequence) -> None:
        """The client has gone: end the sequence, and the decode too when it serves nobody else."""
        sequence.cancelled = True
        self._forget(sequence)
        with self._lock:
            if self._current is not None and self._useless(self._current) and self._backend is not None:
                self._backend.abort(True)
        self._inbox.put(lambda: self._core.cancel(sequence))

    @staticmethod
    def _useless(work: Work) -> bool:
        """Whether most of a decode is for clients that have gone.

        One decode is at most one micro-batch while others generate, so an abort loses them nothing.
        """
        wasted = sum(count for sequence, count in work.parts if sequence.cancelled)
        return wasted >= _ABORT_WORTH or all(sequence.cancelled for sequence, _ in work.parts)

    def _forget(self, sequence: Sequence) -> None:
        self._streams.pop(sequence, None)
        if not self._streams:
            self._quiet.set()

    def _wake(self) -> None:
        """A reader has caught up: its sequence may go on."""
        self._inbox.put(_nothing)

    # ---- slots and adapters

    async def save_slot(self, id_slot: int) -> SlotState:
        """Read a slot's cache (waits while it is busy)."""

        def save(core: Core, slot: Slot) -> SlotState:
            tokens, data = core.save(slot)
            return SlotState(tokens, data, slot.resident.lora if slot.resident else None)

        state: SlotState = await self._on_slot(id_slot, save)
        return state

    async def restore_slot(self, id_slot: int, state: SlotState) -> int:
        """Replace a slot's cache; returns the tokens restored, raises InvalidRequest if it does not fit."""
        lora = self.lora_scales if state.lora is None else state.lora
        if len(lora) != self.info.n_lora:
            raise InvalidRequest("the state was saved with other LoRA adapters", field="filename")
        result = await self._on_slot(id_slot, lambda core, slot: core.restore(slot, state.tokens, state.data, lora))
        return int(result)

    async def erase_slot(self, id_slot: int) -> int:
        """Drop a slot's cache; returns the tokens erased."""
        return int(await self._on_slot(id_slot, lambda core, slot: core.erase(slot)))

    async def _on_slot(self, id_slot: int, call: Callable[[Core, Slot], Any]) -> Any:
        self._check_ready()
        if not 0 <= id_slot < self.settings.n_slots:
            raise InvalidRequest(f"slot id must be in 0..{self.settings.n_slots - 1}", field="id_slot")
        if len(self._slot_futures) >= _MOST_SLOT_CALLS:
            raise Unavailable("too many slot operations are waiting", retry_after=1)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._slot_futures.add(future)
        future.add_done_callback(self._slot_futures.discard)
        self._inbox.put(lambda: self._slot_calls.append((id_slot, call, future)))
        return await future

    def set_lora(self, scales: tuple[float, ...]) -> None:
        """Set the scales that requests without their own get."""
        if len(scales) != self.info.n_lora:
            raise InvalidRequest(f"{self.info.n_lora} adapters are loaded", field="lora")
        self.lora_scales = scales

    # ---- the thread

    def _main(self) -> None:
        try:
            backend = self._load()
        except Exception as error:
            reason = error if isinstance(error, ModelLoadError) else ModelLoadError(f"{type(error).__name__}: {error}")
            if not isinstance(error, ModelLoadError):
                _log.exception("loading failed")
            self.snapshot = Snapshot(state="failed", error=str(reason))
            self._post(lambda: _settle_future(self._loaded, reason))
            return
        end = Snapshot(state="stopped")
        try:
            self._serve(backend)
        except Exception as error:
            _log.exception("the engine has failed")
            end = Snapshot(state="failed", error=f"{type(error).__name__}: {error}")
        finally:
            self.snapshot = replace(self.snapshot, state=end.state, error=end.error)
            self._post(self._refuse_rest)
            if self.store is not None:
                self.store.stop()
            backend.close()

    def _load(self) -> Backend:
        backend = self._factory(self._progress)
        if self.settings.grp_attn_n > 1 and not backend.info.can_shift:
            backend.close()  # the library would abort the process
            raise ModelLoadError("--grp-attn-n needs a cache whose positions can be shifted; this model's cannot be")
        return backend

    def _progress(self, value: float) -> bool:
        self.snapshot = Snapshot(state="loading", load_progress=value)
        return not self._stopping

    def _serve(self, backend: Backend) -> None:
        self._backend = backend
        if self.settings.slot_ctx == 0:  # the model's own context was asked for
            n_slots = 1 if backend.info.unified else self.settings.n_slots
            self.settings = replace(self.settings, slot_ctx=backend.info.n_ctx // n_slots)
        self.store = self._opened_store(backend)
        self._core = Core(backend, self.settings, time.monotonic, self._during, self.store)
        self.info, self.vocab, self.media = backend.info, backend.vocab, backend.media
        self.make_sampler = backend.make_sampler
        self.snapshot = self._core.snapshot()
        self._post(lambda: _settle_future(self._loaded, None))
        busy = False
        while not self._stopping:
            self._receive(wait=not busy)
            self._run_slot_calls()
            busy = self._step()
            if not busy:
                self._deliver()
            self._publish(force=not busy)
            self._tell_savers()
        self._core.fail_all(Unavailable("The server is stopping"))
        self._deliver()

    def _opened_store(self, backend: Backend) -> KVStore | None:
        """The KV store; serving without one is better than not serving."""
        store = None
        try:
            if self._open_store is not None and (store := self._open_store(backend)) is not None:
                store.start(self._wake)
        except Exception:
            _log.exception("the KV store cannot be opened; going on without")
            store = None
        return store

    def _receive(self, *, wait: bool) -> None:
        """Run the messages of the inbox; block for one when there is nothing else to do."""
        try:
            later = wait and self._core.waits_for_store
            message = self._inbox.get(timeout=_STORE_POLL if later else None) if wait else self._inbox.get_nowait()
            while message is not None:
                message()
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _step(self) -> bool:
        try:
            return self._core.step()
        except Exception:  # a defect of ours must not take the server down, nor go unnoticed
            _log.exception("engine step failed")
            self._core.fail_all(EngineFailure("the engine failed; see the server's log"))
            return bool(self._slot_calls)  # their slots are idle now

    @contextmanager
    def _during(self, work: Work) -> Iterator[None]:
        """Around a decode. Events leave just before it: woken earlier, the event loop would wait for the GIL."""
        self._deliver()
        self._publish(force=work.kind != "generate")  # it may take seconds: who is admitted shows before it
        with self._lock:
            self._current = work
            if self._useless(work) or (self._cutting and self._is_long(work)):  # after the core last looked
                self._core.backend.abort(True)
        try:
            yield
        finally:
            with self._lock:
                self._current = None
                if not self._stopping:
                    self._core.backend.abort(False)

    def _run_slot_calls(self) -> None:
        """Slot operations whose slot is idle now; the others wait."""
        waiting, self._slot_calls = self._slot_calls, []
        for id_slot, call, future in waiting:
            if future.done():
                continue  # who asked has gone
            slot = self._core.scheduler.placement.slots[id_slot]
            if not slot.idle:
                self._slot_calls.append((id_slot, call, future))
                continue
            try:
                settle = partial(_settle_future, future, None, call(self._core, slot))
            except Exception as error:
                settle = partial(_settle_future, future, error)
            self._publish(force=True)  # before the caller can look
            self._post(settle)

    def _deliver(self) -> None:
        """Hand the events so far to the event loop in one call."""
        if not self._core.outbox:
            return
        events, self._core.outbox = self._core.outbox, []
        if any(not isinstance(event, Delta) for _, event in events):
            self._publish(force=True)  # who has the answer may ask for the slot's state
        self._post(lambda: self._dispatch(events))

    def _dispatch(self, events: list[tuple[Sequence, Event]]) -> None:
        """On the event loop: give each event to its stream."""
        for sequence, event in events:
            stream = self._streams.get(sequence)
            if stream is None:
                continue
            if not isinstance(event, Delta):
                self._forget(sequence)
            stream.put(event)

    def _refuse_rest(self) -> None:
        """On the event loop, when the thread has ended: answer what it has not heard of any more."""
        error = Unavailable("The server is stopping")
        _settle_future(self._loaded, ModelLoadError(self.snapshot.error or error.message))
        for future in [*self._slot_futures, *self._savers]:
            _settle_future(future, error)
        for sequence, stream in list(self._streams.items()):
            self._forget(sequence)
            stream.put(Failed(error))

    def _post(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the event loop has ended; so has everybody who could listen

    def _publish(self, *, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._published >= _PUBLISH_EVERY:
            self._published = now
            self.snapshot = self._core.snapshot()


def _nothing() -> None:
    """Wake the engine thread."""


def _settle_future(future: "asyncio.Future[Any]", error: Exception | None, result: Any = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


__all__ = ["Engine", "EngineSettings", "Request", "SlotState", "Stream"]
