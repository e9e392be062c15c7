"""What engine and KV store say to each other: plain values."""

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..interfaces.backend import ByteArray

WORTH_RESTORING = 16  # tokens more than what the cache has already
Mode = Literal["off", "shutdown", "continuous"]


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What is kept where. Bytes, seconds, tokens; `folder` None: nothing on disk; ram_bytes -1: no limit."""

    folder: Path | None = None
    mode: Mode = "continuous"
    max_bytes: int = 0
    ttl: float = 0.0
    min_tokens: int = 0
    ram_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """The state of the first `length` keys of a prompt, ready for the cache."""

    length: int
    state: ByteArray
    tier: Literal["ram", "disk"]
    seconds: float  # that it took to read


@dataclass(slots=True, eq=False)
class Lookup:
    """One question: is there more of this prompt than `have` keys? Answered when `done`."""

    keys: "array[int]"  # what may be used of it
    scales: tuple[float, ...]
    media: tuple[tuple[int, int], ...]  # (start, length) of images, which are not cut
    have: int = 0
    token_seconds: float = 0.0  # of prefill, 0: not known
    until: float = 0.0  # when the prompt goes on without an answer
    offer: Offer | None = None
    done: bool = False
    dropped: bool = False  # nobody wants to know any more
    counted: bool = False  # as a hit, a miss, or by the reason why it came to nothing


@dataclass(slots=True)
class Save:
    """A sequence on its way into the store; whether it is there is known once `done`."""

    keys: "array[int]"
    scales: tuple[float, ...]
    state: ByteArray
    urgent: bool = False  # there is no later
    done: bool = False
    failed: bool = False  # not on the disk: worth another try


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Numbers for monitoring; dictionaries by tier or reason. docs/reference/metrics.md says what counts as what."""

    opening: bool = False  # the folder has not been looked through yet: entries and bytes are not known
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
