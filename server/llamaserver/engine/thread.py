"""The engine thread: it owns the model and its context, and runs step after step.

Calls reach it through one inbox. After a step it hands events and a snapshot to the event loop.
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

from ..errors import EngineFailure, EngineLost, ModelLoadError, Unavailable
from ..interfaces.backend import Backend
from ..interfaces.output import Delta, Event
from ..kvstore.store import KVStore
from ..scheduling.batches import Work
from ..scheduling.request import ActiveRequest
from ..scheduling.residents import Slot
from ..scheduling.settings import EngineSettings
from ..standstill import place_of
from .aborts import Aborts
from .activity import Activities
from .core import Core
from .snapshot import Snapshot

_log = logging.getLogger(__name__)
_PUBLISH_EVERY = 0.05  # seconds between snapshots while busy
_STOPPING = "The server is stopping"
_POLL = 0.5  # seconds between looks at a KV store that does not answer, and between tests of a failing library

Factory = Callable[[Callable[[float], bool]], Backend]
StoreFactory = Callable[[Backend], KVStore | None]
SlotCall = tuple[int, Callable[[Core, Slot], Any], "asyncio.Future[Any]", bool]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """How the thread reports. `show` and `opened` run on the engine thread, the others on the event loop."""

    post: Callable[[Callable[[], None]], None]  # run a call on the event loop
    show: Callable[[Snapshot], None]
    opened: Callable[[Backend, KVStore | None, EngineSettings], None]  # the model is loaded
    loaded: Callable[[ModelLoadError | None], None]  # it serves, or cannot be loaded
    dispatch: Callable[[list[tuple[ActiveRequest, Event]]], None]
    ended: Callable[[], None]


class EngineThread:
    """Loads the model, then steps until it is stopped."""

    def __init__(
        self,
        settings: EngineSettings,
        factory: Factory,
        open_store: StoreFactory | None,
        aborts: Aborts,
        callbacks: Callbacks,
    ) -> None:
        self._settings = settings
        self._factory = factory
        self._open_store = open_store
        self._aborts = aborts
        self._callbacks = callbacks
        self._inbox: queue.SimpleQueue[Callable[[Core], Any] | None] = queue.SimpleQueue()
        self._slot_calls: list[SlotCall] = []
        self._waiting_for_saves: list[asyncio.Future[None]] = []
        self._snapshot = Snapshot()
        self._published = 0.0
        self.activities = Activities()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    # ---- from the event loop

    def start(self) -> None:
        """Start the thread. Returns at once."""
        self._thread.start()

    def send(self, call: Callable[[Core], Any]) -> None:
        """Run `call` on the thread before the next step."""
        self._inbox.put(call)

    def wake(self) -> None:
        """Make the thread look for work (from any thread)."""
        self._inbox.put(_nothing)

    def save_all(self) -> None:
        """Let the KV store write every cached sequence, also those of later ends."""
        self.send(self._begin_drain)

    def wait_saved(self, future: "asyncio.Future[None]") -> None:
        """Resolve `future` once nothing is left to save."""
        self.send(lambda _: self._waiting_for_saves.append(future))

    def call_on_slot(
        self, id_slot: int, call: Callable[[Core, Slot], Any], future: "asyncio.Future[Any]", wait: bool
    ) -> None:
        """Run `call` once the slot is idle. Without `wait`, a busy slot is an error (Unavailable)."""
        self.send(lambda _: self._slot_calls.append((id_slot, call, future, wait)))

    def stop(self) -> None:
        """End the thread after the current step."""
        self._stopping = True
        self._aborts.stop()
        self._inbox.put(None)

    def place(self) -> str:
        """The line that the thread executes now (from any thread)."""
        return place_of(self._thread.ident)

    def join(self) -> None:
        """Wait for the end of a thread that was started."""
        if self._thread.ident is not None:
            self._thread.join()

    # ---- the thread

    def _main(self) -> None:
        try:
            backend = self._load()
        except Exception as error:
            reason = error if isinstance(error, ModelLoadError) else ModelLoadError(f"{type(error).__name__}: {error}")
            if not isinstance(error, ModelLoadError):
                _log.exception("loading failed")
            self._show(Snapshot(state="failed", error=str(reason)))
            self._callbacks.post(lambda: self._callbacks.loaded(reason))
            return
        store = self._opened_store(backend)
        end = Snapshot(state="stopped")
        try:
            self._serve(backend, store)
        except EngineLost as error:
            _log.error("the engine has failed: %s", error)
            end = Snapshot(state="failed", error=str(error))
        except Exception as error:
            _log.exception("the engine has failed")
            end = Snapshot(state="failed", error=f"{type(error).__name__}: {error}")
        finally:
            self._show(replace(self._snapshot, state=end.state, error=end.error))
            self._callbacks.post(self._callbacks.ended)
            if store is not None:
                store.stop()
            backend.close()

    def _load(self) -> Backend:
        backend = self._factory(self._on_progress)
        if self._settings.grp_attn_n > 1 and not backend.info.can_shift:
            backend.close()  # the library would abort the process
            raise ModelLoadError("--grp-attn-n needs a cache whose positions can be shifted; this model's cannot be")
        return backend

    def _on_progress(self, value: float) -> bool:
        self._show(Snapshot(state="loading", load_progress=value))
        return not self._stopping

    def _opened_store(self, backend: Backend) -> KVStore | None:
        """The KV store. The server works without one, so a failure is only logged."""
        store = None
        try:
            if self._open_store is not None and (store := self._open_store(backend)) is not None:
                store.start(self.wake)
        except Exception:
            _log.exception("the KV store cannot be opened; going on without")
            store = None
        return store

    def _serve(self, backend: Backend, store: KVStore | None) -> None:
        self._aborts.use(backend)
        settings = self._settings
        if settings.slot_ctx == 0:  # use the model's own context
            n_slots = 1 if backend.info.unified else settings.n_slots
            settings = replace(settings, slot_ctx=backend.info.n_ctx // n_slots)
        self._core = Core(backend, settings, time.monotonic, self._around_decode, store)
        self._callbacks.opened(backend, store, settings)
        self._show(self._core.snapshot())
        self._callbacks.post(lambda: self._callbacks.loaded(None))
        busy = False
        while not self._stopping and not self._core.failures.verdict:
            self._receive(wait=not busy)
            self.activities.begin("an engine step", self._core.stats.usual_seconds())
            self._run_slot_calls()
            busy = self._step()
            if not busy:
                self._deliver()
            self._publish(force=not busy)
            self._report_saved()
            self.activities.rest()
        verdict = self._core.failures.verdict
        self._core.fail_all(EngineFailure(f"the engine has failed: {verdict}") if verdict else Unavailable(_STOPPING))
        self._deliver()
        if verdict:
            raise EngineLost(verdict)

    def _receive(self, *, wait: bool) -> None:
        """Run the calls in the inbox. Wait for one when there is nothing else to do."""
        try:
            poll = wait and (self._core.waits_for_store or self._core.failures.failing)
            call = self._inbox.get(timeout=_POLL if poll else None) if wait else self._inbox.get_nowait()
            while call is not None:
                call(self._core)
                call = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _step(self) -> bool:
        try:
            return self._core.step()
        except Exception as error:  # one defect must neither end the server nor go unnoticed
            _log.exception("engine step failed")
            self._core.failures.defect(error)
            self._core.fail_all(EngineFailure("the engine failed; see the server's log"))
            return bool(self._slot_calls)  # their slots are idle now

    @contextmanager
    def _around_decode(self, work: Work) -> Iterator[None]:
        """Events leave just before a decode. If they left earlier, the event loop would wait for the GIL."""
        self._deliver()
        self._publish(force=work.kind != "generate")  # it may take seconds: show before it who was admitted
        stats = self._core.stats
        self.activities.begin(f"a decode of {work.n_tokens} tokens", stats.usual_seconds(work.n_tokens, work.kind))
        with self._aborts.decoding(work):
            yield
        self.activities.begin("an engine step", stats.usual_seconds())

    def _begin_drain(self, core: Core) -> None:
        core.store_client.draining = True
        self._publish(force=True)

    def _report_saved(self) -> None:
        if self._waiting_for_saves and not self._core.unsaved:
            for future in self._waiting_for_saves:
                self._callbacks.post(partial(resolve, future, None))
            self._waiting_for_saves = []

    def _run_slot_calls(self) -> None:
        """Run the calls whose slot is idle now. The others wait."""
        waiting, self._slot_calls = self._slot_calls, []
        for id_slot, call, future, wait in waiting:
            if future.done():
                continue  # the caller has gone
            slot = self._core.residents.slots[id_slot]
            if slot.busy and wait:
                self._slot_calls.append((id_slot, call, future, wait))
                continue
            try:
                if slot.busy:
                    raise Unavailable(f"slot {id_slot} is busy", retry_after=1)
                answer = partial(resolve, future, None, call(self._core, slot))
            except Exception as error:
                answer = partial(resolve, future, error)
            self._publish(force=True)  # before the caller can look
            self._callbacks.post(answer)

    def _deliver(self) -> None:
        """Hand the events so far to the event loop in one call."""
        if not self._core.outbox:
            return
        events, self._core.outbox = self._core.outbox, []
        if any(not isinstance(event, Delta) for _, event in events):
            self._publish(force=True)  # a client that has its answer may ask for the slot's state
        self._callbacks.post(lambda: self._callbacks.dispatch(events))

    def _publish(self, *, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._published >= _PUBLISH_EVERY:
            self._published = now
            self._show(self._core.snapshot())

    def _show(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._callbacks.show(snapshot)


def _nothing(core: Core) -> None:
    """Wake the engine thread."""


def resolve(future: "asyncio.Future[Any]", error: Exception | None, result: Any = None) -> None:
    """On the event loop: give a future its result or error, unless it has one."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
