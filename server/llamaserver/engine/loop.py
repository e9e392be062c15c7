"""The engine thread and its door: one inbox in, one wake-up of the event loop a step out.

The thread owns model and context. Requests, cancellations and slot operations reach it through
one queue; events leave in one call a step; statistics leave as an immutable snapshot.
"""

import asyncio
import logging
import queue
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from ..errors import (
    ContextExceeded,
    EngineFailure,
    InvalidRequest,
    ModelLoadError,
    NotSupported,
    Unavailable,
)
from . import overflow
from .backend import Backend, MediaTokenizer, ModelInfo, Sampler, SamplerFactory, Vocab
from .core import Core
from .output import Delta, Event, Failed
from .params import GenerationParams, Prompt
from .scheduler import Work
from .sequence import Sequence
from .settings import EngineSettings
from .slots import Slot
from .snapshot import Snapshot
from .stream import Stream

_log = logging.getLogger(__name__)
_PUBLISH_EVERY = 0.05  # seconds between snapshots while busy
_MOST_SLOT_CALLS = 64  # that wait for their slots
_ABORT_WORTH = 8  # prompt rows; a shorter decode ends soon by itself

Factory = Callable[[Callable[[float], bool]], Backend]
SlotCall = tuple[int, Callable[[Core, Slot], Any], "asyncio.Future[Any]"]


@dataclass(slots=True)
class Request:
    """Work for the engine. `tag` is carried to SlotView for the API's own use."""

    prompt: Prompt
    params: GenerationParams
    sampler: Sampler | None = None  # required for completions that predict
    kind: Literal["completion", "embedding"] = "completion"
    tag: Any = None


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

    def __init__(self, factory: Factory, settings: EngineSettings) -> None:
        self.snapshot = Snapshot()
        self.settings = settings
        self.lora_scales = settings.lora_scales
        self._factory = factory
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._slot_calls: list[SlotCall] = []
        self._streams: dict[Sequence, Stream] = {}
        self._next_task = 0
        self._slot_futures: set[asyncio.Future[Any]] = set()
        self._stopping = False
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

    # ---- requests

    def submit(self, request: Request) -> Stream:
        """Queue a request.

        Raises Unavailable when loading, stopping or full, ContextExceeded or InvalidRequest when it
        can never run.
        """
        self._check_ready()
        limit = self.settings.max_queue
        if limit and len(self._streams) >= self.settings.n_slots + limit:
            raise Unavailable(f"{limit} requests are waiting already", retry_after=1)
        sequence = self._sequence(request)
        stream = Stream(sequence, self._cancel, self._wake)
        self._streams[sequence] = stream
        self._quiet.clear()
        self._inbox.put(lambda: self._core.submit(sequence))
        return stream

    def _check_ready(self) -> None:
        if self.snapshot.state != "ready" or self._stopping:
            raise Unavailable("Loading model" if self.snapshot.state == "loading" else "The server cannot serve")

    def _sequence(self, request: Request) -> Sequence:
        params = request.params
        if params.id_slot >= self.settings.n_slots:
            raise InvalidRequest(f"id_slot must be below {self.settings.n_slots}", field="id_slot")
        if request.kind == "embedding":
            keys, truncated = self._embedding_keys(request.prompt), False
            params = replace(params, cache_prompt=False)
        else:
            keys, truncated = self._completion_keys(request)
            if self.settings.grp_attn_n > 1:
                params = replace(params, cache_prompt=False)
        cap = self.settings.n_predict
        wanted = params.n_predict
        self._next_task += 1
        return Sequence(
            id_task=self._next_task,
            kind=request.kind,
            params=params,
            keys=keys,
            media=request.prompt.media,
            sampler=request.sampler,
            lora=self.lora_scales if params.lora is None else params.lora,
            n_predict=min(wanted, cap) if min(wanted, cap) >= 0 else max(wanted, cap),
            truncated=truncated,
            tag=request.tag,
            n_keep=self._n_keep(params, len(keys)),
        )

    def _n_keep(self, params: GenerationParams, n_prompt: int) -> int:
        if params.n_keep < 0:
            return n_prompt
        return min(params.n_keep + int(self.vocab.add_bos), self.settings.slot_ctx - overflow.MARGIN)

    def _completion_keys(self, request: Request) -> "tuple[array[int], bool]":
        prompt, limit = request.prompt, self.settings.slot_ctx
        if not self.info.causal:
            raise NotSupported("this model computes embeddings only")
        if not len(prompt):
            raise InvalidRequest("the prompt is empty", field="prompt")
        size = len(prompt) + sum(media.n_tokens - media.n_pos for media in prompt.media)
        if size < limit:
            return prompt.keys, False
        if not self.settings.context_shift or prompt.media or self.settings.grp_attn_n > 1:
            raise ContextExceeded(
                f"the request exceeds the available context size ({size} >= {limit} tokens), try increasing it",
                field="prompt",
                n_prompt_tokens=size,
                n_ctx=limit,
            )
        return overflow.truncated_prompt(prompt.keys, limit, request.params.n_keep), True

    def _embedding_keys(self, prompt: Prompt) -> "array[int]":
        room = self.settings.slot_ctx if self.info.causal else self.info.n_ctx_train
        limit = min(self.info.n_ubatch, self.info.n_batch, room)
        if not len(prompt):
            raise InvalidRequest("the input is empty", field="input")
        if len(prompt) > limit:
            raise InvalidRequest(
                f"input of {len(prompt)} tokens is too large to process; at most {limit} fit the batch and the context",
                field="input",
            )
        return prompt.keys

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
        self._core = Core(backend, self.settings, time.monotonic, self._during)
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
        self._core.fail_all(Unavailable("The server is stopping"))
        self._deliver()

    def _receive(self, *, wait: bool) -> None:
        """Run the messages of the inbox; block for one when there is nothing else to do."""
        try:
            message = self._inbox.get() if wait else self._inbox.get_nowait()
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
            if self._useless(work):  # cancelled after the core last looked
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
        for future in list(self._slot_futures):
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
