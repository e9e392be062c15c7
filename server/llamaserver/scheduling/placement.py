"""Where a request goes: its slot, the resident it starts from, and how the prefix gets there.

Slots are chosen by `id_slot`, else by the longest common prefix over all resident sequences, busy
ones included, else least recently used. Performs the memory operations of its decisions. Knows
both layouts: split (one sequence a slot, copies are whole) and unified (cells shared by reference,
finished sequences stay as cache beside the slots).
"""

from array import array
from typing import Protocol

from ..interfaces.backend import Backend
from ..interfaces.keys import common_prefix
from ..kvstore.discards import Discard
from ..kvstore.messages import WORTH_RESTORING, Lookup, Offer
from .cells import CellLedger
from .residents import Resident, Slot
from .sequence import Phase, Sequence

WORTH_WAITING = 32  # tokens another sequence is about to compute; below it, computing beats waiting


class Keeping(Protocol):
    """What keeps cached sequences outside the context (keeper.py)."""

    def leaving(self, resident: Resident) -> None:
        """Keys of this resident are about to be dropped; its state may be read now."""

    def awaits(self, resident: Resident) -> bool:
        """Whether dropping keys of this resident is better done a little later."""

    def load(self, resident: Resident, lookup: Lookup, offer: Offer) -> bool:
        """Put a saved state into an empty resident; False when it does not fit."""

    def forget(self, sequence: Sequence, reason: Discard = Discard.UNWANTED) -> None:
        """Drop what was asked and offered; the reason counts when nothing has come of it."""


