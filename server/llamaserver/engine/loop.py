"""The engine as the event loop sees it: requests go in, streams of events and snapshots come out."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import EngineFailure, InvalidRequest, ModelLoadError, ServerError, Unavailable
from ..interfaces.backend import Backend, MediaTokenizer, ModelInfo, SamplerFactory, Vocab
from ..interfaces.output import Delta, Event, Failed
from ..interfaces.tenant import COMMON, Tenant
from ..kvstore.store import KVStore
from ..readiness import Phase, readiness
from ..scheduling.intake import Request, make_task
from ..scheduling.request import ActiveRequest
from ..scheduling.residents import Slot
from ..scheduling.settings import EngineSettings
from ..standstill import Alarm
from .aborts import Aborts
from .core import Core
from .slot_states import SlotState
from .snapshot import Snapshot
from .stream import Stream
from .thread import Callbacks, EngineThread, Factory, StoreFactory, resolve
from .watchdog import Watchdog

_MOST_SLOT_CALLS = 64  # that may wait for their slots


class Engine:
    """The engine thread's front. Its methods are called on the event loop's thread."""

    info: ModelInfo
    vocab: Vocab
    media: MediaTokenizer | None
    make_sampler: SamplerFactory

    def __init__(self, factory: Factory, settings: EngineSettings, open_store: StoreFactory | None = None) -> None:
        self.snapshot = Snapshot()
        self.settings = settings
        self.store: KVStore | None = None
        self.lora_scales = settings.lora_scales
        self._streams: dict[ActiveRequest, Stream] = {}
        self._next_task = 0
        self._futures: set[asyncio.Future[Any]] = set()  # calls that wait for the engine thread
        self._stopping = False
        self._watching: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()  # set when the engine has failed while it served
        self._aborts = Aborts()
        callbacks = Callbacks(
            post=self._post,
            show=self._show,
            opened=self._opened,
            loaded=lambda error: resolve(self._loaded, error),
            dispatch=self._dispatch,
            ended=self._on_end,
        )
        self._thread = EngineThread(settings, factory, open_store, self._aborts, callbacks)
        self.alarm = Alarm(self._thread.place, self._give_up)
        self._watchdog = Watchdog(settings.decode_timeout, lambda: self._thread.activities.now, self.alarm)

    # ---- life

    def start(self) -> None:
        """Start the thread, which loads the model. Returns at once."""
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._watching = asyncio.create_task(self._watchdog.watch())
        self._thread.start()

    async def loaded(self) -> None:
        """Wait until the model serves. Raises ModelLoadError."""
        await asyncio.shield(self._loaded)

    async def drain(self) -> None:
        """Wait until no request runs or waits."""
        await self._quiet.wait()

    async def stop(self) -> None:
        """Cancel everything, end the thread and free the model."""
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
        for request in list(self._streams):
            request.client.cancelled = True
        self._thread.stop()
        await asyncio.to_thread(self._thread.join)

    # ---- the end

    def save_all(self) -> None:
        """Let the KV store write every cached sequence: idle ones now, running ones when they end."""
        self._thread.save_all()

    def cut_off(self, error: Exception) -> "asyncio.Future[None]":
        """End every request with an error, and abort a long decode. The future is done when that has happened.

        What they have computed can still be saved.
        """
        future: asyncio.Future[None] = self._future()

        def end(core: Core) -> None:
            self._aborts.end_cut_off()
            core.cut_off(error)
            self._post(partial(resolve, future, None))

        self._aborts.begin_cut_off()
        self._thread.send(end)
        return future

    async def saved(self) -> None:
        """Wait until all earlier calls have happened and, after `save_all`, everything has been written."""
        future: asyncio.Future[None] = self._future()
        self._thread.wait_saved(future)
        await future

    # ---- requests

    def submit(self, request: Request) -> Stream:
        """Queue a request.

        Raises Unavailable when loading, stopping or full, ContextExceeded or InvalidRequest when it
        can never run.
        """
        self._check_ready()
        self.check_queue(request.tenant.key)
        self._next_task += 1
        task = make_task(request, self._next_task, self.settings, self.info, self.vocab, scales=self.lora_scales)
        active = ActiveRequest(task)
        stream = Stream(task.id_task, active.client, partial(self._cancel, active), self._thread.wake)
        self._streams[active] = stream
        self._quiet.clear()
        self._thread.send(lambda core: core.enqueue(active))
        return stream

    def check_queue(self, key: str) -> None:
        """Raise Unavailable if no more requests of this key can wait for a slot.

        A key without its share of a full queue may still add to it, so that no key can shut out another.
        """
        limit, most = self.settings.max_queue, self.settings.n_slots + self.settings.max_queue
        if limit and len(self._streams) >= most:
            keys = [request.task.tenant.key for request in self._streams]
            if keys.count(key) < most // len({*keys, key}):
                return
            waiting = "1 request is" if limit == 1 else f"{limit} requests are"
            raise Unavailable(f"{waiting} waiting already", retry_after=1)

    def _check_ready(self) -> None:
        readiness(Phase.STOPPED if self._stopping else self.snapshot.state).require()
        if self.alarm.dead:
            raise Unavailable(self.alarm.reason)

    def _cancel(self, request: ActiveRequest) -> None:
        """The client has gone: end the request, and the decode too when it serves no other request."""
        request.client.cancelled = True
        self._forget(request)
        self._aborts.client_gone()
        self._thread.send(lambda core: core.cancel(request))

    def _forget(self, request: ActiveRequest) -> None:
        self._streams.pop(request, None)
        if not self._streams:
            self._quiet.set()

    # ---- slots and adapters

    async def idle_slot(self, id_slot: int, owner: str | None = None) -> None:
        """Wait until a slot is idle. Raises Forbidden if it is not of `owner`; None may have all."""
        await self._on_slot(id_slot, owner, lambda core, slot: None)

    async def save_slot(self, id_slot: int, owner: str | None = None, *, wait: bool = True) -> SlotState:
        """Read a slot's cache. `owner` as in idle_slot. While the slot is busy: wait, or raise Unavailable."""
        state: SlotState = await self._on_slot(id_slot, owner, lambda core, slot: core.slot_states.save(slot), wait)
        return state

    async def restore_slot(
        self, id_slot: int, state: SlotState, tenant: Tenant = COMMON, owner: str | None = None, *, wait: bool = True
    ) -> int:
        """Replace a slot's cache by a state of `tenant`. `owner` and `wait` as in save_slot.

        Returns the tokens restored, raises InvalidRequest if it does not fit.
        """
        lora = self.lora_scales if state.lora is None else state.lora
        if len(lora) != self.info.n_lora:
            raise InvalidRequest("the state was saved with other LoRA adapters", field="filename")
        known = replace(state, lora=lora)
        return int(
            await self._on_slot(id_slot, owner, lambda core, slot: core.slot_states.restore(slot, known, tenant), wait)
        )

    async def erase_slot(self, id_slot: int, owner: str | None = None) -> int:
        """Drop a slot's cache. `owner` as in idle_slot. Returns the tokens erased."""
        return int(await self._on_slot(id_slot, owner, lambda core, slot: core.slot_states.erase(slot)))

    async def _on_slot(
        self, id_slot: int, owner: str | None, call: Callable[[Core, Slot], Any], wait: bool = True
    ) -> Any:
        self._check_ready()
        if not 0 <= id_slot < self.settings.n_slots:
            raise InvalidRequest(f"slot id must be in 0..{self.settings.n_slots - 1}", field="id_slot")
        if len(self._futures) >= _MOST_SLOT_CALLS:
            raise Unavailable("too many slot operations are waiting", retry_after=1)
        future = self._future()

        def checked(core: Core, slot: Slot) -> Any:
            core.slot_states.check(slot, owner)
            return call(core, slot)

        self._thread.call_on_slot(id_slot, checked, future, wait)
        return await future

    def _future(self) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def set_lora(self, scales: tuple[float, ...]) -> None:
        """Set the scales that requests without their own get."""
        if len(scales) != self.info.n_lora:
            raise InvalidRequest(f"{self.info.n_lora} adapters are loaded", field="lora")
        self.lora_scales = scales

    # ---- reports of the engine thread

    def _post(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the event loop has ended, and every listener with it

    def _show(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def _opened(self, backend: Backend, store: KVStore | None, settings: EngineSettings) -> None:
        self.info, self.vocab, self.media = backend.info, backend.vocab, backend.media
        self.make_sampler = backend.make_sampler
        self.store, self.settings = store, settings

    def _dispatch(self, events: list[tuple[ActiveRequest, Event]]) -> None:
        """Give each event to its stream."""
        for request, event in events:
            stream = self._streams.get(request)
            if stream is None:
                continue
            if not isinstance(event, Delta):
                self._forget(request)
            stream.put(event)

    def _on_end(self) -> None:
        """The thread has ended: answer the calls and requests that it will not answer."""
        error = Unavailable("The server is stopping")
        if self.snapshot.state == Phase.FAILED:
            self.lost.set()
        resolve(self._loaded, ModelLoadError(self.snapshot.error or error.message))
        self._answer_all(error)

    def _give_up(self, reason: str) -> None:
        """The thread hangs. Should it go on, it finds its requests cancelled."""
        for request in list(self._streams):
            request.client.cancelled = True
            self._thread.send(partial(Core.cancel, request=request))
        self._aborts.client_gone()
        self._answer_all(EngineFailure(reason))

    def _answer_all(self, error: ServerError) -> None:
        for future in list(self._futures):
            resolve(future, error)
        for request, stream in list(self._streams.items()):
            self._forget(request)
            stream.put(Failed(error))


__all__ = ["Engine", "EngineSettings", "Request", "SlotState", "Stream"]
