"""Saved sequences in host memory and on disk: found for a prompt, written for a conversation, off the engine thread.

Two threads: one finds and reads, one cuts and writes, so that a slow write delays no prompt. The
engine thread asks by `find` and `save`, which return at once, and is woken when there is something
to see. Nothing here raises into the engine: what goes wrong is a miss, a count and a log line.
"""

import logging
import os
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Literal

import numpy as np

from ..interfaces.backend import ByteArray, ParsedState, StateCodec
from ..interfaces.keys import common_prefix
from . import blocks as kvblocks
from .blocks import BLOCK, Block, BlockId, Found
from .disk import DiskTier, Limits
from .messages import WORTH_RESTORING, Lookup, Offer, Save, StoreOptions, StoreStats
from .ram import RamTier

_log = logging.getLogger(__name__)
_QUEUE = 2  # saves that wait; beyond them conversations stay where they are
_QUEUE_BYTES = 256 << 20  # beyond them it is one at a time
_SWEEP_EVERY = 60.0
_FORGET_RATE = 300.0  # seconds after which a measured rate is no reason not to try again
_TELLING = 512  # tokens whose restore tells a rate; of fewer it tells what one file takes to be found


@dataclass(frozen=True, slots=True)
class Shape:
    """What the store must know of the model. `codec` None: states can only be kept whole."""

    fingerprint: bytes
    adapters: tuple[bytes, ...] = ()
    codec: StateCodec | None = None
    window: int = 0


