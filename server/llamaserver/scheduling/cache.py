"""The memory operations on the KV cache: start a request, extend, shift, evict. Keeps `Residents` up to date."""

from array import array
from collections.abc import Callable

from ..interfaces.backend import Backend
from ..interfaces.tenant import Scope
from .placement import How, Placement, PlacementPlan
from .residents import Resident, Residents, Slot


class Cache:
    """The cache of one context.

    `on_evict` is called before a resident loses keys, while its state can still be read.
    """

    def __init__(
        self, backend: Backend, residents: Residents, placement: Placement, on_evict: Callable[[Resident], None]
    ) -> None:
        self._backend = backend
        self._info = backend.info
        self._placement = placement
        self._on_evict = on_evict
        self._ledger = residents.ledger
        self.residents = residents
        self._uses = 0  # counts, to order residents by their last use
        self._claimed = 0  # cells promised to rows that are not evaluated yet

    # ---- starting a request

    def carry_out(self, plan: PlacementPlan, lora: tuple[float, ...], scope: Scope) -> Resident:
        """Give the slot the resident of the plan. A restored state has yet to be loaded into it."""
        if plan.source is None:
            target, length = self._emptied(plan), 0
        elif plan.how is How.TAKE_OVER:
            target = self._take_over(plan.slot, plan.source)
            length = self._truncate(target, plan.length)
        else:
            target, length = self._copy(plan, plan.source), plan.length
        target.position = length
        target.group = 0
        target.lora, target.scope = lora, scope
        target.private = False
        target.shifted_from = None  # no shifted part is ever reused
        self.touch(target)
        return target

    def vacate(self, slot: Slot) -> Resident:
        """An empty resident on an idle slot, for a state that comes from outside."""
        return self._emptied(PlacementPlan(slot, How.EMPTY, victim=self._placement.victim(slot)))

    def adopt(self, resident: Resident, tokens: tuple[int, ...], lora: tuple[float, ...], domain: bytes) -> None:
        """Record that `resident` now holds these tokens, whose state comes from outside."""
        resident.lora, resident.scope, resident.foreign = lora, Scope(domain), True
        self.extend(resident, array("q", tokens))
        self.touch(resident)

    def _emptied(self, plan: PlacementPlan) -> Resident:
        """An empty resident on the slot. The one that was there is retired, unless it is the victim."""
        slot = plan.slot
        if plan.victim is not None:
            self._evict(plan.victim)
        if slot.cached is not None:
            self._retire(slot)
        if slot.resident is None:
            slot.resident = Resident(self.residents.free_ids.pop(), slot=slot)
        return slot.resident

    def _take_over(self, slot: Slot, source: Resident) -> Resident:
        if slot.resident is not source:
            self._retire(slot)
            self.residents.retired.remove(source)
            slot.resident = source
            source.slot = slot
        return source

    def _copy(self, plan: PlacementPlan, source: Resident) -> Resident:
        target, length = self._emptied(plan), plan.length
        self._backend.seq_cp(source.seq, target.seq, length)
        target.keys, target.foreign = source.keys[:length], source.foreign
        target.stored = min(source.stored, length)
        if self._ledger:
            target.cells = self._ledger.share(source.cells[:length])
        else:
            self.residents.unsettled = True
        if source in self.residents.shifted:
            self.residents.shifted.append(target)
        return target

    def _retire(self, slot: Slot) -> None:
        """Take the resident off its slot. It stays as cache. An empty one gives its id back."""
        resident, slot.resident = slot.resident, None
        if resident is None:
            return
        resident.slot = None
        if resident.keys:
            self.residents.retired.append(resident)
        else:
            self.residents.free_ids.append(resident.seq)

    def _truncate(self, resident: Resident, length: int) -> int:
        """Drop what lies beyond `length`. A memory that cannot drop a part is emptied: returns 0 then."""
        if length == len(resident.keys):
            return length
        self._evicting(resident)
        if length == 0 or not self._backend.seq_rm(resident.seq, length):
            self.clear(resident)
            return 0
        if self._ledger:
            self._ledger.release(resident.cells[length:])
            del resident.cells[length:]
        del resident.keys[length:]
        resident.stored = min(resident.stored, length)
        return length

    # ---- running requests

    def extend(self, resident: Resident, keys: "array[int]") -> None:
        """Record keys that a decode has put into the cache."""
        resident.keys.extend(keys)
        resident.position += len(keys)
        if self._ledger:
            self._ledger.extend(resident.cells, len(keys))

    def settled(self) -> None:
        """A decode has carried out the pending copies and shifts."""
        self.residents.unsettled = False
        self.residents.shifted.clear()

    def shares_beyond(self, resident: Resident, start: int) -> bool:
        """Whether another sequence refers to the cells of `resident` from `start` on."""
        return self._ledger is not None and self._ledger.shared(resident.cells[start:])

    def unshare(self, resident: Resident) -> bool:
        """Give a resident cells of its own through its serialised state. Returns False when that cannot be done now."""
        if self.residents.unsettled or not self.free_cells(len(resident.cells)):
            return False
        keys, shifted_from, foreign, stored = resident.keys, resident.shifted_from, resident.foreign, resident.stored
        data = self._backend.state_get(resident.seq)
        self.clear(resident)
        resident.shifted_from, resident.foreign = shifted_from, foreign
        if not self._backend.state_set(resident.seq, data):
            return False
        self.extend(resident, keys)
        resident.stored = stored
        return True

    # ---- room

    def begin_claims(self) -> None:
        """Forget the cells that an earlier plan claimed."""
        self._claimed = 0

    def claim(self, cells: int) -> bool:
        """Claim cells for rows of this plan, evicting cached sequences for them. Returns False when all are in use."""
        if not self.free_cells(self._claimed + cells):
            return False
        self._claimed += cells
        return True

    def free_cells(self, count: int) -> bool:
        """Evict until a unified cache has `count` free cells. Returns False when all others are in use."""
        while self._ledger and self._ledger.used + count > self._info.n_ctx:
            if not self.evict_one():
                return False
        return True

    def evict_one(self) -> bool:
        """Evict the oldest sequence without a slot, else that of an idle slot. Returns False if there is none."""
        oldest = self.residents.least_recent()
        if oldest is None:
            idle = [slot.cached for slot in self.residents.slots if slot.cached and not slot.cached.busy]
            oldest = min(idle, key=lambda r: r.last_used, default=None)
        if oldest is not None:
            self._evict(oldest)
        return oldest is not None

    def _evict(self, resident: Resident) -> None:
        """Drop a resident. Its id is free, unless a slot has it."""
        self.drop(resident)
        if resident.slot is None:
            self.residents.retired.remove(resident)
            self.residents.free_ids.append(resident.seq)

    def touch(self, resident: Resident) -> None:
        """Mark as most recently used."""
        self._uses += 1
        resident.last_used = self._uses

    def drop(self, resident: Resident) -> None:
        """Empty a sound resident to give others its room."""
        self._evicting(resident)
        self.clear(resident)

    def clear(self, resident: Resident) -> None:
        """Empty a resident in place."""
        self._backend.seq_rm(resident.seq, 0)
        if self._ledger:
            self._ledger.release(resident.cells)
        resident.cells, resident.keys = [], array("q")
        resident.position = resident.group = resident.stored = 0
        resident.private = resident.foreign = False
        resident.shifted_from = None
        self.residents.forget_shift(resident)

    def _evicting(self, resident: Resident) -> None:
        if resident.keys:
            self._on_evict(resident)
