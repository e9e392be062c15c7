"""Save, restore and erase the cache of an idle slot."""

from dataclasses import dataclass

from ..errors import Forbidden, InvalidRequest, Unavailable
from ..files import Bytes
from ..interfaces.backend import Backend, Batch, Status
from ..interfaces.tenant import COMMON, Tenant
from ..scheduling.cache import Cache
from ..scheduling.residents import Slot


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot's cache outside the library: token ids, the bytes of `state_get`, and their LoRA scales."""

    tokens: tuple[int, ...]
    data: Bytes
    lora: tuple[float, ...] | None = None  # None: unknown, use the current ones
    domain: bytes = b""  # the cache domain that it was read in


class SlotStates:
    """Operations on idle slots, on the engine thread."""

    def __init__(self, backend: Backend, cache: Cache, slot_ctx: int) -> None:
        self._backend = backend
        self._cache = cache
        self._residents = cache.residents
        self._slot_ctx = slot_ctx

    def check(self, slot: Slot, owner: str | None) -> None:
        """Raise Forbidden if the slot holds keys of another tenant than `owner`. None may have all."""
        if owner is not None and slot.cached is not None and slot.cached.owner != owner:
            raise Forbidden(f"slot {slot.id} holds the state of another API key. That needs the role admin")

    def save(self, slot: Slot) -> SlotState:
        """Tokens and state of an idle slot. Raises InvalidRequest if it holds an image."""
        self.settle()
        resident = slot.cached
        if resident is None:
            return SlotState((), b"", slot.resident.lora if slot.resident else None)
        if any(key < 0 for key in resident.keys):
            raise InvalidRequest(f"slot {slot.id} holds an image and cannot be saved", field="id_slot")
        return SlotState(
            tuple(resident.keys), self._backend.state_get(resident.seq), resident.lora, resident.scope.domain
        )

    def restore(self, slot: Slot, state: SlotState, tenant: Tenant = COMMON) -> int:
        """Put a saved state into an idle slot. Returns its tokens. Raises InvalidRequest if it does not fit."""
        tokens = state.tokens
        if len(tokens) > self._slot_ctx:
            raise InvalidRequest(f"{len(tokens)} saved tokens do not fit a slot of {self._slot_ctx}")
        resident = self._cache.vacate(slot)
        self.settle()
        if not tokens:
            return 0
        if not self._cache.free_cells(len(tokens)):
            raise Unavailable("the running requests leave no room in the cache for these tokens", retry_after=1)
        fits = self._backend.state_set(resident.seq, state.data) and self._backend.pos_max(resident.seq) + 1 == len(
            tokens
        )
        if not fits:
            self._cache.clear(resident)
            raise InvalidRequest("the saved state does not fit this model and context", field="filename")
        self._cache.adopt(resident, tokens, state.lora or (), tenant.domain)
        resident.owner = tenant.key
        return len(tokens)

    def erase(self, slot: Slot) -> int:
        """Drop the cache of an idle slot. Returns its tokens."""
        if slot.resident is None:
            return 0
        count = len(slot.resident.keys)
        self._cache.clear(slot.resident)
        return count

    def settle(self) -> None:
        """Carry out pending copies and shifts. Only a decode does that, so decode one row on an idle slot."""
        if self._residents.unsettled and self.decode_one_row() is not Status.OK:
            raise Unavailable("the cache has pending copies and no idle slot to carry them out", retry_after=1)

    def decode_one_row(self) -> Status | None:
        """Decode one row on an idle slot and drop it again. None if no slot can take it."""
        status = None
        idle = [slot.resident or self._cache.vacate(slot) for slot in self._residents.slots if not slot.busy]
        for resident in sorted(idle, key=lambda r: len(r.keys)):
            removable = self._backend.info.partial_reuse or not resident.keys
            if removable and resident.position < self._slot_ctx:
                batch = Batch()
                batch.add(0, resident.position, resident.seq, True)
                status = self._backend.decode(batch, embeddings=not self._backend.info.causal)
                if status is Status.OK:
                    self._cache.settled()
                if status is not Status.NO_ROOM:
                    self._backend.seq_rm(resident.seq, resident.position)
                    break
        return status
