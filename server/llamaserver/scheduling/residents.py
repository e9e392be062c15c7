"""Slots, the sequences resident in the KV cache, and which of them a new prompt starts from.

A resident is one library sequence with the keys it holds. A slot points to the resident it works
on; residents without a slot are cache kept by a unified layout until room is needed. Pure
bookkeeping: the scheduler performs the memory operations.
"""

from array import array
from dataclasses import dataclass, field

from ..interfaces.keys import common_prefix
from .sequence import Sequence


@dataclass(slots=True, eq=False)
class Resident:
    """What one library sequence holds: a key a position, under one set of LoRA scales."""

    seq: int
    keys: "array[int]" = field(default_factory=lambda: array("q"))
    lora: tuple[float, ...] = ()
    cells: list[int] = field(default_factory=list)  # unified layout: the ledger's ids, one a key
    position: int = 0  # next position; differs from len(keys) only under self-extend
    last_used: int = 0
    owner: Sequence | None = None
    slot: "Slot | None" = None
    private: bool = False  # positions compressed, or a recurrent state shifted: nobody may start from it
    stored: int = 0  # leading keys that the KV store has been given
    foreign: bool = False  # begins with a state that came from outside, of which nobody knows how it was made
    exact: int | None = None  # keys from here on were computed with some before them that a shift has dropped

    @property
    def savable(self) -> int:
        """Leading keys whose state is as if nothing had come before them but each other."""
        if self.private or self.foreign:
            return 0
        return len(self.keys) if self.exact is None else min(self.exact, len(self.keys))

    def common_prefix(self, keys: "array[int]", lora: tuple[float, ...]) -> int:
        """Number of leading keys that `keys` shares with what is held."""
        if self.lora != lora or self.private:
            return 0
        return common_prefix(self.keys[: self.exact], keys)


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one running request; keeps its resident as cache when the request ends."""

    id: int
    resident: Resident | None = None
    sequence: Sequence | None = None
    last: Sequence | None = None  # the latest request, for monitoring

    @property
    def idle(self) -> bool:
        """Whether a request may be placed here."""
        return self.sequence is None
