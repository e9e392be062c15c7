"""What the KV store is asked and given, on the engine thread: prompts on admission, cached sequences on their way out.

It keeps the rule of the library: no state is read or loaded between a copy or shift and the
decode that carries it out (`Placement.unsettled`).
"""

from collections.abc import Callable, Iterable

from ..interfaces.backend import Backend
from ..kvstore.discards import Discard
from ..kvstore.messages import Lookup, Offer, Save
from ..kvstore.store import KVStore
from ..scheduling.placement import Placement
from ..scheduling.residents import Resident
from ..scheduling.sequence import Sequence
from .stats import Stats

_AT_ONCE = 2  # questions and unused answers
_PATIENCE = 5.0  # seconds that a slow volume may hold a prompt up, at least
_PATIENCE_TO_SAVE = 1.0  # seconds that it may hold one up for another conversation's sake, at most


class Keeper:
    """Between placement and store."""

    def __init__(
        self, backend: Backend, placement: Placement, store: KVStore, stats: Stats, clock: Callable[[], float]
    ) -> None:
        self.store = store
        self.draining = False  # everything is to be written
        self._backend = backend
        self._placement = placement
        self._stats = stats
        self._clock = clock
        self.postponed = False  # something is to be saved once the disk is tried again
        self._saving: list[tuple[Resident, Save]] = []
        self._stuck: Lookup | None = None  # not answered in time
        self._full_since: float | None = None  # when somebody first waited for the queue of saves
        placement.keeping = self

    # ---- prompts

    def prepare(self, queue: Iterable[Sequence]) -> None:
        """Ask for the prompts that are next, few at a time: an answer holds a whole state."""
        room = min(_AT_ONCE, sum(slot.idle for slot in self._placement.slots))
        for sequence in queue:
            if room <= 0:
                return
            if self._waits_for_its_slot(sequence) or (sequence.n_decoded and sequence.rest()):
                self.forget(sequence)  # an answer now would only take memory, and the turn of others
                continue
            lookup = sequence.lookup or self._ask(sequence)
            if not lookup.done and self._clock() > lookup.until:
                self._give_up(sequence)
            room -= sequence.held or sequence.offer is not None

    def _waits_for_its_slot(self, sequence: Sequence) -> bool:
        wanted = sequence.params.id_slot
        return wanted >= 0 and not self._placement.slots[wanted].idle

    def _give_up(self, sequence: Sequence) -> None:
        """The volume hangs: go on without, and ask nothing more until it has answered this."""
        self._stuck = sequence.lookup
        self.forget(sequence, Discard.SLOW_VOLUME)
        sequence.lookup = _nothing(sequence)

    @property
    def _hangs(self) -> bool:
        if self._stuck is not None and self._stuck.done:
            self._stuck = None
        return self._stuck is not None

    def _ask(self, sequence: Sequence) -> Lookup:
        partial = self._backend.info.partial_reuse
        limit = len(sequence.keys) - (2 if partial else 1)  # as for what the cache holds: the end is always evaluated
        have, _ = self._placement.best_source(sequence)
        wanted = sequence.kind == "completion" and sequence.params.cache_prompt and self.store.may_have(have, limit)
        if not wanted or self._hangs:
            if wanted:
                self.store.discard(Discard.NOT_ASKED)
            sequence.lookup = _nothing(sequence)
            return sequence.lookup
        rate = self._stats.prompt_token_seconds()
        sequence.lookup = Lookup(
            keys=sequence.keys[:limit],
            scales=sequence.lora,
            media=tuple((media.start, media.n_pos) for media in sequence.media),
            have=have,
            token_seconds=rate,
            until=self._clock() + max(_PATIENCE, limit * rate),
        )
        self.store.find(sequence.lookup)
        return sequence.lookup

    def forget(self, sequence: Sequence, reason: Discard = Discard.UNWANTED) -> None:
        """Nobody waits for the answer any more, or will use it."""
        if sequence.lookup is not None:
            self.store.decline(sequence.lookup, reason)
            sequence.drop_lookup()

    def load(self, resident: Resident, lookup: Lookup, offer: Offer) -> bool:
        """Put a saved state into an empty resident."""
        began = self._clock()
        fits = self._backend.state_import(resident.seq, offer.state)
        if not fits or self._backend.pos_max(resident.seq) + 1 != offer.length:
            self.store.decline(lookup, Discard.OTHER_LAYOUT)
            return False
        self.store.restored(lookup, offer, self._clock() - began)
        return True

    # ---- cached sequences

    def _unsaved(self, resident: Resident) -> bool:
        savable = resident.savable
        if not self._backend.info.partial_reuse and savable < len(resident.keys):
            return False
        return savable > resident.stored and savable >= self.store.options.min_tokens

    def candidates(self) -> list[Resident]:
        """Idle sequences that the store is to have by itself, and has not."""
        if not (self.store.continuous or (self.draining and self.store.writes_disk)):
            return []
        self._take_back()
        return [r for r in self._placement.residents() if r.owner is None and self._unsaved(r)]

    def save_one(self) -> bool:
        """Hand over the sequence whose loss would cost most; False when there is none, or it cannot be done now."""
        if self._placement.unsettled or not self.store.has_room:
            return False
        self.postponed = False
        waiting = self.candidates()
        if waiting and self.store.paused(self.draining):
            self.postponed = True
            return False
        if waiting:
            self._save(max(waiting, key=lambda r: (r.savable - r.stored, r.last_used)))
        return bool(waiting)

    def leaving(self, resident: Resident) -> None:
        """Keep what is about to be dropped."""
        if not self._unsaved(resident):
            return
        if self._placement.unsettled:
            self.store.discard(Discard.UNSETTLED)
        elif not self.store.has_room:
            self.store.discard(Discard.QUEUE_FULL)
        elif self._paused:
            self.store.discard(Discard.PAUSED)
        else:
            self._save(resident)

    @property
    def _paused(self) -> bool:
        return self.store.paused(self.draining) and not self.store.options.ram_bytes

    def awaits(self, resident: Resident) -> bool:
        """Whether it cannot be saved now, but a decode or a save later, and its loss would cost more than that."""
        if not self._unsaved(resident) or self._paused:
            return False
        if self._placement.unsettled:
            return True
        if self.store.has_room:
            return False
        now = self._clock()
        self._full_since = now if self._full_since is None else self._full_since
        cost = (resident.savable - resident.stored) * self._stats.prompt_token_seconds()
        return now - self._full_since < min(cost, _PATIENCE_TO_SAVE)

    def _save(self, resident: Resident) -> None:
        self._full_since = None
        count = resident.savable
        state = self._backend.state_export(resident.seq)
        save = self.store.save(resident.keys[:count], resident.lora, state, urgent=self.draining)
        if self.store.writes_disk:  # what is in memory only may be gone when it is wanted
            self._take_back()
            resident.stored = count
            self._saving.append((resident, save))

    def _take_back(self) -> None:
        """What could not be written is to be saved again; written twice, it costs nothing."""
        for resident, save in self._saving:
            if save.done and save.failed:
                resident.stored = 0
        self._saving = [item for item in self._saving if not item[1].done]

    @property
    def unsaved(self) -> int:
        """Sequences that the store is to have and has not written yet."""
        waiting = self.store.waiting  # first: who has failed meanwhile is a candidate again
        return len(self.candidates()) + waiting


def _nothing(sequence: Sequence) -> Lookup:
    """An answer without an offer."""
    return Lookup(sequence.keys[:0], (), (), done=True, outcome=Discard.NOT_ASKED)
