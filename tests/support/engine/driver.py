"""Drives Core over the toy backend, step by step on one thread, and keeps the books under watch."""

from array import array
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

from llamaserver.engine.core import Core
from llamaserver.interfaces.backend import Sampler
from llamaserver.interfaces.output import Delta, Embedded, Event, Failed, Finish
from llamaserver.interfaces.params import GenerationParams, Media, SamplingParams
from llamaserver.interfaces.tenant import COMMON, Scope, Tenant
from llamaserver.kvstore.store import KVStore
from llamaserver.scheduling.batches import Work
from llamaserver.scheduling.placement import How, PlacementPlan
from llamaserver.scheduling.request import ActiveRequest, Phase, Task
from llamaserver.scheduling.residents import Resident
from llamaserver.scheduling.settings import EngineSettings

from tests.support.engine.options import engine_settings
from tests.support.engine.toy import VOCAB, ToyBackend
from tests.support.polling import until

GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0, ignore_eos=True)
_MOST_STEPS = 5000


class Clock:
    """Seconds that pass only when a test says so, and a millisecond a look."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        """A little later than the last time."""
        self.now += 0.001
        return self.now


class Driver:
    """A Core, what it said, and checks that its books equal what the backend holds."""

    def __init__(self, backend: ToyBackend, settings: EngineSettings, store: KVStore | None = None) -> None:
        self.backend = backend
        self.settings = settings
        self.clock = Clock()
        self.core = Core(backend, settings, self.clock, self._during, store)
        self._carry_out = self.core.cache.carry_out
        self.core.cache.carry_out = self._checked_carry_out  # type: ignore[method-assign]
        self.events: dict[ActiveRequest, list[Event]] = {}
        self.works: list[Work] = []
        self.reading = True  # clients take their events at once
        self._tasks = 0

    @contextmanager
    def _during(self, work: Work) -> Any:
        self.works.append(work)
        yield
        self.backend.abort(False)

    def _checked_carry_out(self, plan: PlacementPlan, lora: tuple[float, ...], scope: Scope) -> Resident:
        """Exactly what the plan says must happen."""
        before = {resident: (resident.keys, len(resident.keys)) for resident in self.core.residents}
        resident = self._carry_out(plan, lora, scope)
        losers = {
            other for other, (keys, count) in before.items() if count and (other.keys is not keys or len(keys) < count)
        }
        assert losers <= {plan.victim}, "a resident lost keys that the plan does not name"
        assert plan.victim is None or losers or not before[plan.victim][1], "the victim lost nothing"
        assert plan.slot.resident is resident
        assert len(resident.keys) == (0 if plan.how is How.RESTORE else plan.length)
        assert plan.how is not How.TAKE_OVER or resident is plan.source
        return resident

    # ---- requests

    def submit(
        self,
        prompt: Sequence[int],
        *,
        params: GenerationParams | None = None,
        n_predict: int = 8,
        kind: str = "completion",
        sampling: SamplingParams = GREEDY,
        sampler: Sampler | None = None,
        media: tuple[Media, ...] = (),
        lora: tuple[float, ...] | None = None,
        n_keep: int = 0,
        tag: Any = None,
        tenant: Tenant = COMMON,
        system: Sequence[int] = (),
        shown: frozenset[int] = frozenset(),
        n_scored: int = 0,
        **fields: Any,
    ) -> ActiveRequest:
        """Queue a request. `fields` are those of GenerationParams."""
        params = params or GenerationParams(sampling=sampling, n_predict=n_predict, **fields)
        self._tasks += 1
        task = Task(
            id_task=self._tasks,
            kind="embedding" if kind == "embedding" else "completion",
            params=params,
            keys=array("q", prompt),
            media=media,
            sampler=sampler or self.backend.make_sampler(params.sampling, self.settings.slot_ctx),
            lora=(0.0,) * self.backend.info.n_lora if lora is None else lora,
            n_predict=params.n_predict,
            n_keep=n_keep,
            tag=tag,
            tenant=tenant,
            system=array("q", system),
            shown=shown,
            n_scored=n_scored,
        )
        request = ActiveRequest(task)
        self.events[request] = []
        self.core.enqueue(request)
        return request

    def answer(self, prompt: Sequence[int], **fields: Any) -> Finish:
        """Submit, run to the end, return the end."""
        request = self.submit(prompt, **fields)
        self.run()
        return self.finish(request)

    # ---- running

    def step(self) -> bool:
        """One step. The books must be right after it."""
        moved = self.core.step()
        self._deliver()
        self.check()
        queue = list(self.core.scheduler.queue)
        if not moved and any(request.lookup is not None for request in queue):  # answered by now, perhaps
            until(lambda: not any(request.awaits_store for request in queue), "the store answers")
            return True
        return moved

    def steps(self, count: int) -> None:
        """Several."""
        for _ in range(count):
            self.step()

    def run(self, until: Callable[[], bool] | None = None) -> int:
        """Step until every request is done (or `until` holds). Returns the steps. A standstill is an error."""
        for count in range(_MOST_STEPS):
            if until() if until else all(s.phase is Phase.DONE for s in self.events):
                return count
            assert self.step(), f"stands still: {[(s.task.id_task, s.phase.name) for s in self.unfinished()]}"
        raise AssertionError(f"no end in sight: {[(s.task.id_task, s.phase.name) for s in self.unfinished()]}")

    def unfinished(self) -> list[ActiveRequest]:
        """Requests without an answer."""
        return [s for s in self.events if s.phase is not Phase.DONE]

    def _deliver(self) -> None:
        for request, event in self.core.outbox:
            self.events[request].append(event)
            if self.reading and isinstance(event, Delta):
                request.client.taken += 1
        self.core.outbox = []

    # ---- what came out

    def last(self, request: ActiveRequest) -> Finish | Embedded | Failed | None:
        """The event that ended it. Asserts that nothing came after it."""
        ends = [event for event in self.events[request] if not isinstance(event, Delta)]
        assert len(ends) <= 1
        assert not ends or self.events[request][-1] is ends[0]
        return ends[0] if ends else None

    def finish(self, request: ActiveRequest) -> Finish:
        """Its regular end."""
        end = self.last(request)
        assert isinstance(end, Finish), end
        return end

    def error(self, request: ActiveRequest) -> Exception:
        """Its irregular one."""
        end = self.last(request)
        assert isinstance(end, Failed), end
        return end.error

    def text(self, request: ActiveRequest) -> str:
        """All text, in order."""
        return "".join(event.content for event in self.events[request] if isinstance(event, Delta | Finish))

    def rows(self, status_ok_only: bool = True) -> list[dict[int, int]]:
        """Rows by library sequence of every decode so far."""
        return [one.rows for one in self.backend.history if not status_ok_only or one.status == 0]

    # ---- books

    def check(self) -> None:
        """Every resident, the ledger and the ids against the backend's own cells."""
        residents, info = self.core.residents, self.backend.info
        ids = [r.seq for r in residents] + residents.free_ids
        assert sorted(ids) == list(range(info.n_seq_max)), "a library sequence has been lost or given out twice"
        for resident in residents:
            assert list(resident.keys) == self.backend.keys(resident.seq)
            assert resident.position == self.backend.pos_max(resident.seq) + 1
            assert len(resident.keys) <= self.settings.slot_ctx
            if residents.ledger:
                assert len(resident.cells) == len(resident.keys)
        for seq in residents.free_ids:
            assert not self.backend.keys(seq)
        assert residents.cells_used == self.backend.cells_used <= info.n_ctx
        for slot, running in zip(residents.slots, self.core.scheduler.roster.on_slot, strict=True):
            assert slot.resident is None or slot.resident.slot is slot
            assert slot.busy == (running is not None)
            if running is not None:
                assert running.slot is slot
                assert running.resident is None or running.resident is slot.resident
            if slot.resident is not None:
                assert slot.resident.busy == (running is not None and running.resident is not None)
        for resident in residents.retired:
            assert resident.slot is None
            assert not resident.busy

    def check_idle(self) -> None:
        """No request runs or waits, and no slot or resident is busy."""
        scheduler = self.core.scheduler
        assert not any(slot.busy for slot in scheduler.residents.slots)
        assert not scheduler.queue
        assert not scheduler.ended
        assert not any(resident.busy for resident in scheduler.residents)


