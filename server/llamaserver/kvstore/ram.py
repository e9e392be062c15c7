"""The tier in host memory: blocks up to a number of bytes. The least recently used blocks are removed first."""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from . import key
from .blocks import Block, BlockId, Index
from .tiers import Tier


class RamTier(Tier):
    """Blocks in memory."""

    name = "ram"
    durable = False

    def __init__(self, max_bytes: int) -> None:
        """Make an empty tier. `max_bytes` -1 is no limit."""
        self.index = Index()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._secret = key.of_process()
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()

    def secret(self) -> bytes:
        """A key of this process."""
        return self._secret

    def open(self) -> None:
        """Do nothing: there is nothing to prepare."""

    def refresh(self) -> None:
        """Do nothing: no other process has these blocks."""

    def sweep(self) -> None:
        """Do nothing: each save keeps the limit."""

    def paused(self, urgent: bool = False) -> bool:
        """False: a write to memory cannot fail."""
        return False

    def size(self) -> int:
        """Bytes of the blocks."""
        return self._bytes

    def keys(self, block: BlockId) -> "array[int] | None":
        """The keys of a block. None if the block is not here."""
        with self._lock:
            held = self._blocks.get(block.identity)
            return held.keys if held is not None else None

    def read(self, block: BlockId) -> Block | None:
        """The block. None if it is not here with as many rows."""
        with self._lock:
            held = self._blocks.get(block.identity)
            return held if held is not None and held.id == block else None

    def save(self, new: Sequence[Block], old: Sequence[BlockId], *, urgent: bool = False) -> bool:
        """Add blocks and make room for them. The first blocks of a sequence become the most recently used."""
        with self._lock:
            for block in reversed(new):
                self._add(block)
            self.touch(old)
        return True

    def _add(self, block: Block) -> None:
        if 0 <= self._max_bytes < block.size:
            return
        self._drop(block.id.identity)
        self.index.add(block.id)
        self._blocks[block.id.identity] = block
        self._bytes += block.size
        while 0 <= self._max_bytes < self._bytes:
            self._drop(next(iter(self._blocks)))

    def touch(self, blocks: Sequence[BlockId]) -> None:
        """Mark blocks as used, the first block last."""
        with self._lock:
            for block in reversed(blocks):
                if block.identity in self._blocks:
                    self._blocks.move_to_end(block.identity)

    def remove(self, blocks: Sequence[BlockId]) -> None:
        """Remove blocks of these identities."""
        with self._lock:
            for block in blocks:
                self._drop(block.identity)

    def _drop(self, identity: bytes) -> None:
        held = self._blocks.pop(identity, None)
        if held is not None:
            self.index.remove(held.id)
            self._bytes -= held.size

    def forget(self, block: BlockId) -> None:
        """Do nothing: a block in memory can always be read."""

    def exclude(self, block: BlockId) -> None:
        """Remove the block."""
        self.remove([block])

    def clear(self) -> int:
        """Remove all blocks and return their number."""
        with self._lock:
            count = len(self._blocks)
            for identity in list(self._blocks):
                self._drop(identity)
        return count
