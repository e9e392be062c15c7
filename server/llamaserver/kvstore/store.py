"""Saved sequences in host memory and on disk, without work on the engine thread.

Two threads work here. One answers lookups, the other one saves conversations. So a slow write delays no prompt.
`find` and `save` return at once, and the store wakes the engine when there is an answer. No failure reaches the
engine: a failure is a miss, a count and a log line.
"""

import threading
from array import array
from collections.abc import Callable

from ..interfaces.backend import ByteArray
from ..interfaces.tenant import ALL, Scope
from .blocks import BlockId
from .counters import StoreCounters
from .discards import Discard
from .disk import DiskTier
from .messages import WORTH_RESTORING, Lookup, Offer, Save, Shape, StoreOptions, StoreStats
from .ram import RamTier
from .reader import Reader
from .tiers import Tier
from .volume import Limits
from .writer import Writer

_LISTING_SECONDS = 1.0  # that a listing waits for news from the volume


class KVStore:
    """The tiers of one server, the fastest first.

    Any thread may call `stats`, `listing` and `clear`. Only the engine thread may call the other methods.
    """

    def __init__(self, options: StoreOptions, shape: Shape) -> None:
        self.options = options
        self.shape = shape
        self._counters = StoreCounters()
        self._tiers: list[Tier] = []
        if options.ram_bytes:
            self._tiers.append(RamTier(options.ram_bytes))
        if options.folder is not None and options.mode != "off":
            limits = Limits(options.max_bytes, options.ttl)
            self._tiers.append(
                DiskTier(options.folder, shape.fingerprint, limits, self._counters, secret=options.secret)
            )
        self._counters.begin([tier.name for tier in self._tiers])
        self.reader = Reader(shape, options.min_tokens, self._tiers, self._counters)
        self.writer = Writer(shape, self._tiers, self._counters)
        self._threads: list[threading.Thread] = []

    # ---- start and end

    def start(self, wake: Callable[[], None]) -> None:
        """Start the threads, which open the tiers. They call `wake` when there is a result."""
        for name, run in (("kv-read", self.reader.run), ("kv-write", self.writer.run)):
            thread = threading.Thread(target=run, args=(wake,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads after their current work. Does not wait."""
        self.reader.put(None)
        self.writer.stop()

    def join(self) -> None:
        """Wait for the threads (tests)."""
        for thread in self._threads:
            thread.join()

    @property
    def opened(self) -> threading.Event:
        """Set once the tiers have been listed."""
        return self.writer.opened

    @property
    def writes_disk(self) -> bool:
        """Whether conversations must be written before the server ends."""
        return any(tier.durable for tier in self._tiers)

    @property
    def continuous(self) -> bool:
        """Whether each conversation is written when it ends."""
        return self.writes_disk and self.options.mode == "continuous"

    # ---- prompts

    def may_have(self, have: int, limit: int) -> bool:
        """Whether a lookup of `limit` keys can bring more keys than `have`."""
        return limit >= max(have + WORTH_RESTORING, self.options.min_tokens)

    def find(self, lookup: Lookup) -> None:
        """Queue a lookup. Its `done` is set when it is answered."""
        self._counters.looked_up()
        self.reader.put(lookup)

    def restored(self, lookup: Lookup, offer: Offer, seconds: float) -> None:
        """Count a lookup whose offer was loaded into the cache in `seconds`."""
        took = offer.seconds + seconds
        self.reader.measured(offer.length, took)
        self._counters.hit(lookup, offer, took)

    def decline(self, lookup: Lookup, reason: Discard) -> None:
        """Count a lookup that is neither a hit nor a miss. Only the first reason counts."""
        self._counters.decline(lookup, reason)

    # ---- conversations

    @property
    def has_room(self) -> bool:
        """Whether the queue has room for another save."""
        return self.writer.has_room

    @property
    def waiting(self) -> int:
        """Number of saves that have not ended."""
        return self.writer.waiting

    def paused(self, urgent: bool = False) -> bool:
        """Whether the disk has failed so recently that a save is not worth a try."""
        return any(tier.paused(urgent) for tier in self._tiers)

    def save(
        self,
        keys: "array[int]",
        scales: tuple[float, ...],
        state: ByteArray,
        scope: Scope = ALL,
        *,
        urgent: bool = False,
    ) -> Save:
        """Queue a sequence for saving. `scope`: whom it serves."""
        save = Save(keys, scales, state, scope, urgent)
        self.writer.put(save)
        return save

    def discard(self, reason: Discard) -> None:
        """Count something that was not saved or not looked up."""
        self._counters.discard(reason)

    # ---- monitoring (any thread)

    def stats(self) -> StoreStats:
        """The current numbers."""
        sizes = {tier.name: (len(tier.index), tier.size()) for tier in self._tiers}
        entries, size = sizes.get("disk", (0, 0))
        ram_entries, ram_size = sizes.get("ram", (0, 0))
        counters = self._counters
        with counters.lock:
            return StoreStats(
                opening=not self.opened.is_set(),
                entries=entries,
                bytes=size,
                ram_entries=ram_entries,
                ram_bytes=ram_size,
                lookups=counters.lookups,
                hits=dict(counters.hits),
                misses=dict(counters.misses),
                tokens_restored=dict(counters.tokens_restored),
                discards=dict(counters.discards),
                save_seconds=counters.save_seconds,
                saves=counters.saves,
                restore_seconds=counters.restore_seconds,
                restores=counters.restores,
                bytes_written=counters.bytes_written,
                bytes_read=counters.bytes_read,
            )

    def listing(self) -> list[tuple[BlockId, tuple[str, ...]]]:
        """Every block of this model, and the tiers that hold it. If the volume hangs, as it was listed last."""
        self.reader.refresh(_LISTING_SECONDS)
        names: dict[BlockId, tuple[str, ...]] = {}
        for tier in self._tiers:
            for block in tier.index.all():
                names[block] = (*names.get(block, ()), tier.name)
        return sorted(names.items(), key=lambda item: (item[0].start, item[0].identity))

    def clear(self) -> int:
        """Remove all blocks, on disk those of all models. Returns the number of blocks."""
        return max((tier.clear() for tier in self._tiers), default=0)
