"""The thread that saves conversations. It cuts a state into blocks and writes the new ones."""

import logging
import os
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

import numpy as np

from ..interfaces.backend import ParsedState
from ..interfaces.keys import common_prefix
from .blocks import Block, BlockId
from .counters import StoreCounters
from .discards import Discard
from .identity import BLOCK, Chain
from .messages import Save, Shape
from .tiers import Tier

_log = logging.getLogger(__name__)
_QUEUE = 2  # saves that may wait. Further conversations stay in the cache
_QUEUE_BYTES = 256 << 20  # with more waiting bytes, only one save at a time
_SWEEP_EVERY = 60.0  # seconds
_NICENESS = 10


class Writer:
    """Saves sequences one after the other. The last of `tiers` decides which blocks exist already."""

    def __init__(self, shape: Shape, tiers: Sequence[Tier], counters: StoreCounters) -> None:
        self.opened = threading.Event()  # set when the tiers have been listed
        self._shape = shape
        self._tiers = tiers
        self._counters = counters
        self._saves: SimpleQueue[Save | None] = SimpleQueue()
        self._counting = threading.Lock()
        self._waiting = self._waiting_bytes = 0  # saves that have not ended
        self._swept = time.monotonic()

    @property
    def has_room(self) -> bool:
        """Whether the queue has room for another save."""
        return self._waiting == 0 or (self._waiting < _QUEUE and self._waiting_bytes < _QUEUE_BYTES)

    @property
    def waiting(self) -> int:
        """Number of saves that have not ended."""
        return self._waiting

    def put(self, save: Save) -> None:
        """Queue a sequence for saving. Any thread."""
        with self._counting:
            self._waiting += 1
            self._waiting_bytes += save.state.nbytes
        self._saves.put(save)

    def stop(self) -> None:
        """End the thread after the waiting saves."""
        self._saves.put(None)

    def run(self, wake: Callable[[], None]) -> None:
        """Open the tiers, then save until the end. Calls `wake` after each save."""
        with suppress(OSError):
            # Decoding has priority. With this niceness, the gaps between its tokens were shorter than with equal
            # niceness.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        for tier in self._tiers:
            tier.open()
        self.opened.set()
        wake()
        while True:
            self._sweep()
            try:
                save = self._saves.get(timeout=_SWEEP_EVERY)
            except Empty:
                continue
            if save is None:
                return
            self._run_one(save)
            del save
            wake()

    def _sweep(self) -> None:
        if time.monotonic() - self._swept > _SWEEP_EVERY:
            for tier in self._tiers:
                tier.sweep()
            self._swept = time.monotonic()

    def _run_one(self, save: Save) -> None:
        try:
            self.keep(save)
        except Exception:
            _log.exception("a save into the KV store failed")
            self._counters.discard(Discard.DEFECT)
        size, save.done = save.state.nbytes, True
        save.state = np.zeros(0, np.uint8)  # releases the state. The engine may keep the rest
        with self._counting:
            self._waiting -= 1
            self._waiting_bytes -= size

    def keep(self, save: Save) -> None:
        """Write the blocks that do not exist yet, then remove the blocks that they replace."""
        began, secret = time.monotonic(), self._tiers[-1].secret()
        if secret is None:
            save.failed = True
            return
        chain = Chain.of(secret, self._shape.fingerprint, self._shape.adapters, save.scales, save.scope)
        try:
            new, old = self._cut(save, chain)
        except ValueError:
            self._counters.discard(Discard.CANNOT_CUT)
            return
        saved = [tier.save(new, old, urgent=save.urgent) for tier in self._tiers]
        self._remove_replaced(new)
        save.failed = not all(saved)
        if not save.failed:
            self._counters.saved(time.monotonic() - began)

    def _cut(self, save: Save, chain: Chain) -> tuple[list[Block], list[BlockId]]:
        """The blocks that do not exist yet, and the existing ones. Raises ValueError for a state that cannot be cut."""
        if self._shape.codec is None:
            count = len(save.keys)
            identity = chain.identity_at(chain.links(save.keys), save.keys, count)
            block = BlockId(chain.start, identity, 0, count, count, whole=True)
            return ([], [block]) if self._has(block, save.keys) else ([Block(block, save.keys, save.state)], [])
        parsed = self._shape.codec.parse(save.state)
        return self._cut_parsed(save.keys[: parsed.length], chain, parsed)

    def _cut_parsed(self, keys: "array[int]", chain: Chain, parsed: ParsedState) -> tuple[list[Block], list[BlockId]]:
        new: list[Block] = []
        old: list[BlockId] = []
        link = chain.start
        for at in range(0, len(keys), BLOCK):
            part, parent = keys[at : at + BLOCK], chain.parent(link, at)
            block = BlockId(parent, chain.identity(parent, part), at, len(part), parsed.rows(at, at + len(part)))
            if self._has(block, part):
                old.append(block)
            else:
                new.append(Block(block, part, parsed.cut(at, at + len(part))))
            link = block.identity
        return new, old

    def _has(self, block: BlockId, keys: "array[int]") -> bool:
        """Whether the last tier has the block, or a longer block that begins with it."""
        tier = self._tiers[-1]
        held = tier.index.get(block.identity)
        if held is not None:
            return held.rows >= block.rows
        longer = [c for c in tier.index.children(block.parent) if c.count > block.count and c.rows == c.count]
        return any(common_prefix(tier.keys(c) or array("q"), keys) == len(keys) for c in longer)

    def _remove_replaced(self, new: list[Block]) -> None:
        """Remove shorter blocks whose keys begin a new block, once the last tier has the new block."""
        index = self._tiers[-1].index
        there = [block for block in new if block.id.identity in index]
        replaced = [old for block in there for old in self._shorter(block)]
        for tier in self._tiers:
            tier.remove(replaced)

    def _shorter(self, block: Block) -> list[BlockId]:
        tier = self._tiers[-1]
        shorter = [c for c in tier.index.children(block.id.parent) if c.count < block.id.count]
        return [c for c in shorter if common_prefix(tier.keys(c) or array("q"), block.keys) == c.count]
