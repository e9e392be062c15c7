"""The values that pass between the engine and the KV store."""

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..interfaces.backend import ByteArray, StateCodec
from .discards import Discard

WORTH_RESTORING = 16  # a restore must bring at least this many tokens more than the cache has
Mode = Literal["off", "shutdown", "continuous"]
TierName = Literal["ram", "disk"]
Outcome = Discard | Literal["hit", "miss"]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What is kept, and where. `folder` None: nothing on disk. `ram_bytes` 0: nothing in memory, -1: no limit.

    `max_bytes` 0: no limit. `ttl` in seconds, 0: no limit. `min_tokens`: shorter sequences are not saved.
    """

    folder: Path | None = None
    mode: Mode = "continuous"
    max_bytes: int = 0
    ttl: float = 0.0
    min_tokens: int = 0
    ram_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """What the store must know about the model. `codec` None: a state can only be kept whole."""

    fingerprint: bytes
    adapters: tuple[bytes, ...] = ()
    codec: StateCodec | None = None
    window: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """The state of the first `length` keys of a prompt, ready for the cache."""

    length: int
    state: ByteArray
    tier: TierName  # the slowest one that a part was read from
    seconds: float  # spent on reading


@dataclass(slots=True, eq=False)
class Lookup:
    """One question: does the store have more than the first `have` keys of this prompt? Answered when `done`."""

    keys: "array[int]"  # the part of the prompt that may be restored
    scales: tuple[float, ...]  # of the LoRA adapters
    media: tuple[tuple[int, int], ...]  # (start, length) of images, which are never cut
    have: int = 0
    token_seconds: float = 0.0  # of prefill, 0: not known
    until: float = 0.0  # the time after which the prompt is evaluated without an answer
    offer: Offer | None = None
    done: bool = False
    dropped: bool = False  # the answer is not needed any more
    outcome: Outcome | None = None  # how it was counted

    def settle(self, outcome: Outcome) -> bool:
        """Set the outcome; False when there is one already. The counters call this under their lock."""
        if self.outcome is not None:
            return False
        self.outcome = outcome
        return True


@dataclass(slots=True)
class Save:
    """A sequence on its way into the store. `failed` is valid once it is `done`."""

    keys: "array[int]"
    scales: tuple[float, ...]
    state: ByteArray
    urgent: bool = False  # the server is ending: there is no later chance
    done: bool = False
    failed: bool = False  # not on disk, so another try is worth it


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Numbers for monitoring. The dictionaries are by tier or by reason. docs/reference/metrics.md explains them."""

    opening: bool = False  # the folder has not been listed yet, so `entries` and `bytes` are not known
    entries: int = 0
    bytes: int = 0
    ram_entries: int = 0
    ram_bytes: int = 0
    lookups: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)
    tokens_restored: dict[str, int] = field(default_factory=dict)
    discards: dict[str, int] = field(default_factory=dict)
    save_seconds: float = 0.0
    saves: int = 0
    restore_seconds: float = 0.0
    restores: int = 0
    bytes_written: int = 0
    bytes_read: int = 0
