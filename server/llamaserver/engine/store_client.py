"""The KV store's client on the engine thread: looks prompts up before admission, saves cached sequences.

It keeps the rule of the library: no state is read or loaded between a copy or shift and the
decode that carries it out (`Residents.unsettled`).
"""

from collections.abc import Callable, Iterable

from ..interfaces.backend import Backend
from ..kvstore.discards import Discard
from ..kvstore.messages import Lookup, Offer, Save, StoreStats
from ..kvstore.store import KVStore
from ..scheduling.placement import Placement
from ..scheduling.request import ActiveRequest
from ..scheduling.residents import Resident, Residents
from .stats import Stats

_MOST_LOOKUPS = 2  # open questions and unused offers: an offer holds a whole state in memory
_LOOKUP_SECONDS = 5.0  # that a prompt waits for a slow volume, at least
_SAVE_SECONDS = 1.0  # that a prompt waits until another conversation is saved, at most


class NoStoreClient:
    """Stands for the client where there is no store."""

    draining = False
    postponed = False
    unsaved = 0

    def look_up(self, queue: Iterable[ActiveRequest]) -> None:
        """Nothing to ask."""

    def answered(self, request: ActiveRequest) -> bool:
        """Nothing to wait for."""
        return True

    def delays_eviction(self, resident: Resident) -> bool:
        """Nothing can be saved."""
        return False

    def load(self, request: ActiveRequest, offer: Offer, resident: Resident) -> bool:
        """There are no offers."""
        return False

    def drop_lookup(self, request: ActiveRequest, reason: Discard = Discard.UNWANTED) -> None:
        """There are no lookups."""

    def candidates(self) -> list[Resident]:
        """Nothing can be saved."""
        return []

    def enqueue_save(self) -> bool:
        """Nothing can be saved."""
        return False

    def save_evicted(self, resident: Resident) -> None:
        """Nothing can be saved."""

    def stats(self) -> StoreStats | None:
        """There are none."""
        return None


