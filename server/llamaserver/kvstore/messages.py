"""The values that pass between the engine and the KV store."""

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..interfaces.backend import ByteArray, StateCodec
from ..interfaces.tenant import ALL, Scope
from .discards import Discard

WORTH_RESTORING = 16  # tokens that a restore must add to those in the cache, at least
Mode = Literal["off", "shutdown", "continuous"]
TierName = Literal["ram", "disk"]
Outcome = Discard | Literal["hit", "miss"]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The limits and the place of the store.

    `folder` None keeps nothing on disk. `ram_bytes` 0 keeps nothing in memory, -1 is no limit. `max_bytes` 0 is
    no limit. `ttl` is in seconds, 0 is no limit. Sequences with fewer than `min_tokens` tokens are not saved.
    `secret` is the key that blocks on disk are made with. With b"", the folder has one.
    """

    folder: Path | None = None
    mode: Mode = "continuous"
    max_bytes: int = 0
    ttl: float = 0.0
    min_tokens: int = 0
    ram_bytes: int = 0
    secret: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Shape:
    """The facts about the model that the store needs. With `codec` None, a state cannot be cut."""

    fingerprint: bytes
    adapters: tuple[bytes, ...] = ()
    codec: StateCodec | None = None
    window: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """The state of the first `length` keys of a prompt. It is ready for the cache."""

    length: int
    state: ByteArray
    tier: TierName  # the slowest tier that a part was read from
    seconds: float  # time spent on reading


@dataclass(slots=True, eq=False)
class Lookup:
    """A search for more than the first `have` keys of a prompt in the store. `done` is set when it is answered."""

    keys: "array[int]"  # the keys of the prompt that may be restored
    scales: tuple[float, ...]  # scales of the LoRA adapters
    media: tuple[tuple[int, int], ...]  # (start, length) of images. An image is never cut
    scope: Scope = ALL  # whose states may be used
    have: int = 0
    token_seconds: float = 0.0  # seconds of prefill for each token, 0: not known
    until: float = 0.0  # after this time the prompt is evaluated without the answer
    offer: Offer | None = None
    done: bool = False
    dropped: bool = False  # nobody needs the answer any more
    outcome: Outcome | None = None  # how the lookup was counted

    def settle(self, outcome: Outcome) -> bool:
        """Set the outcome. False if there is one already. The counters call this under their lock."""
        if self.outcome is not None:
            return False
        self.outcome = outcome
        return True


@dataclass(slots=True)
class Save:
    """A sequence that is being saved. `failed` is valid once `done` is set."""

    keys: "array[int]"
    scales: tuple[float, ...]
    state: ByteArray
    scope: Scope = ALL  # whom the state serves
    urgent: bool = False  # the server shuts down, so this is the last chance
    done: bool = False
    failed: bool = False  # a write to disk failed, so another try is worth it


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Numbers for monitoring. The dictionaries are by tier or by reason. docs/reference/metrics.md explains them."""

    opening: bool = False  # the folder is not listed yet, so `entries` and `bytes` are not known
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
