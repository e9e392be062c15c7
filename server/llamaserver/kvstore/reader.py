"""The thread that answers lookups. It finds the blocks of a prompt, reads them and joins them into a state."""

import logging
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue

from ..interfaces.backend import ByteArray
from ..interfaces.keys import common_prefix
from . import blocks
from .blocks import Block, BlockId, Found
from .counters import StoreCounters
from .discards import Discard
from .identity import Chain
from .messages import WORTH_RESTORING, Lookup, Offer, Shape
from .tiers import Tier

_log = logging.getLogger(__name__)
_RATE_LASTS = 300.0  # seconds until a slow restore is tried again
_READERS = 4  # threads that read and check the blocks of one lookup. One core computes codes at 1 to 2 GB/s
_LEAST_MEASURED = 512  # tokens. The time of a shorter restore depends more on finding a file than on reading it


class Reader:
    """Answers lookups one after the other. `tiers` are in the order in which they are read, the fastest first."""

    def __init__(self, shape: Shape, min_tokens: int, tiers: Sequence[Tier], counters: StoreCounters) -> None:
        self._shape = shape
        self._min_tokens = min_tokens
        self._tiers = tiers
        self._counters = counters
        self._lookups: SimpleQueue[Lookup | Future[None] | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(_READERS, "kv-block")
        self._rate = (0.0, 0.0)  # seconds for each token of a restore, and the time of that measurement

    def put(self, lookup: Lookup | None) -> None:
        """Queue a lookup. None ends the thread. Any thread."""
        self._lookups.put(lookup)

    def refresh(self, seconds: float) -> None:
        """Let the thread look for blocks of other processes. Waits for that, but only so long. Any thread."""
        done: Future[None] = Future()
        self._lookups.put(done)
        with suppress(TimeoutError):
            done.result(seconds)

    def measured(self, length: int, seconds: float) -> None:
        """Record that a restore of `length` tokens took `seconds`. Any thread."""
        if length >= _LEAST_MEASURED:
            self._rate = (seconds / length, time.monotonic())

    def run(self, wake: Callable[[], None]) -> None:
        """Answer lookups until the end. Calls `wake` after each one."""
        while (asked := self._lookups.get()) is not None:
            if isinstance(asked, Future):
                self._refresh()
                asked.set_result(None)
            else:
                self._answer(asked)
                wake()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _refresh(self) -> None:
        for tier in self._tiers:
            tier.refresh()

    def _answer(self, lookup: Lookup) -> None:
        try:
            lookup.offer = None if lookup.dropped else self.answer(lookup)
        except Exception:
            _log.exception("a lookup in the KV store failed")
            self._counters.decline(lookup, Discard.DEFECT)
        lookup.done = True

    def answer(self, lookup: Lookup) -> Offer | None:
        """Find, read and join the blocks of a prompt. None if there is nothing worth restoring."""
        began = time.monotonic()
        secret = self._tiers[-1].secret()
        if secret is None:
            self._counters.miss(lookup)
            return None
        chain = Chain.of(secret, self._shape.fingerprint, self._shape.adapters, lookup.scales, lookup.scope)
        self._refresh()
        while not lookup.dropped:
            found = self._match(lookup, chain)
            length = blocks.length(found)
            if not self._is_worth_reading(length, lookup):
                return None
            parts = self._read(found, lookup)
            if parts is None or lookup.dropped:
                continue  # a block was missing or damaged. The index does not contain it any more
            state = self._join([part for part, _ in parts], found)
            if state is None:
                self._counters.decline(lookup, Discard.OTHER_LAYOUT)
                return None
            for tier in self._tiers:
                tier.touch([block for block, _ in found])
            slowest = max(place for _, place in parts)
            return Offer(length, state, self._tiers[slowest].name, time.monotonic() - began)
        return None

    def _match(self, lookup: Lookup, chain: Chain) -> Found:
        """The longest saved prefix that does not end inside an image."""
        indexes = [tier.index for tier in self._tiers]
        if self._shape.codec is None:
            found = blocks.match_whole(lookup.keys, chain, indexes)
            end = blocks.length(found)
            return [] if any(begin < end < begin + size for begin, size in lookup.media) else found
        found = blocks.match(lookup.keys, chain, indexes, self._keys, self._shape.window)
        end = blocks.length(found)
        for begin, size in lookup.media:
            if begin < end < begin + size:
                found = blocks.within_window(blocks.trim(found, begin), self._shape.window)
        return found

    def _keys(self, block: BlockId) -> "array[int] | None":
        for tier in self._tiers:
            keys = tier.keys(block)
            if keys is not None:
                return keys
        return None

    def _is_worth_reading(self, length: int, lookup: Lookup) -> bool:
        """Whether `length` tokens are enough and a restore is fast enough. If not, count and settle the lookup."""
        if length < lookup.have + WORTH_RESTORING:
            self._counters.miss(lookup)
        elif length < self._min_tokens:
            self._counters.decline(lookup, Discard.TOO_SHORT)
        elif self._is_slow(length, length - lookup.have, lookup.token_seconds):
            self._counters.decline(lookup, Discard.SLOWER_THAN_PREFILL)
        else:
            return True
        return False

    def _is_slow(self, length: int, gain: int, token_seconds: float) -> bool:
        """Whether evaluating `gain` tokens is faster than restoring `length` tokens. False if a rate is not known."""
        seconds, when = self._rate
        known = bool(seconds and token_seconds) and time.monotonic() - when < _RATE_LASTS
        return known and length * seconds > gain * token_seconds

    def _read(self, found: Found, lookup: Lookup) -> list[tuple[Block, int]] | None:
        """Read the blocks, each with the number of its tier. None if one cannot be read."""
        parts = []
        read = self._pool.map(lambda item: self._read_block(item[0], lookup), found)
        for (wanted, used), (block, place) in zip(found, read, strict=True):
            if lookup.dropped:
                return None
            if block is None:
                for tier in self._tiers:
                    tier.forget(wanted)
                return None
            if common_prefix(block.keys, lookup.keys[wanted.start : wanted.start + used]) != used:
                self._counters.discard(Discard.COLLISION)
                self._exclude(wanted)
                return None
            parts.append((block, place))
        return parts

    def _read_block(self, wanted: BlockId, lookup: Lookup) -> tuple[Block | None, int]:
        """Read a block and add it to the faster tiers. Returns the block and the number of its tier."""
        for place, tier in enumerate(self._tiers):
            block = None if lookup.dropped else tier.read(wanted)
            if block is not None:
                if tier.durable:
                    self._counters.read(block.size)
                for faster in self._tiers[:place]:
                    faster.save([block], [])
                return block, place
        return None, 0

    def _exclude(self, block: BlockId) -> None:
        for tier in self._tiers:
            tier.exclude(block)

    def _join(self, parts: list[Block], found: Found) -> ByteArray | None:
        if self._shape.codec is None:
            return parts[0].payload
        used = [count for _, count in found]
        try:
            return self._shape.codec.join(
                [(part.payload, part.id.count, count) for part, count in zip(parts, used, strict=True)]
            )
        except ValueError:
            for part in parts:
                self._exclude(part.id)
            return None