class StoreClient:
    """Asks the store about prompts and gives it cached sequences."""

    def __init__(
        self,
        backend: Backend,
        residents: Residents,
        placement: Placement,
        store: KVStore,
        *,
        stats: Stats,
        clock: Callable[[], float],
    ) -> None:
        self.store = store
        self.draining = False  # the server is about to end: save all sequences
        self.postponed = False  # something is to be saved once the disk is tried again
        self._backend = backend
        self._residents = residents
        self._placement = placement
        self._stats = stats
        self._clock = clock
        self._saving: list[tuple[Resident, Save]] = []
        self._overdue: Lookup | None = None  # not answered in time
        self._full_since: float | None = None  # when a request first waited for room in the queue of saves

    def stats(self) -> StoreStats | None:
        """Numbers for monitoring."""
        return self.store.stats()

    # ---- prompts

    def look_up(self, queue: Iterable[ActiveRequest]) -> None:
        """Ask about the next prompts, few at a time. Give up on answers that are overdue."""
        room = min(_MOST_LOOKUPS, sum(not slot.busy for slot in self._residents.slots))
        for request in queue:
            if room <= 0:
                return
            if self._placement.waits_for_slot(request) or request.rests():
                self.drop_lookup(request)  # an offer would only take memory, and the turn of other requests
                continue
            lookup = request.lookup or self._ask(request)
            if not lookup.done and self._clock() > lookup.until:
                self._give_up(request)
            if request.awaits_store or request.offer is not None:
                room -= 1

    def answered(self, request: ActiveRequest) -> bool:
        """Whether the request need not wait for the store any longer."""
        return request.lookup is not None and request.lookup.done

    def _give_up(self, request: ActiveRequest) -> None:
        """The volume hangs: go on without an offer, and ask nothing more until it has answered this question."""
        self._overdue = request.lookup
        self.drop_lookup(request, Discard.SLOW_VOLUME)
        request.lookup = _no_offer(request)

    @property
    def _hangs(self) -> bool:
        if self._overdue is not None and self._overdue.done:
            self._overdue = None
        return self._overdue is not None

    def _ask(self, request: ActiveRequest) -> Lookup:
        task = request.task
        limit = self._placement.most_reused(request)
        have, _ = self._placement.best_source(request)
        wanted = task.kind == "completion" and task.params.cache_prompt and self.store.may_have(have, limit)
        if not wanted or self._hangs:
            if wanted:
                self.store.discard(Discard.NOT_ASKED)
            request.lookup = _no_offer(request)
            return request.lookup
        rate = self._stats.prompt_token_seconds()
        request.lookup = Lookup(
            keys=request.keys[:limit],
            scales=task.lora,
            media=tuple((media.start, media.n_pos) for media in task.media),
            scope=request.scope,
            have=have,
            token_seconds=rate,
            until=self._clock() + max(_LOOKUP_SECONDS, limit * rate),
        )
        self.store.find(request.lookup)
        return request.lookup

    def drop_lookup(self, request: ActiveRequest, reason: Discard = Discard.UNWANTED) -> None:
        """Drop the question and the offer of a request. `reason` is counted if the offer was not used."""
        if request.lookup is not None:
            self.store.decline(request.lookup, reason)
            request.lookup.dropped = True
            request.lookup = None

    def load(self, request: ActiveRequest, offer: Offer, resident: Resident) -> bool:
        """Load the state offered to the request into an empty resident. Returns False when it does not fit."""
        if request.lookup is None:
            return False
        began = self._clock()
        fits = self._backend.state_import(resident.seq, offer.state)
        if not fits or self._backend.pos_max(resident.seq) + 1 != offer.length:
            self.store.decline(request.lookup, Discard.OTHER_LAYOUT)
            return False
        self.store.restored(request.lookup, offer, self._clock() - began)
        return True

    # ---- cached sequences

    def _is_unsaved(self, resident: Resident) -> bool:
        savable = resident.savable
        if not self._backend.info.partial_reuse and savable < len(resident.keys):
            return False
        return savable > resident.stored and savable >= self.store.options.min_tokens

    def candidates(self) -> list[Resident]:
        """Idle sequences that the store saves by its mode and does not have yet."""
        if not (self.store.continuous or (self.draining and self.store.writes_disk)):
            return []
        self._check_saves()
        return [resident for resident in self._residents if not resident.busy and self._is_unsaved(resident)]

    def enqueue_save(self) -> bool:
        """Save the sequence that would be the most expensive to lose. Returns False if there is none, or not now."""
        if self._residents.unsettled or not self.store.has_room:
            return False
        self.postponed = False
        candidates = self.candidates()
        if candidates and self.store.paused(self.draining):
            self.postponed = True
            return False
        if candidates:
            self._enqueue(max(candidates, key=lambda r: (r.savable - r.stored, r.last_used)))
        return bool(candidates)

    def save_evicted(self, resident: Resident) -> None:
        """Save a resident that is about to lose keys."""
        if not self._is_unsaved(resident):
            return
        if self._residents.unsettled:
            self.store.discard(Discard.UNSETTLED)
        elif not self.store.has_room:
            self.store.discard(Discard.QUEUE_FULL)
        elif self._paused:
            self.store.discard(Discard.PAUSED)
        else:
            self._enqueue(resident)

    @property
    def _paused(self) -> bool:
        return self.store.paused(self.draining) and not self.store.options.ram_bytes

    def delays_eviction(self, resident: Resident) -> bool:
        """Whether it can be saved a decode or a save later but not now, and its loss would cost more than that."""
        if not self._is_unsaved(resident) or self._paused:
            return False
        if self._residents.unsettled:
            return True
        if self.store.has_room:
            return False
        now = self._clock()
        if self._full_since is None:
            self._full_since = now
        cost = (resident.savable - resident.stored) * self._stats.prompt_token_seconds()
        return now - self._full_since < min(cost, _SAVE_SECONDS)

    def _enqueue(self, resident: Resident) -> None:
        self._full_since = None
        count = resident.savable
        state = self._backend.state_export(resident.seq)
        save = self.store.save(resident.keys[:count], resident.lora, state, resident.scope, urgent=self.draining)
        if self.store.writes_disk:  # the tier in memory alone may drop it again
            self._check_saves()
            resident.stored = count
            self._saving.append((resident, save))

    def _check_saves(self) -> None:
        """Make residents candidates again whose save has failed. To write one twice costs nothing."""
        for resident, save in self._saving:
            if save.done and save.failed:
                resident.stored = 0
        self._saving = [item for item in self._saving if not item[1].done]

    @property
    def unsaved(self) -> int:
        """Sequences that the store is to write and has not written yet."""
        waiting = self.store.waiting  # first: a save that fails in the meantime makes its resident a candidate
        return len(self.candidates()) + waiting


def _no_offer(request: ActiveRequest) -> Lookup:
    """An answer without an offer."""
    return Lookup(request.keys[:0], (), (), done=True, outcome=Discard.NOT_ASKED)
