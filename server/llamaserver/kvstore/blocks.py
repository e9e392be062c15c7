"""Blocks, the saved parts of sequences, and the search for those of a prompt. Pure.

A sequence is cut into blocks of BLOCK keys. The last block of a sequence may be shorter. The next turn replaces it
by a longer one.
"""

import re
import threading
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ..interfaces.backend import ByteArray
from ..interfaces.keys import common_prefix
from .identity import BLOCK, Chain

K = TypeVar("K")
_NAME = re.compile(r"([0-9a-f]{6})-([0-9a-f]{6})-([0-9a-f]{6})-([0-9a-f]{32})-([0-9a-f]{32})\.(block|state)")
_MOST_CHILDREN = 64  # blocks after one parent that are compared token by token, from the newest on


@dataclass(frozen=True, slots=True)
class BlockId:
    """The identity of a block. The name of its file contains all fields.

    `rows` counts the last keys for which the layers with a sliding window are saved too. In other models it
    equals `count`. `whole` marks a state that cannot be cut, for example the state of a recurrent model. It
    begins at key 0.
    """

    parent: bytes
    identity: bytes
    start: int
    count: int
    rows: int
    whole: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        kind = "state" if self.whole else "block"
        return f"{self.start:06x}-{self.count:06x}-{self.rows:06x}-{self.parent.hex()}-{self.identity.hex()}.{kind}"

    @staticmethod
    def parse(name: str) -> "BlockId | None":
        """The block of a file name. None for other files."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        start, count, rows = (int(found[i], 16) for i in (1, 2, 3))
        whole = found[6] == "state"
        if not whole and count > BLOCK:
            return None
        return BlockId(bytes.fromhex(found[4]), bytes.fromhex(found[5]), start, count, rows, whole)


@dataclass(frozen=True, slots=True)
class Block:
    """A block with its keys and its state."""

    id: BlockId
    keys: "array[int]"
    payload: ByteArray

    @property
    def size(self) -> int:
        """Bytes that the block takes in memory."""
        return self.payload.nbytes + 8 * len(self.keys)


# ---- search


class Index:
    """Blocks by identity and by parent, and whole states by length. Thread-safe, and never slow."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._blocks: dict[bytes, BlockId] = {}
        self._children: dict[bytes, dict[bytes, BlockId]] = {}
        self._wholes: dict[int, dict[bytes, BlockId]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._blocks

    def get(self, identity: bytes) -> BlockId | None:
        """The block of that identity."""
        return self._blocks.get(identity)

    def all(self) -> list[BlockId]:
        """Every block."""
        with self._lock:
            return list(self._blocks.values())

    def add(self, block: BlockId) -> BlockId | None:
        """Add a block. Of two blocks with one identity, keep the one with more rows and return the other one."""
        with self._lock:
            old = self._blocks.get(block.identity)
            if old is not None:
                if old == block:
                    return None
                if old.rows >= block.rows:
                    return block
                self.remove(old)
            self._blocks[block.identity] = block
            if block.whole:
                self._wholes.setdefault(block.count, {})[block.identity] = block
            else:
                self._children.setdefault(block.parent, {})[block.identity] = block
            return old

    def remove(self, block: BlockId) -> None:
        """Remove a block if it is in the index."""
        with self._lock:
            if self._blocks.get(block.identity) != block:
                return
            del self._blocks[block.identity]
            if block.whole:
                _discard(self._wholes, block.count, block.identity)
            else:
                _discard(self._children, block.parent, block.identity)

    def children(self, parent: bytes) -> list[BlockId]:
        """Blocks that follow `parent`, from the newest on, at most _MOST_CHILDREN."""
        with self._lock:
            newest = reversed(self._children.get(parent, {}).values())
            return [block for block, _ in zip(newest, range(_MOST_CHILDREN), strict=False)]

    def lengths(self) -> set[int]:
        """The lengths of all whole states."""
        with self._lock:
            return set(self._wholes)


def _discard(groups: dict[K, dict[bytes, BlockId]], group: K, identity: bytes) -> None:
    groups[group].pop(identity, None)
    if not groups[group]:
        del groups[group]


KeysOf = Callable[[BlockId], "array[int] | None"]
Found = list[tuple[BlockId, int]]  # blocks in order, and how many keys of each block are used


def match(keys: "array[int]", chain: Chain, indexes: Iterable[Index], keys_of: KeysOf, window: int) -> Found:
    """The longest saved prefix of `keys`. It may use only a part of the last block."""
    indexes = list(indexes)
    found: Found = []
    link, at = chain.start, 0
    while at < len(keys):
        part, parent = keys[at : at + BLOCK], chain.parent(link, at)
        exact = _lookup(chain.identity(parent, part), indexes) if len(part) == BLOCK else None
        if exact is None:
            partial = _closest(part, [child for index in indexes for child in index.children(parent)], keys_of)
            return within_window(found + partial, window)
        found.append((exact, BLOCK))
        link, at = exact.identity, at + BLOCK
    return within_window(found, window)


def match_whole(keys: "array[int]", chain: Chain, indexes: Iterable[Index]) -> Found:
    """The longest whole state whose keys are a prefix of `keys`."""
    indexes = list(indexes)
    links = chain.links(keys)
    for count in sorted({n for index in indexes for n in index.lengths() if n <= len(keys)}, reverse=True):
        block = _lookup(chain.identity_at(links, keys, count), indexes)
        if block is not None and block.whole and block.count == count:
            return [(block, count)]
    return []


def length(found: Found) -> int:
    """The number of the prompt's keys that these blocks cover."""
    return found[-1][0].start + found[-1][1] if found else 0


def _lookup(identity: bytes, indexes: Iterable[Index]) -> BlockId | None:
    """The block of that identity with the most rows. Of equal blocks, the one in the first index."""
    found = [index.get(identity) for index in indexes]
    return max((block for block in found if block is not None), key=lambda block: block.rows, default=None)


def _closest(part: "array[int]", children: Iterable[BlockId], keys_of: KeysOf) -> Found:
    best: Found = []
    for child in children:
        held = keys_of(child)
        length = common_prefix(held, part) if held else 0
        if length > (best[0][1] if best else 0):
            best = [(child, length)]
    return best


def within_window(found: Found, window: int) -> Found:
    """Remove blocks from the end until all keys inside the sliding window have their rows saved."""
    while found:
        last, used = found[-1]
        first = max(0, last.start + used - window)
        if all(b.start + b.count - b.rows <= max(first, b.start) for b, n in found if b.start + n > first):
            return found
        found = found[:-1]
    return found


def trim(found: Found, length: int) -> Found:
    """The part of `found` that ends at key `length`."""
    return [(block, min(used, length - block.start)) for block, used in found if block.start < length]
