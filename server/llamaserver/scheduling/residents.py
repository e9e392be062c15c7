"""The slots of a context, and the sequences resident in its KV cache.

A resident is one sequence id of the library with the keys that it holds. A slot points to the
resident that its request works on. A unified cache also keeps residents without a slot, until
their room is needed. This is plain data. `Placement` reads it, `Cache` changes it.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..interfaces.keys import common_prefix
from ..interfaces.tenant import ALL, Scope
from .cells import CellLedger


@dataclass(slots=True, eq=False)
class Resident:
    """What one library sequence holds: a key for each position, computed under one set of LoRA scales."""

    seq: int
    keys: "array[int]" = field(default_factory=lambda: array("q"))
    lora: tuple[float, ...] = ()
    scope: Scope = ALL  # whom the keys serve
    cells: list[int] = field(default_factory=list)  # unified layout: the ledger's ids, one for each key
    position: int = 0  # next position, which differs from len(keys) only under self-extend
    group: int = 0  # self-extend: where the first group starts that is not compressed (ga_i of the April 2024 server)
    last_used: int = 0
    busy: bool = False  # a request works on it
    owner: str = ""  # key of the tenant whose request or saved state gave it its keys
    slot: "Slot | None" = None
    private: bool = False  # no request may start from it: its positions are compressed, or its state was shifted
    stored: int = 0  # leading keys that the KV store has
    foreign: bool = False  # begins with a state from outside, and how that was computed is unknown
    shifted_from: int | None = None  # keys from here on were computed after others that a shift has dropped

    @property
    def savable(self) -> int:
        """Leading keys whose state depends on these keys alone."""
        if self.private or self.foreign:
            return 0
        return len(self.keys) if self.shifted_from is None else min(self.shifted_from, len(self.keys))

    def common_prefix(self, keys: "array[int]", lora: tuple[float, ...], scope: Scope) -> int:
        """Number of leading keys that `keys` shares with the cache, and may have from it."""
        if self.lora != lora or self.private:
            return 0
        return min(common_prefix(self.keys[: self.shifted_from], keys), self.scope.shared(scope))


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one running request. Its resident stays as cache when the request ends."""

    id: int
    resident: Resident | None = None
    busy: bool = False  # a request has this slot

    @property
    def cached(self) -> Resident | None:
        """The resident, if it holds keys."""
        return self.resident if self.resident is not None and self.resident.keys else None


class Residents:
    """All slots and residents of one context. Iteration gives each resident."""

    def __init__(self, n_slots: int, n_seq_max: int, *, unified: bool) -> None:
        self.slots = [Slot(i) for i in range(n_slots)]
        self.retired: list[Resident] = []  # without a slot, unified layout only
        self.free_ids = list(range(n_seq_max - 1, -1, -1))
        self.ledger = CellLedger() if unified else None
        self.unsettled = False  # copies or shifts that the next successful decode carries out
        self.shifted: list[Resident] = []  # an aborted decode may shift the cells of these in some layers only

    def __iter__(self) -> Iterator[Resident]:
        return iter([*(slot.resident for slot in self.slots if slot.resident), *self.retired])

    @property
    def cells_used(self) -> int:
        """Distinct KV cells in use."""
        return self.ledger.used if self.ledger else sum(len(resident.keys) for resident in self)

    def has_spare_id(self, sparing: Resident | None) -> bool:
        """Whether a slot can get another sequence id, if `sparing` keeps its own."""
        return self.ledger is not None and bool(self.free_ids or any(r is not sparing for r in self.retired))

    def least_recent(self, sparing: Resident | None = None) -> Resident | None:
        """The least recently used resident without a slot."""
        return min((r for r in self.retired if r is not sparing), key=lambda r: r.last_used, default=None)

    def shift_pending(self, resident: Resident) -> None:
        """Record that the next decode moves positions of this resident."""
        self.unsettled = True
        self.shifted.append(resident)

    def forget_shift(self, resident: Resident) -> None:
        """Record that nothing of this resident is left to move. Its sequence id may go to another request."""
        self.shifted = [other for other in self.shifted if other is not resident]
