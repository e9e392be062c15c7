"""What the engine does next: admission, the batches of one step, and what their results change.

It knows no model, thread or clock. It uses the memory operations of a Backend and says which rows
to decode. Each step runs the token of every generating request first, then prompt chunks under a
budget, so that streams go on while a long prompt is evaluated.
"""

from array import array
from dataclasses import dataclass

from ..errors import EngineFailure
from ..interfaces.backend import Backend
from . import overflow
from .admission import Admission
from .batches import Batches, Work
from .cache import Cache
from .fair_queue import FairQueue
from .placement import Placement, PlacementPlan
from .prefix_store import PrefixStore
from .request import ActiveRequest, Phase
from .residents import Resident
from .roster import Roster
from .settings import EngineSettings
from .shares import Shares

_CREDIT = 2  # slots full of tokens that a key may be served ahead of others, after it has asked for little


@dataclass(slots=True)
class Ended:
    """A request that the scheduler ended without a decode."""

    request: ActiveRequest
    reason: str = ""
    error: Exception | None = None


class Scheduler:
    """The requests of one engine, queued and running."""

    def __init__(
        self, backend: Backend, settings: EngineSettings, placement: Placement, cache: Cache, store: PrefixStore
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._info = backend.info
        self.placement = placement
        self._store = store
        self._batches = Batches(backend, settings, cache)
        self.cache = cache
        self.residents = cache.residents
        self._shares = Shares(credit=_CREDIT * settings.slot_ctx)
        self.roster = Roster(settings.n_slots, self._shares)
        self._admission = Admission(backend, self.roster, placement, cache, store)
        self.ended: list[Ended] = []
        self.preemptions = 0

    @property
    def queue(self) -> FairQueue:
        """Requests without a slot, the next one first."""
        return self.roster.queue

    def running(self) -> list[ActiveRequest]:
        """Requests on slots."""
        return self.roster.running()

    # ---- admission

    def admit(self) -> list[ActiveRequest]:
        """Place the requests that can be placed. Returns those whose prefill starts now."""
        pairs = zip(self.residents.slots, self.roster.on_slot, strict=True)
        following = [(r, slot) for slot, r in pairs if r is not None and r.phase is Phase.FOLLOWING]
        following.sort(key=lambda pair: pair[0].task.id_task)
        started = [r for r, slot in following if self._admission.start(r, self.placement.decide_on(slot, r))]
        refused: set[tuple[str, int]] = set()  # keys, and the busy slots that they want
        for request in self.roster.startable():
            wanted = (request.task.tenant.key, request.task.params.id_slot)
            if wanted in refused or request.rests() or not self._store.answered(request):
                continue
            plan = self._plan_for(request)
            if plan is None:
                if self.placement.waits_for_slot(request):
                    refused.add(wanted)
                    continue
                break  # smaller requests must not overtake for ever
            self._admission.bind(request, plan.slot)
            if self._admission.start(request, plan):
                started.append(request)
        return started

    def _plan_for(self, request: ActiveRequest) -> PlacementPlan | None:
        """Where a queued request starts. None if no slot, or no room in the cache, can be had for it now."""
        plan = self._admission.plan(request)
        if plan is not None:
            return plan
        victims, running = self._admission.victims(request), self.running()
        if not victims or not self._admission.fits_beside(request, [r for r in running if r not in victims]):
            return None  # to preempt them all would not help
        for victim in victims:
            self._requeue(victim)
            plan = self._admission.plan(request)
            if plan is not None:
                break
        return plan

    # ---- planning

    def plan(self) -> list[Work]:
        """The decodes of this step, in order. Requests that cannot go on land in `ended`."""
        self.cache.begin_claims()
        decoding = [r for r in self.running() if r.phase is Phase.DECODE and not r.client.cancelled]
        fitting = [r for r in decoding if self._fits_slot(r)]  # all before any is preempted for another
        ready = [r for r in fitting if not r.client.rest() and self._has_cell(r)]
        ready = [r for r in ready if r.phase is Phase.DECODE]  # making room may preempt
        works = list(self._batches.generation(ready))
        waiting = [r for r in self.running() if r.phase is Phase.PREFILL and not r.client.cancelled]
        first = not ready or self._shares.least(waiting) < self._shares.least(ready)
        if waiting and (self._settings.cont_batching or not works or first):
            self._add_prompts(works, waiting, self._info.n_ubatch if first else self._settings.prompt_budget)
        return works

    def _add_prompts(self, works: list[Work], waiting: list[ActiveRequest], budget: int) -> None:
        """Add prompts of the key with the largest deficit, and few of others: they make the step longer."""
        for group in self._shares.by_need(waiting):
            budget = min(self._batches.add_prompts(works, group, budget), self._settings.prompt_budget)
        if not works and not self.ended:
            self._preempt_youngest()  # together they have filled the cache

    def _fits_slot(self, request: ActiveRequest) -> bool:
        """Make sure that one more token fits the slot."""
        resident = request.resident
        if resident is None:
            return False
        if self._extends:
            overflow.self_extend(resident, self._settings, self.residents, self._backend)
        used = len(resident.keys) + request.task.extra_cells
        return used + 1 <= self._settings.slot_ctx or self._shift(request, resident)

    def _has_cell(self, request: ActiveRequest) -> bool:
        """Make sure that one more token fits the cache."""
        if request.resident is None:
            return False  # an older one has just preempted it
        return self.cache.claim(1) or self._make_room(request)

    @property
    def _extends(self) -> bool:
        return self._settings.grp_attn_n > 1

    def _shift(self, request: ActiveRequest, resident: Resident) -> bool:
        """Shift the context. Returns False when the request cannot go on in this step."""
        request.truncated = True
        wanted = request.task.shifts and self._settings.context_shift and self._info.can_shift and not self._extends
        span = overflow.discarded(resident, request.task.n_keep, request.task.params.n_discard) if wanted else None
        if span is None:
            self.ended.append(Ended(request, "limit"))
            return False
        keys = resident.keys[: span.start] + resident.keys[span.stop :]
        own = not self.cache.shares_beyond(resident, span.start) or self.cache.unshare(resident)
        if own and overflow.shift(resident, span, self.residents, self._backend):
            return True
        self._restart(request, resident, keys)
        return False

    def _make_room(self, request: ActiveRequest) -> bool:
        """Preempt the youngest request for this one. If it is the only one, it has reached its limit."""
        if not self._preempt_youngest():
            request.truncated = True
            self.ended.append(Ended(request, "limit"))
            return False
        return request.resident is not None and self.cache.claim(1)

    # ---- preemption

    def _preempt_youngest(self) -> bool:
        """Preempt one whose client does not read, else the youngest. Returns False when only one is placed."""
        placed = [r for r in self.running() if r.resident]
        if len(placed) > 1:
            self.preempt(max(placed, key=lambda r: (r.client.resting, r.task.id_task)))
        return len(placed) > 1

    def preempt(self, request: ActiveRequest) -> None:
        """Take a request off its slot and out of the cache."""
        resident = request.resident
        self._requeue(request)
        if resident is not None:
            self.cache.drop(resident)

    def _requeue(self, request: ActiveRequest) -> None:
        """Take a request off its slot and queue it again, first of its key, with all its tokens as prompt.

        What it has computed stays as cache.
        """
        resident = request.resident
        self._shares.preempted(request)
        self.roster.requeue(request, _keys_to_repeat(request, resident.keys) if resident else request.keys)
        if resident is not None:
            self._release(request, resident)
        self._store.drop_lookup(request)
        self.preemptions += 1

    # ---- results

    def commit(self, work: Work) -> None:
        """The decode succeeded: its keys are in the cache."""
        self.cache.settled()
        counts = not self.roster.costs_nobody()
        for request, resident, count in work.parts:
            if counts:
                self._shares.charge(request, count)
            if request.resident is None:
                continue
            if request.phase is Phase.DECODE:
                self.cache.extend(resident, array("q", [request.answer.token]))
            else:
                start = len(resident.keys)
                self.cache.extend(resident, request.keys[start : start + count])
                if request.n_decoded == 0:  # a repetition after a preemption costs the client nothing
                    request.client.evaluated += max(0, start + count - max(start, request.most_past))
                    request.most_past = max(request.most_past, start + count)

    def begin_decode(self, request: ActiveRequest) -> None:
        """The whole prompt is in the cache, and an answer is wanted."""
        self.roster.begin_decode(request)

    def resync(self, work: Work) -> None:
        """The decode was aborted: cut every sequence back to the recorded keys, or start it over.

        Micro-batches that were done stay in the cache, but `Residents` does not have them.
        """
        self._forget_shifted()
        for request, resident, _ in work.parts:
            if request.resident is None or self._backend.pos_max(resident.seq) + 1 == resident.position:
                continue
            if not self._info.partial_reuse or not self._backend.seq_rm(resident.seq, resident.position):
                self._restart(request, resident, resident.keys)

    def _forget_shifted(self) -> None:
        """A decode that did not succeed may have carried out pending shifts in some layers only."""
        owners = {r.resident.seq: r for r in self.running() if r.resident}
        for resident in list(self.residents.shifted):
            if resident.busy:
                self._restart(owners[resident.seq], resident, resident.keys)
            else:
                self.cache.clear(resident)
        self.residents.shifted.clear()

    def _restart(self, request: ActiveRequest, resident: Resident, keys: "array[int]") -> None:
        """Clear the cache of a request and evaluate `keys` again."""
        self.roster.repeat_prefill(request, _keys_to_repeat(request, keys))
        if request.n_decoded == 0:
            request.n_cached = 0
        self.cache.clear(resident)
        resident.scope = request.scope

    def no_room(self, work: Work) -> None:
        """The library found no free cells although `Residents` has some: free more, or end the requests."""
        if self.residents.ledger:
            if self.cache.evict_one() or self._preempt_youngest():
                return
        elif len(work.parts) > 1:
            self.preempt(max((part.request for part in work.parts), key=lambda r: r.task.id_task))
            return
        error = EngineFailure("the KV cache has no room for this request")
        self.ended.extend(Ended(part.request, error=error) for part in work.parts)

    def failed(self, work: Work) -> None:
        """The library failed to decode this work: end its requests and drop their cache, which may be damaged."""
        self._forget_shifted()
        for request, resident, _ in work.parts:
            if request.resident is not None:
                self.cache.clear(resident)
            self.ended.append(Ended(request, error=EngineFailure("llama.cpp failed to evaluate the batch")))

    def finish(self, request: ActiveRequest) -> None:
        """End the request and free its slot, or its place in the queue. Its resident stays as cache."""
        self._store.drop_lookup(request)
        resident = request.resident
        self.roster.finish(request)
        if resident is not None:
            self._release(request, resident)

    def _release(self, request: ActiveRequest, resident: Resident) -> None:
        self.cache.touch(resident)
        if resident.private or request.task.kind == "embedding":
            self.cache.clear(resident)


def _keys_to_repeat(request: ActiveRequest, cached: "array[int]") -> "array[int]":
    """What a request has to evaluate again after it has lost `cached` from the cache."""
    if request.phase is not Phase.DECODE:
        return request.keys
    return cached + array("q", [request.answer.token])