class Placement:
    """The slots and residents of one context."""

    def __init__(self, backend: Backend, n_slots: int) -> None:
        self._backend = backend
        self.keeping: Keeping | None = None
        self._info = backend.info
        self.slots = [Slot(i) for i in range(n_slots)]
        self.retired: list[Resident] = []
        self._free = list(range(backend.info.n_seq_max - 1, -1, -1))
        self.ledger = CellLedger() if backend.info.unified else None
        self.unsettled = False  # copies or shifts that the next successful decode carries out
        self.shifted: list[Resident] = []  # whose cells the next decode shifts; an aborted one may do half of it
        self._clock = 0

    # ---- looking

    def residents(self) -> list[Resident]:
        """Everything in the cache."""
        return [s.resident for s in self.slots if s.resident] + self.retired

    @property
    def cells_used(self) -> int:
        """Distinct KV cells in use."""
        return self.ledger.used if self.ledger else sum(len(r.keys) for r in self.residents())

    def room_beside(self, sequence: Sequence) -> int:
        """Cells of a unified cache that a prompt leaves beside those in use; what is only cache counts as free."""
        held = {cell for resident in self.residents() if resident.owner for cell in resident.cells}
        length, source = self.best_source(sequence)
        shared = sum(cell in held for cell in source.cells[:length]) if source else 0
        return self._info.n_ctx - len(held) - (len(sequence.keys) - shared)

    def best_source(self, sequence: Sequence) -> tuple[int, Resident | None]:
        """The resident with the longest usable prefix; idle ones win ties, then recent ones."""
        if not sequence.params.cache_prompt:
            return 0, None
        scored = [(self._usable(r, sequence), r) for r in self.residents()]
        length, source = max(scored, key=lambda x: (x[0], x[1].owner is None, x[1].last_used), default=(0, None))
        return (length, source) if length else (0, None)

    def _usable(self, resident: Resident, sequence: Sequence) -> int:
        length = resident.common_prefix(sequence.keys, sequence.lora)
        if not self._info.partial_reuse:  # a recurrent state is one position, not a range
            whole = resident.owner is None and length == len(resident.keys) < len(sequence.keys)
            return length if whole else 0
        length = min(length, _most_reused(sequence))
        window = self._info.n_swa
        if window and length and self._backend.pos_min(resident.seq) > max(0, length - window):
            return 0  # what its window would see has been overwritten
        for media in sequence.media:
            if media.start < length < media.start + media.n_pos:
                return media.start
        return length

    def _worthy_source(self, sequence: Sequence) -> tuple[int, Resident | None]:
        """The best source, but no few tokens from outside: all that follows them could not be kept."""
        length, source = self.best_source(sequence)
        if source is not None and source.foreign and self.keeping is not None and length < WORTH_RESTORING:
            return 0, None
        return length, source

    def leader_for(self, sequence: Sequence) -> Sequence | None:
        """A prompt in progress that will compute much more of `sequence` than is there now."""
        if not sequence.params.cache_prompt or not self._info.partial_reuse:
            return None
        have, _ = self.best_source(sequence)
        best, leader = max(have, sequence.offered) + WORTH_WAITING, None
        for slot in self.slots:
            other = slot.sequence
            if other is None or other is sequence or other.phase is not Phase.PREFILL or other.cancelled:
                continue
            if other.lora != sequence.lora or (other.resident and other.resident.private):
                continue
            shared = min(common_prefix(other.keys, sequence.keys), _most_reused(sequence))
            if shared >= best:
                best, leader = shared, other
        return leader

    def choose_slot(self, sequence: Sequence) -> Slot | None:
        """The slot for a queued request, None when it has to wait for one."""
        if sequence.params.id_slot >= 0:
            slot = self.slots[sequence.params.id_slot]
            return slot if slot.idle else None
        idle = [slot for slot in self.slots if slot.idle]
        if not idle:
            return None
        length, source = self.best_source(sequence)
        if self._prefers_offer(sequence, length):
            source = None
        if source and source.slot in idle and self._may_take_over(source, length):
            return source.slot
        # Spare the source when there is another place; empty slots first, then the oldest.
        return min(idle, key=lambda s: (s.resident is not None and s.resident is source, _age(s)))

    def _may_take_over(self, source: Resident, length: int) -> bool:
        """Whether continuing in `source` keeps enough of it: a copy would spare it, but costs cells."""
        return source.owner is None and length * 2 >= len(source.keys)

    # ---- placing

    def better_later(self, sequence: Sequence) -> bool:
        """Whether placing it after the next decode loses less: no state is read or loaded while a copy is pending."""
        if self.keeping is None:
            return False
        if sequence.offer is not None and self.unsettled:
            return True
        victim = self._victim(sequence)
        return victim is not None and self.keeping.awaits(victim)

    def _victim(self, sequence: Sequence) -> Resident | None:
        """Whose keys `place` would drop for the sequence's id. Who goes later, for its cells, is not foreseen."""
        slot = sequence.slot
        assert slot is not None
        length, source = self._worthy_source(sequence)
        if self._prefers_offer(sequence, length):
            source = None
        if source is not None and source.slot in (slot, None) and self._may_take_over(source, length):
            return source if length < len(source.keys) else None
        held = slot.resident if slot.resident and slot.resident.keys else None
        if not self._has_spare_id(source):
            return held
        if self._free or (slot.resident is not None and held is None):
            return None
        return min((r for r in self.retired if r is not source), key=lambda r: r.last_used)

    def place(self, sequence: Sequence) -> int:
        """Give the sequence a resident that holds its longest cached prefix; return its length."""
        slot = sequence.slot
        assert slot is not None
        length, source = self._worthy_source(sequence)
        if self._prefers_offer(sequence, length):
            if restored := self._restore(sequence, slot):
                return restored
            length, source = self._worthy_source(sequence)
        self.forget_offer(sequence, Discard.OVERTAKEN)
        if source is None:
            target = self._empty(slot)
        elif source is slot.resident and (self._may_take_over(source, length) or not self._has_spare_id(source)):
            target = source
        elif source.slot is None and (self._may_take_over(source, length) or not self._has_id_for(slot, source)):
            self._detach(slot)
            self.retired.remove(source)
            target = source
        else:
            target = self._copy_of(source, length, slot)
        length = self._truncate(target, length)
        target.position, target.exact = length, None  # what may be reused is exact
        self._hold(sequence, slot, target)
        sequence.cached_from = "slot" if length else ""
        return length

    def _hold(self, sequence: Sequence, slot: Slot, target: Resident) -> None:
        target.lora, target.private, target.slot = sequence.lora, False, slot
        slot.resident = target
        target.owner, sequence.resident = sequence, target
        self.touch(target)

    def _prefers_offer(self, sequence: Sequence, length: int) -> bool:
        return sequence.offer is not None and sequence.offered >= length + WORTH_RESTORING

    def _restore(self, sequence: Sequence, slot: Slot) -> int:
        """Start from a saved state; its length, or 0 when that is not possible."""
        lookup, offer = sequence.lookup, sequence.offer
        assert lookup is not None
        assert offer is not None
        if self.keeping is None or self.unsettled or not self.free_cells(offer.length):
            self.forget_offer(sequence, Discard.NOT_NOW)
            return 0
        target = self._empty(slot)
        fits = self.keeping.load(target, lookup, offer)
        self.forget_offer(sequence)
        if not fits:
            self.clear(target)
            return 0
        self.extend(target, sequence.keys[: offer.length])
        target.stored, sequence.cached_from = offer.length, offer.tier
        self._hold(sequence, slot, target)
        return offer.length

    def forget_offer(self, sequence: Sequence, reason: Discard = Discard.UNWANTED) -> None:
        """Drop what the store was asked for this request and has offered: it is large."""
        if self.keeping is not None:
            self.keeping.forget(sequence, reason)

    def _copy_of(self, source: Resident, length: int, slot: Slot) -> Resident:
        target = self._empty(slot, sparing=source)
        self._backend.seq_cp(source.seq, target.seq, length)
        target.keys, target.foreign = source.keys[:length], source.foreign
        target.stored = min(source.stored, length)
        if self.ledger:
            target.cells = self.ledger.share(source.cells[:length])
        else:
            self.unsettled = True
        if source in self.shifted:
            self.shifted.append(target)
        return target

    def _empty(self, slot: Slot, sparing: Resident | None = None) -> Resident:
        """An empty resident for the slot; what it held is kept beside the slots where that is possible."""
        if slot.resident and slot.resident.keys:
            self._retire_or_drop(slot, sparing)
        if slot.resident is None:
            slot.resident = Resident(self._take_id(sparing), slot=slot)
        return slot.resident

    def _retire_or_drop(self, slot: Slot, sparing: Resident | None = None) -> None:
        """Detach the slot's resident: to the retired ones in a unified layout, else emptied in place."""
        resident = slot.resident
        if resident is None:
            return
        if self._has_spare_id(sparing) and resident.keys:
            self._detach(slot)
        else:
            self.drop(resident)

    def _detach(self, slot: Slot) -> None:
        """Take the slot's resident off it: to the retired ones, or its id back when it is empty."""
        resident, slot.resident = slot.resident, None
        if resident is None:
            return
        resident.slot = None
        if resident.keys:
            self.retired.append(resident)
        else:
            self._free.append(resident.seq)

    def _has_spare_id(self, sparing: Resident | None) -> bool:
        return self.ledger is not None and bool(self._free or [r for r in self.retired if r is not sparing])

    def _has_id_for(self, slot: Slot, sparing: Resident) -> bool:
        return slot.resident is not None or self._has_spare_id(sparing)

    def _take_id(self, sparing: Resident | None) -> int:
        if not self._free:
            self.evict_one(sparing)
        return self._free.pop()

    def _truncate(self, resident: Resident, length: int) -> int:
        """Drop what lies beyond `length`; a memory that cannot drop a part is emptied: returns 0 then."""
        if length == len(resident.keys):
            return length
        self._leaving(resident)
        if length == 0 or not self._backend.seq_rm(resident.seq, length):
            self.clear(resident)
            return 0
        if self.ledger:
            self.ledger.release(resident.cells[length:])
            del resident.cells[length:]
        del resident.keys[length:]
        resident.stored = min(resident.stored, length)
        return length

    # ---- keeping and dropping

    def touch(self, resident: Resident) -> None:
        """Mark as most recently used."""
        self._clock += 1
        resident.last_used = self._clock

    def _leaving(self, resident: Resident) -> None:
        if self.keeping is not None and resident.keys:
            self.keeping.leaving(resident)

    def drop(self, resident: Resident) -> None:
        """Empty a resident that is sound, so that others have its place."""
        self._leaving(resident)
        self.clear(resident)

    def clear(self, resident: Resident) -> None:
        """Empty a resident in place."""
        self._backend.seq_rm(resident.seq, 0)
        if self.ledger:
            self.ledger.release(resident.cells)
        resident.cells, resident.keys = [], array("q")
        resident.position, resident.private, resident.foreign, resident.exact, resident.stored = (
            0,
            False,
            False,
            None,
            0,
        )

    def evict_one(self, sparing: Resident | None = None) -> bool:
        """Drop the least recently used retired sequence; False when there is none."""
        candidates = [r for r in self.retired if r is not sparing]
        if not candidates:
            return False
        oldest = min(candidates, key=lambda r: r.last_used)
        self.drop(oldest)
        self.retired.remove(oldest)
        self._free.append(oldest.seq)
        return True

    def evict_idle_slot(self) -> bool:
        """Empty the least recently used resident of a slot that nobody works on; False when there is none."""
        idle = [s.resident for s in self.slots if s.resident and s.resident.owner is None and s.resident.keys]
        if not idle:
            return False
        self.drop(min(idle, key=lambda r: r.last_used))
        return True

    def free_cells(self, count: int) -> bool:
        """Drop cached sequences until a unified cache has `count` free cells; False when all others are in use."""
        while self.ledger and self.ledger.used + count > self._info.n_ctx:
            if not (self.evict_one() or self.evict_idle_slot()):
                return False
        return True

    def shares_beyond(self, resident: Resident, start: int) -> bool:
        """Whether another sequence refers to the cells of `resident` from `start` on."""
        return self.ledger is not None and self.ledger.shared(resident.cells[start:])

    def unshare(self, resident: Resident) -> bool:
        """Give a resident cells of its own through its serialised state; False when that cannot be done now."""
        if self.unsettled or not self.free_cells(len(resident.cells)):
            return False
        keys, exact, foreign, stored = resident.keys, resident.exact, resident.foreign, resident.stored
        data = self._backend.state_get(resident.seq)
        self.clear(resident)
        resident.exact, resident.foreign = exact, foreign
        if not self._backend.state_set(resident.seq, data):
            return False
        self.extend(resident, keys)
        resident.stored = stored
        return True

    def extend(self, resident: Resident, keys: "array[int]") -> None:
        """Record keys that a decode has put into the cache."""
        resident.keys.extend(keys)
        resident.position += len(keys)
        if self.ledger:
            self.ledger.extend(resident.cells, len(keys))

    def settled(self) -> None:
        """A decode has carried out the pending copies and shifts."""
        self.unsettled = False
        self.shifted.clear()

    def vacate(self, slot: Slot) -> Resident:
        """An empty resident on an idle slot, for a state that comes from outside."""
        return self._empty(slot)

    def adopt(self, resident: Resident, tokens: tuple[int, ...], lora: tuple[float, ...]) -> None:
        """Record that `resident` now holds these tokens."""
        resident.lora, resident.foreign = lora, True
        self.extend(resident, array("q", tokens))
        self.touch(resident)

    def release(self, sequence: Sequence) -> None:
        """The sequence is done: its slot is idle, its resident stays as cache."""
        if sequence.resident:
            sequence.resident.owner = None
            self.touch(sequence.resident)
            if sequence.resident.private or sequence.kind == "embedding":
                self.clear(sequence.resident)
        if sequence.slot:
            sequence.slot.sequence = None
        sequence.resident = None
        sequence.phase = Phase.DONE


def _most_reused(sequence: Sequence) -> int:
    """All but two tokens: the last one is evaluated for its logits, and never in a row of its own.

    The library's kernels for one row differ in the last bits from those for several, and an answer
    must not depend on how much of its prompt was cached.
    """
    return max(0, len(sequence.keys) - 2)


def _age(slot: Slot) -> int:
    return slot.resident.last_used if slot.resident and slot.resident.keys else -1
