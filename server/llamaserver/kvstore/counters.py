"""The counters of the KV store."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .discards import Discard
from .messages import Lookup, Offer, TierName


@dataclass(slots=True)
class StoreCounters:
    """Totals since the start of the store. The methods hold `lock`, but never for long."""

    lookups: int = 0
    saves: int = 0
    save_seconds: float = 0.0
    restores: int = 0
    restore_seconds: float = 0.0
    bytes_written: int = 0
    bytes_read: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    tokens_restored: Counter[str] = field(default_factory=Counter)
    discards: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, tiers: Iterable[TierName]) -> None:
        """Set the counts of each tier to 0."""
        for by_tier in (self.hits, self.misses, self.tokens_restored):
            by_tier.update(dict.fromkeys(tiers, 0))

    def looked_up(self) -> None:
        """Count a lookup."""
        with self.lock:
            self.lookups += 1

    def hit(self, lookup: Lookup, offer: Offer, seconds: float) -> None:
        """Count a lookup whose offer was loaded into the cache. `seconds` is the time since the lookup was made."""
        with self.lock:
            if lookup.settle("hit"):
                self.hits[offer.tier] += 1
                self.tokens_restored[offer.tier] += offer.length
                self.restores += 1
                self.restore_seconds += seconds

    def miss(self, lookup: Lookup) -> None:
        """Count a lookup for which no tier had a state."""
        with self.lock:
            if lookup.settle("miss"):
                self.misses.update(list(self.misses))

    def decline(self, lookup: Lookup, reason: Discard) -> None:
        """Count a lookup that is neither a hit nor a miss. Only the first reason counts."""
        with self.lock:
            if lookup.settle(reason):
                self.discards[reason] += 1

    def discard(self, reason: Discard) -> None:
        """Count something else that was not used or not saved."""
        with self.lock:
            self.discards[reason] += 1

    def saved(self, seconds: float) -> None:
        """Count a conversation that was written."""
        with self.lock:
            self.saves += 1
            self.save_seconds += seconds

    def wrote(self, size: int) -> None:
        """Count bytes written to disk."""
        with self.lock:
            self.bytes_written += size

    def read(self, size: int) -> None:
        """Count bytes read from disk."""
        with self.lock:
            self.bytes_read += size
