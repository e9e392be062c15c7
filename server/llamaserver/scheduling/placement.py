"""Where a request goes: its slot, the resident that it starts from, and how the prefix gets there.

`Placement.decide` chooses and changes nothing. `Cache.carry_out` does what was decided. A slot is
chosen by `id_slot`, else by the longest common prefix over all residents (busy ones included),
else the least recently used one.

In a split layout each slot has one sequence, and a copy is a whole copy. In a unified layout
sequences share cells, and ended sequences stay as cache beside the slots.
"""

from dataclasses import dataclass
from enum import Enum

from ..interfaces.backend import Backend
from ..interfaces.tenant import Scope
from ..kvstore.messages import WORTH_RESTORING
from .request import ActiveRequest
from .residents import Resident, Residents, Slot


class How(Enum):
    """How the first keys of a request get into its resident."""

    EMPTY = "empty"  # none of them is in the cache
    TAKE_OVER = "take over"  # the request goes on in the source
    COPY = "copy"
    RESTORE = "restore"  # from the KV store's offer


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """What starting a request will do."""

    slot: Slot
    how: How
    length: int = 0  # leading keys that will be in the cache
    source: Resident | None = None  # of a take-over or a copy
    victim: Resident | None = None  # loses keys for it (not: evictions when cells run out later)


class Placement:
    """Decides for one context. `min_foreign`: fewest tokens worth reusing of a state from outside."""

    def __init__(self, backend: Backend, residents: Residents, *, min_foreign: int = 0) -> None:
        self._backend = backend
        self._info = backend.info
        self._residents = residents
        self._min_foreign = min_foreign

    def decide(self, request: ActiveRequest, *, restore: bool = True) -> PlacementPlan | None:
        """The plan for a queued request, None when no slot is idle that it may have. `restore`: may use its offer."""
        wanted, slots = request.task.params.id_slot, self._residents.slots
        idle = [slot for slot in (slots if wanted < 0 else [slots[wanted]]) if not slot.busy]
        if not idle:
            return None
        length, source = self._start(request) if restore else self.best_source(request)
        return self._plan(request, self._choose_slot(idle, request, length, source), length, source)

    def waits_for_slot(self, request: ActiveRequest) -> bool:
        """Whether the slot that the request names is busy."""
        wanted = request.task.params.id_slot
        return wanted >= 0 and self._residents.slots[wanted].busy

    def decide_on(self, slot: Slot, request: ActiveRequest) -> PlacementPlan:
        """The plan for a request that has its slot already."""
        return self._plan(request, slot, *self._start(request))

    def room_beside(self, request: ActiveRequest, running: list[ActiveRequest], plan: PlacementPlan | None) -> int:
        """Cells of a unified cache that the prompt leaves free beside those requests. No plan: the best one."""
        length, source = (plan.length, plan.source) if plan is not None else self.best_source(request)
        used = {cell for other in running if other.resident for cell in other.resident.cells}
        shared = sum(cell in used for cell in source.cells[:length]) if source else 0
        return self._info.n_ctx - len(used) - (len(request.keys) - shared)

    def best_source(self, request: ActiveRequest) -> tuple[int, Resident | None]:
        """The longest usable prefix in the cache and its resident. Idle ones win ties, then recent ones.

        Residents of other domains give the server's system prompt at most.
        A short prefix of a foreign resident is ignored: what follows it could not be saved.
        """
        if not request.task.params.cache_prompt:
            return 0, None
        scope = request.scope
        scored = [(self._usable(resident, request, scope), resident) for resident in self._residents]
        length, source = max(scored, key=lambda x: (x[0], not x[1].busy, x[1].last_used), default=(0, None))
        if source is None or not length or (source.foreign and length < self._min_foreign):
            return 0, None
        return length, source

    def most_reused(self, request: ActiveRequest) -> int:
        """The most keys that a request may reuse: all but two, with a recurrent state all but one.

        The last key is evaluated for its logits, and where possible never in a row of its own: the
        library's kernels for one row differ in the last bits from those for several, and an answer
        must not depend on how much of its prompt was cached.
        """
        return max(0, len(request.keys) - (2 if self._info.partial_reuse else 1))

    def _usable(self, resident: Resident, request: ActiveRequest, scope: Scope) -> int:
        length = resident.common_prefix(request.keys, request.task.lora, scope)
        if not self._info.partial_reuse:  # a recurrent state is one position, not a range
            whole = not resident.busy and length == len(resident.keys) < len(request.keys)
            return length if whole else 0
        length = min(length, self.most_reused(request))
        for media in request.task.media:
            if media.start < length < media.start + media.n_pos:
                length = media.start
        window = self._info.n_swa
        if window and length and self._backend.pos_min(resident.seq) > max(0, length - window):
            return 0  # the cells inside the attention window have been overwritten
        return length

    def _start(self, request: ActiveRequest) -> tuple[int, Resident | None]:
        """Length and source of what the request starts from. A length without a source is the store's offer."""
        length, source = self.best_source(request)
        if request.offer is not None and request.offered >= length + WORTH_RESTORING:
            return request.offered, None
        return length, source

    def _choose_slot(self, idle: list[Slot], request: ActiveRequest, length: int, source: Resident | None) -> Slot:
        if source and source.slot in idle and self._may_take_over(request, source, length):
            return source.slot
        # Spare the source if there is another slot. Empty slots come first, then the least recently used.
        return min(idle, key=lambda s: (source is not None and s.resident is source, _last_used(s)))

    def _plan(self, request: ActiveRequest, slot: Slot, length: int, source: Resident | None) -> PlacementPlan:
        if source is None:
            how = How.RESTORE if length else How.EMPTY
            return PlacementPlan(slot, how, length, victim=self.victim(slot))
        if source.slot in (slot, None) and (
            self._may_take_over(request, source, length) or not self._has_id_beside(slot, source)
        ):
            victim = source if length < len(source.keys) else None
            return PlacementPlan(slot, How.TAKE_OVER, length, source, victim)
        return PlacementPlan(slot, How.COPY, length, source, self.victim(slot, sparing=source))

    def _may_take_over(self, request: ActiveRequest, source: Resident, length: int) -> bool:
        """Whether most of the source is reused. A copy would spare the rest, but costs cells.

        A copy spares what another domain alone can use.
        """
        same_domain = source.scope.domain == request.task.tenant.domain
        return not source.busy and same_domain and length * 2 >= len(source.keys)

    def _has_id_beside(self, slot: Slot, source: Resident) -> bool:
        """Whether the slot can have a sequence id that is not the source's."""
        return slot.resident not in (None, source) or self._residents.has_spare_id(source)

    def victim(self, slot: Slot, sparing: Resident | None = None) -> Resident | None:
        """The resident that loses its keys when the slot gets an empty one. `sparing` never does."""
        residents, cached = self._residents, slot.cached
        if slot.resident is not None and cached is None:
            return None  # it is empty already
        if cached is not None and not residents.has_spare_id(sparing):
            return cached
        if residents.free_ids:
            return None
        oldest = residents.least_recent(sparing)
        if cached is None or cached is sparing or (oldest is not None and oldest.last_used < cached.last_used):
            return oldest
        return cached


def _last_used(slot: Slot) -> int:
    return slot.cached.last_used if slot.cached else -1
