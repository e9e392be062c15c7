"""The tier in host memory: blocks up to a number of bytes, the least recently used go first."""

from array import array
from collections import OrderedDict

from .blocks import Block, BlockId, Index


class RamTier:
    """Blocks in memory. Not thread-safe: the store holds its lock."""

    def __init__(self, max_bytes: int) -> None:
        self.index = Index()
        self.bytes = 0
        self._most = max_bytes
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()

    def put(self, block: Block) -> None:
        """Keep a block, and make room for it."""
        if block.size > self._most:
            return
        self.remove(block.id.identity)
        self.index.add(block.id)
        self._blocks[block.id.identity] = block
        self.bytes += block.size
        while self.bytes > self._most:
            self.remove(next(iter(self._blocks)))

    def get(self, block: BlockId) -> Block | None:
        """The block, when it is here with as many rows."""
        held = self._blocks.get(block.identity)
        return held if held is not None and held.id == block else None

    def touch(self, identity: bytes) -> None:
        """Mark as the most recently used."""
        if identity in self._blocks:
            self._blocks.move_to_end(identity)

    def keys(self, block: BlockId) -> "array[int] | None":
        """Its keys only."""
        held = self._blocks.get(block.identity)
        return held.keys if held is not None else None

    def remove(self, identity: bytes) -> None:
        """Forget a block, if it is here."""
        held = self._blocks.pop(identity, None)
        if held is not None:
            self.index.remove(held.id)
            self.bytes -= held.size

    def clear(self) -> None:
        """Forget all."""
        for identity in list(self._blocks):
            self.remove(identity)