def make(
    *,
    n_slots: int = 2,
    slot_ctx: int = 64,
    n_ctx: int = 0,
    unified: bool = False,
    spare: int = 2,
    backend: dict[str, Any] | None = None,
    store: KVStore | None = None,
    **settings: Any,
) -> Driver:
    """A driver. Unified: `spare` sequence ids beside the slots, n_ctx (default slot_ctx) cells for all."""
    settings.setdefault("cont_batching", True)
    toy = ToyBackend(
        n_ctx=(n_ctx or slot_ctx) if unified else slot_ctx * n_slots,
        n_seq_max=n_slots + spare if unified else n_slots,
        unified=unified,
        **(backend or {}),
    )
    return Driver(toy, engine_settings(n_slots=n_slots, slot_ctx=slot_ctx, **settings), store)


@lru_cache(maxsize=4096)
def solo(
    prompt: tuple[int, ...],
    params: GenerationParams,
    *,
    slot_ctx: int,
    n_keep: int = 0,
    lora: tuple[float, ...] | None = None,
    media: tuple[Media, ...] = (),
    context_shift: bool = True,
) -> tuple[str, str, str, int, bool]:
    """What the same request gets alone: text, reason, stopping word, tokens, truncated."""
    backend = {"n_lora": len(lora or ())}
    driver = make(n_slots=1, slot_ctx=slot_ctx, context_shift=context_shift, backend=backend)
    request = driver.submit(prompt, params=params, n_keep=n_keep, lora=lora, media=media)
    driver.run()
    return outcome(driver, request)


def outcome(driver: Driver, request: ActiveRequest) -> tuple[str, str, str, int, bool]:
    """Everything of an answer that must not depend on the company."""
    end = driver.finish(request)
    return driver.text(request), end.reason, end.stopping_word, end.n_decoded, end.truncated


def tokens(count: int, seed: int = 0) -> list[int]:
    """Ordinary token ids. Different seeds differ from the first one on."""
    usable = VOCAB.n_vocab - 2
    return [2 + (seed * 11 + i * (7 + 2 * (seed % 3))) % usable for i in range(count)]


def same_as_alone(driver: Driver, request: ActiveRequest, prompt: Sequence[int]) -> bool:
    """Whether a finished request (without pictures) got what it gets alone."""
    params = replace(request.task.params, id_slot=-1, cache_prompt=True)
    settings, lora = driver.settings, request.task.lora
    expected = solo(
        tuple(prompt),
        params,
        slot_ctx=settings.slot_ctx,
        n_keep=request.task.n_keep,
        lora=lora,
        context_shift=settings.context_shift,
    )
    return outcome(driver, request) == expected
