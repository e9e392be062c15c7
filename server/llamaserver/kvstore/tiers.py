"""The protocol of a tier of the KV store. A tier is a place that holds blocks."""

from array import array
from collections.abc import Sequence
from typing import Protocol

from .blocks import Block, BlockId, Index
from .messages import TierName


class Tier(Protocol):
    """One place for blocks. Two threads use it. Each method is thread-safe, and none raises for an I/O error.

    No tier holds a lock during a file operation. So a volume that hangs stops only the thread that uses it.
    """

    name: TierName
    durable: bool  # the blocks outlive the process
    index: Index

    def secret(self) -> bytes | None:
        """The key of the identities. None if it cannot be read now."""

    def size(self) -> int:
        """Bytes that the tier holds."""

    def open(self) -> None:
        """Prepare the tier and list its blocks. May take long."""

    def refresh(self) -> None:
        """Find the blocks that other processes have added or removed."""

    def sweep(self) -> None:
        """Remove the blocks that have expired or exceed the limits."""

    def paused(self, urgent: bool = False) -> bool:
        """Whether a write has failed so recently that another is not worth a try. `urgent`: the server shuts down."""

    def keys(self, block: BlockId) -> "array[int] | None":
        """The keys of a block. None if the block is not here."""

    def read(self, block: BlockId) -> Block | None:
        """A block with as many rows. None if it is not here or is damaged."""

    def save(self, new: Sequence[Block], old: Sequence[BlockId], *, urgent: bool = False) -> bool:
        """Add the `new` blocks of one sequence, in order, and mark the `old` ones as used. False if a write failed."""

    def touch(self, blocks: Sequence[BlockId]) -> None:
        """Mark blocks of one sequence as used. Its beginning is then removed last."""

    def remove(self, blocks: Sequence[BlockId]) -> None:
        """Remove blocks, also blocks that another process has written."""

    def forget(self, block: BlockId) -> None:
        """Do not offer a block that could not be read, until the next listing of the tier."""

    def exclude(self, block: BlockId) -> None:
        """Do not offer a block that this process cannot use."""

    def clear(self) -> int:
        """Remove all blocks and return their number."""
