"""What a tier of the KV store does: a place that holds blocks."""

from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from .blocks import Block, BlockId, Index
from .messages import TierName

Lock = AbstractContextManager[Any]  # that one thread may take several times


class Tier(Protocol):
    """One place for blocks. Two threads use it: each method is safe, and none raises for an I/O error.

    The defaults are those of a tier in memory. The index changes only under the lock that all tiers share.
    """

    name: TierName
    durable: bool  # the blocks outlive the process
    index: Index

    def size(self) -> int:
        """Bytes that the tier holds."""

    def open(self) -> None:
        """Prepare the tier and list what it holds; may take long."""

    def refresh(self) -> None:
        """See what other processes have added or removed."""

    def sweep(self) -> None:
        """Remove what has expired or exceeds the limits."""

    def paused(self, urgent: bool = False) -> bool:
        """Whether a write has failed so recently that another is not worth a try. `urgent`: the server is ending."""

    def keys(self, block: BlockId) -> "array[int] | None":
        """The keys of a block; None when it is not here."""

    def read(self, block: BlockId) -> Block | None:
        """A block with as many rows; None when it is not here, or is damaged."""

    def save(self, new: Sequence[Block], old: Sequence[BlockId], *, urgent: bool = False) -> bool:
        """Add blocks of one sequence, in order, and mark those that were here as used; False when a write failed."""

    def touch(self, blocks: Sequence[BlockId]) -> None:
        """Mark blocks of one sequence as used, so that its beginning is removed last."""

    def remove(self, blocks: Sequence[BlockId]) -> None:
        """Remove blocks, also those that another process has written."""

    def forget(self, block: BlockId) -> None:
        """Do not offer a block that could not be read, until the tier is listed again."""

    def exclude(self, block: BlockId) -> None:
        """Do not offer a block that is of no use to this process."""

    def clear(self) -> int:
        """Remove everything; returns the number of blocks."""
