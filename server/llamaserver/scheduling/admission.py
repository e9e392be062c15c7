"""When a request may start, and its start."""

from ..interfaces.backend import Backend
from ..interfaces.keys import common_prefix
from ..kvstore.discards import Discard
from .cache import Cache
from .placement import How, Placement, PlacementPlan
from .prefix_store import PrefixStore
from .request import ActiveRequest, Phase
from .residents import Resident, Slot
from .roster import Roster

WORTH_WAITING = 32  # tokens that another request is about to compute: to compute fewer is faster than to wait


class Admission:
    """Decides whether a placement plan is carried out now, and carries it out."""

    def __init__(
        self, backend: Backend, roster: Roster, placement: Placement, cache: Cache, store: PrefixStore
    ) -> None:
        self._info = backend.info
        self._roster = roster
        self._placement = placement
        self._cache = cache
        self._residents = cache.residents
        self._store = store

    def plan(self, request: ActiveRequest) -> PlacementPlan | None:
        """Where a queued request can start now. None if no slot is idle that it may have, or the cache has no room.

        A copy shares cells, a restored state does not. So there may be room without the store's offer alone.
        """
        plan, running = self._placement.decide(request), self._roster.running()
        if plan is None or self.fits_beside(request, running, plan):
            return plan
        if plan.how is How.RESTORE:
            plain = self._placement.decide(request, restore=False)
            if plain is not None and self.fits_beside(request, running, plain):
                self._store.drop_lookup(request, Discard.NOT_NOW)
                return plain
        return None

    def fits_beside(
        self, request: ActiveRequest, running: list[ActiveRequest], plan: PlacementPlan | None = None
    ) -> bool:
        """Whether a unified cache has room for the prompt if these requests run. No plan: by the best one."""
        if self._residents.ledger is None or not running:
            return True
        waiting = sum(r.remaining for r in running if r.phase in (Phase.PREFILL, Phase.FOLLOWING))
        return waiting + len(running) <= self._placement.room_beside(request, running, plan)

    def victims(self, request: ActiveRequest) -> list[ActiveRequest]:
        """Whom to preempt for a request, in this order: those that rest, then those of keys that were served more."""
        wanted = request.task.params.id_slot
        running = [r for r in self._roster.running() if r.slot is not None and wanted in (-1, r.slot.id)]
        resting = [r for r in running if r.resident and r.client.resting]
        resting.sort(key=lambda r: -r.task.id_task)
        return resting + [r for r in self._roster.shares.victims(request, running) if r not in resting]

    def bind(self, request: ActiveRequest, slot: Slot) -> None:
        """Give the request its slot. Drops the offers to others of its key if they must wait for this one."""
        self._roster.bind(request, slot)
        if self._roster.at_limit(request):
            for other in self._roster.queue.of(request.task.tenant.key):
                self._store.drop_lookup(other)  # it would only take memory, and the turn of other keys

    def start(self, request: ActiveRequest, plan: PlacementPlan) -> bool:
        """Begin prefill by the plan. Returns False when a later step is better."""
        if self._has_leader(request, plan) or (self._decodes_soon() and self._better_later(plan)):
            return False
        resident = self._restore(request, plan) if plan.how is How.RESTORE else None
        if resident is None:
            resident = self._place(request, plan)
        if request.n_decoded == 0:
            request.n_cached = len(resident.keys)
        self._roster.begin_prefill(request, resident)
        return True

    def _has_leader(self, request: ActiveRequest, plan: PlacementPlan) -> bool:
        """Whether a prompt in progress will compute much more of this one than can be reused now.

        A prompt of a key that is ahead by more than that has its turn too late.
        """
        if not request.task.params.cache_prompt or not self._info.partial_reuse:
            return False
        have, scope = max(plan.length, request.offered), request.scope
        most, shares = self._placement.most_reused(request), self._roster.shares
        return any(
            min(common_prefix(other.keys, request.keys), other.scope.shared(scope), most) - have
            >= max(WORTH_WAITING, shares.lead(other, request))
            for other in self._roster.running()
            if other is not request
            and other.phase is Phase.PREFILL
            and not other.client.cancelled
            and other.task.lora == request.task.lora
            and not (other.resident and other.resident.private)
        )

    def _decodes_soon(self) -> bool:
        active = [r for r in self._roster.running() if not r.client.cancelled]
        return any(r.phase is Phase.PREFILL or (r.phase is Phase.DECODE and not r.client.rest()) for r in active)

    def _better_later(self, plan: PlacementPlan) -> bool:
        """Whether less is lost after the next decode: while a copy is pending, no state can be read or loaded."""
        if plan.how is How.RESTORE and self._residents.unsettled:
            return True
        return plan.victim is not None and self._store.delays_eviction(plan.victim)

    def _place(self, request: ActiveRequest, plan: PlacementPlan) -> Resident:
        if plan.how is How.RESTORE:  # it has failed, and the offer is gone
            plan = self._placement.decide_on(plan.slot, request)
        self._store.drop_lookup(request, Discard.OVERTAKEN)
        resident = self._cache.carry_out(plan, request.task.lora, request.scope)
        request.cached_from = "slot" if resident.keys else ""
        return resident

    def _restore(self, request: ActiveRequest, plan: PlacementPlan) -> Resident | None:
        """Start from the store's offer. Returns None when that is not possible. The offer is dropped in either case."""
        offer = request.offer
        if offer is None or self._residents.unsettled or not self._cache.free_cells(plan.length):
            self._store.drop_lookup(request, Discard.NOT_NOW)
            return None
        plan = self._placement.decide_on(plan.slot, request)  # making room may have evicted the victim
        resident = self._cache.carry_out(plan, request.task.lora, request.scope)
        fits = self._store.load(request, offer, resident)
        self._store.drop_lookup(request)
        if not fits:
            self._cache.clear(resident)
            return None
        self._cache.extend(resident, request.keys[: offer.length])
        resident.stored, request.cached_from = offer.length, offer.tier
        return resident