class KVStore:
    """The tiers of one server. `find`, `save` and the properties: engine thread; `stats`, `listing`, `clear`: any."""

    def __init__(self, options: StoreOptions, shape: Shape) -> None:
        self.options = options
        self._shape = shape
        self._wake: Callable[[], None] = lambda: None
        self._lock = threading.RLock()  # the indexes; may be held while a slow disk is read
        self._counting = threading.Lock()  # the numbers; never held for long
        self._tiers = [
            *(["ram"] if options.ram_bytes else []),
            *(["disk"] if options.folder is not None and options.mode != "off" else []),
        ]
        none = dict.fromkeys(self._tiers, 0)
        self._hits, self._misses, self._tokens = Counter(none), Counter(none), Counter(none)
        self._discards: Counter[str] = Counter()
        self._stats = StoreStats()
        self._ram = RamTier(options.ram_bytes if options.ram_bytes >= 0 else 1 << 62)
        self._disk = (
            DiskTier(
                options.folder, shape.fingerprint, Limits(options.max_bytes, options.ttl), self.discard, self._lock
            )
            if options.folder is not None and "disk" in self._tiers
            else None
        )
        self._questions: SimpleQueue[Lookup | None] = SimpleQueue()
        self._saves: SimpleQueue[Save | None] = SimpleQueue()
        self._waiting = self._waiting_bytes = 0  # saves not finished
        self._rate = (0.0, 0.0)  # seconds a token of a restore, and when that was measured
        self._threads: list[threading.Thread] = []
        self._swept = time.monotonic()
        self.opened = threading.Event()  # the folder has been looked through

    # ---- life

    def start(self, wake: Callable[[], None]) -> None:
        """Start the threads, which open the folder; `wake` is called when there is something to see."""
        self._wake = wake
        for name, loop in (("kv-read", self._read_loop), ("kv-write", self._write_loop)):
            thread = threading.Thread(target=loop, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads after what they are doing; does not wait."""
        self._questions.put(None)
        self._saves.put(None)

    def join(self) -> None:
        """Wait for the threads (tests)."""
        for thread in self._threads:
            thread.join()

    @property
    def writes_disk(self) -> bool:
        """Whether conversations are to be written before the server ends."""
        return self._disk is not None

    @property
    def continuous(self) -> bool:
        """Whether conversations are written as they end."""
        return self._disk is not None and self.options.mode == "continuous"

    # ---- asking (engine thread)

    def find(self, lookup: Lookup) -> None:
        """Answer a question soon; its `done` says when."""
        with self._counting:
            self._stats = replace(self._stats, lookups=self._stats.lookups + 1)
        self._questions.put(lookup)

    @property
    def has_room(self) -> bool:
        """Whether another save can wait."""
        return self._waiting == 0 or (self._waiting < _QUEUE and self._waiting_bytes < _QUEUE_BYTES)

    @property
    def waiting(self) -> int:
        """Saves that have not ended."""
        return self._waiting

    def may_have(self, have: int, limit: int) -> bool:
        """Whether asking for `limit` keys can gain anything over `have`."""
        return limit >= max(have + WORTH_RESTORING, self.options.min_tokens)

    def paused(self, urgent: bool = False) -> bool:
        """Whether saving is not worth trying for now: the disk has just failed."""
        return self._disk is not None and self._disk.paused(urgent)

    def save(self, keys: "array[int]", scales: tuple[float, ...], state: ByteArray, *, urgent: bool = False) -> Save:
        """Keep a sequence soon."""
        save = Save(keys, scales, state, urgent)
        with self._counting:
            self._waiting += 1
            self._waiting_bytes += state.nbytes
        self._saves.put(save)
        return save

    def restored(self, lookup: Lookup, offer: Offer, seconds: float) -> None:
        """A question's offer has reached the cache, which took that long."""
        took = offer.seconds + seconds
        with self._counting:
            lookup.counted = True
            if offer.length >= _TELLING:
                self._rate = (took / offer.length, time.monotonic())
            self._hits[offer.tier] += 1
            self._tokens[offer.tier] += offer.length
            stats = self._stats
            self._stats = replace(stats, restores=stats.restores + 1, restore_seconds=stats.restore_seconds + took)

    def discard(self, reason: str) -> None:
        """Count something that was not kept or not used."""
        with self._counting:
            self._discards[reason] += 1

    def decline(self, lookup: Lookup, reason: str) -> None:
        """Count a question that is neither a hit nor a miss; whoever ends it first says why."""
        with self._counting:
            if not lookup.counted:
                self._discards[reason] += 1
            lookup.counted = True

    def _miss(self, lookup: Lookup) -> None:
        """Count a question that no tier could answer."""
        with self._counting:
            if not lookup.counted:
                self._misses.update(self._tiers)
            lookup.counted = True

    # ---- monitoring (any thread)

    def stats(self) -> StoreStats:
        """The numbers of now."""
        with self._counting:
            return replace(
                self._stats,
                opening=not self.opened.is_set(),
                entries=len(self._disk.index) if self._disk else 0,
                bytes=self._disk.bytes if self._disk else 0,
                bytes_written=self._disk.written if self._disk else 0,
                ram_entries=len(self._ram.index),
                ram_bytes=self._ram.bytes,
                hits=dict(self._hits),
                misses=dict(self._misses),
                tokens_restored=dict(self._tokens),
                discards=dict(self._discards),
            )

    def listing(self) -> list[tuple[BlockId, tuple[str, ...]]]:
        """Every block of this fingerprint, and the tiers that hold it."""
        with self._lock:
            if self._disk is not None:
                self._disk.refresh()
            tiers: dict[BlockId, tuple[str, ...]] = {}
            for name, index in (("ram", self._ram.index), ("disk", self._disk.index if self._disk else None)):
                for block in index.by_identity.values() if index else ():
                    tiers[block] = (*tiers.get(block, ()), name)
            return sorted(tiers.items(), key=lambda item: (item[0].start, item[0].identity))

    def clear(self) -> int:
        """Forget everything, on disk that of all fingerprints; returns the number of blocks."""
        with self._lock:
            count = len(self._ram.index)
            self._ram.clear()
            return max(count, self._disk.clear() if self._disk else 0)

    # ---- reading (its own thread)

    def _read_loop(self) -> None:
        while (lookup := self._questions.get()) is not None:
            try:
                lookup.offer = None if lookup.dropped else self._answer(lookup)
            except Exception:
                _log.exception("looking into the KV store failed")
                self.decline(lookup, "defect")
            lookup.done = True
            self._wake()

    def _answer(self, lookup: Lookup) -> Offer | None:
        began = time.monotonic()
        start = kvblocks.root(self._shape.fingerprint, self._shape.adapters, lookup.scales)
        if self._disk is not None:
            self._disk.refresh()
        while True:
            found = self._match(lookup, start)
            length = found[-1][0].start + found[-1][1] if found else 0
            if length < lookup.have + WORTH_RESTORING:
                self._miss(lookup)
                return None
            if length < self.options.min_tokens:
                self.decline(lookup, "too_short")
                return None
            if self._too_slow(length, length - lookup.have, lookup.token_seconds):
                self.decline(lookup, "slower_than_prefill")
                return None
            blocks = self._read(found, lookup)
            if lookup.dropped:
                return None
            if blocks is None:
                continue  # something was gone or damaged; it is not in the index any more
            state = self._join(blocks, found)
            if state is None:
                self.decline(lookup, "other_layout")
                return None
            self._used([block for block, _ in found])
            tier: Literal["ram", "disk"] = "disk" if any(from_disk for _, from_disk in blocks) else "ram"
            return Offer(length, state, tier, time.monotonic() - began)

    def _match(self, lookup: Lookup, start: bytes) -> Found:
        with self._lock:
            indexes = [self._ram.index]
            if self._disk is not None:
                indexes.append(self._disk.index)
            if self._shape.codec is None:
                found = kvblocks.match_whole(lookup.keys, start, indexes)
                return [] if any(s < found[0][1] < s + n for s, n in lookup.media) else found
            found = kvblocks.match(lookup.keys, start, indexes, self._keys, self._shape.window)
            length = found[-1][0].start + found[-1][1] if found else 0
            for begin, size in lookup.media:
                if begin < length < begin + size:
                    found = kvblocks.within_window(kvblocks.trim(found, begin), self._shape.window)
            return found

    def _keys(self, block: BlockId) -> "array[int] | None":
        keys = self._ram.keys(block)
        return keys if keys is not None or self._disk is None else self._disk.keys(block)

    def _too_slow(self, length: int, gain: int, token_seconds: float) -> bool:
        """Whether computing `gain` tokens is faster than restoring `length`, as far as both have been measured."""
        seconds, when = self._rate
        known = bool(seconds and token_seconds) and time.monotonic() - when < _FORGET_RATE
        return known and length * seconds > gain * token_seconds

    def _read(self, found: Found, lookup: Lookup) -> list[tuple[Block, bool]] | None:
        """The blocks, compared key by key, and whether each came from disk; None when one cannot be had."""
        blocks = []
        for block_id, used in found:
            if lookup.dropped:
                return None
            with self._lock:
                block = self._ram.get(block_id)
            from_disk = block is None
            if block is None and self._disk is not None:
                block = self._disk.read(block_id)
                if block is not None:
                    self._keep_read(block)
            if block is None:
                if self._disk is not None:
                    self._disk.forget(block_id)
                return None
            if common_prefix(block.keys, lookup.keys[block_id.start : block_id.start + used]) != used:
                self.discard("collision")
                self._drop(block_id)
                return None
            blocks.append((block, from_disk))
        return blocks

    def _keep_read(self, block: Block) -> None:
        with self._counting:
            self._stats = replace(self._stats, bytes_read=self._stats.bytes_read + block.size)
        with self._lock:
            self._ram.put(block)

    def _drop(self, block: BlockId) -> None:
        with self._lock:
            self._ram.remove(block.identity)
            if self._disk is not None:
                self._disk.index.remove(block)

    def _join(self, blocks: list[tuple[Block, bool]], found: Found) -> ByteArray | None:
        if self._shape.codec is None:
            return blocks[0][0].payload
        try:
            return self._shape.codec.join(
                [(block.payload, block.id.count, used) for (block, _), (_, used) in zip(blocks, found, strict=True)]
            )
        except ValueError:
            for block, _ in blocks:
                self._drop(block.id)
            return None

    # ---- writing (its own thread)

    def _write_loop(self) -> None:
        with suppress(OSError):
            # Decode goes first. Measured alone, a spinning neighbour's longest gap was shorter so than at equal nice.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        if self._disk is not None:
            self._disk.open()
        self.opened.set()
        self._wake()
        while True:
            if self._disk is not None and time.monotonic() - self._swept > _SWEEP_EVERY:
                self._disk.sweep()
                self._swept = time.monotonic()
            try:
                save = self._saves.get(timeout=_SWEEP_EVERY)
            except Empty:
                continue
            if save is None:
                return
            try:
                self._keep(save)
            except Exception:
                _log.exception("saving into the KV store failed")
                self.discard("defect")
            size, save.done = save.state.nbytes, True
            save.state = np.zeros(0, np.uint8)  # who asked may hold on to the rest
            del save
            with self._counting:
                self._waiting -= 1
                self._waiting_bytes -= size
            self._wake()

    def _keep(self, save: Save) -> None:
        """Cut and write what is not there yet."""
        began = time.monotonic()
        start = kvblocks.root(self._shape.fingerprint, self._shape.adapters, save.scales)
        if self._shape.codec is None:
            count = len(save.keys)
            identity = kvblocks.identity_at(kvblocks.chain(start, save.keys), save.keys, count)
            block = BlockId(start, identity, 0, count, count, whole=True)
            there = [block] if self._have(block, save.keys) else []
            new = [] if there else [Block(block, save.keys, save.state)]
        else:
            try:
                parsed = self._shape.codec.parse(save.state)
            except ValueError:
                self.discard("cannot_cut")
                return
            new, there = self._cut(save.keys[: parsed.length], start, parsed)
        with self._lock:
            for one in reversed(new):  # the first blocks last: without them the others are of no use
                self._ram.put(one)
        self._used(there)
        save.failed = not self._write(new, save.urgent)
        if save.failed:
            return
        took = time.monotonic() - began
        with self._counting:
            stats = self._stats
            self._stats = replace(stats, saves=stats.saves + 1, save_seconds=stats.save_seconds + took)

    def _cut(self, keys: "array[int]", parent: bytes, parsed: ParsedState) -> tuple[list[Block], list[BlockId]]:
        """The blocks that are not there yet, and those that are."""
        new: list[Block] = []
        old: list[BlockId] = []
        for at in range(0, len(keys), BLOCK):
            part = keys[at : at + BLOCK]
            block = BlockId(parent, kvblocks.identify(parent, part), at, len(part), parsed.rows(at, at + len(part)))
            if self._have(block, part):
                old.append(block)
            else:
                new.append(Block(block, part, parsed.cut(at, at + len(part))))
            parent = block.identity
        return new, old

    def _used(self, blocks: list[BlockId]) -> None:
        """Mark as used, the first ones last."""
        with self._lock:
            for block in reversed(blocks):
                self._ram.touch(block.identity)
        if self._disk is not None:
            self._disk.touch(reversed(blocks))

    def _have(self, block: BlockId, keys: "array[int]") -> bool:
        """Whether the last tier has the block, or a longer one that begins with it."""
        tier = self._disk or self._ram
        with self._lock:
            held = tier.index.by_identity.get(block.identity)
            if held is not None:
                return held.rows >= block.rows
            longer = [c for c in tier.index.children(block.parent) if c.count > block.count and c.rows == c.count]
            return any(common_prefix(tier.keys(c) or array("q"), keys) == len(keys) for c in longer)

    def _write(self, blocks: list[Block], urgent: bool) -> bool:
        """Write what the disk lacks, then remove what that makes superfluous; False when it could not be written."""
        disk = self._disk
        if disk is None:
            written = True
            shorter = [old for block in blocks for old in self._superseded(block, self._ram)]
        else:
            written = disk.write(blocks, urgent)
            there = [block for block in blocks if block.id.identity in disk.index.by_identity]
            shorter = [old for block in there for old in self._superseded(block, disk)]
            disk.remove(shorter)
        with self._lock:
            for old in shorter:
                self._ram.remove(old.identity)
        return written

    def _superseded(self, block: Block, tier: RamTier | DiskTier) -> list[BlockId]:
        """Shorter blocks at the same place whose keys this one begins with."""
        with self._lock:
            shorter = [c for c in tier.index.children(block.id.parent) if c.count < block.id.count]
            return [c for c in shorter if common_prefix(tier.keys(c) or array("q"), block.keys) == c.count]
