"""Saved parts of sequences: what identifies one, how a prompt finds its own, the file that carries it. Pure.

A sequence is cut into blocks of BLOCK keys. A block's identity is a hash over everything up to its
end, chained from block to block, so equal prefixes are one block whoever saved them. The last one
of a sequence may be shorter; the next turn replaces it by a longer one.
"""

import re
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

from ..interfaces.backend import ByteArray
from ..interfaces.keys import common_prefix

K = TypeVar("K")

BLOCK = 64
FORMAT = 1
_MAGIC = b"LSKV"
_CHECKED = struct.Struct("<4sI")  # magic, crc32 of all that follows
_HEAD = struct.Struct("<IIIII16s16s16sQ")  # format, start, count, rows, whole, fingerprint, parent, identity, payload
_NAME = re.compile(r"([0-9a-f]{6})-([0-9a-f]{6})-([0-9a-f]{6})-([0-9a-f]{32})-([0-9a-f]{32})\.(block|state)")
_MOST_CHILDREN = 64  # that are compared token by token, the newest first


class Damaged(Exception):
    """A file that must not be used; the argument is the reason as metrics name it."""


@dataclass(frozen=True, slots=True)
class BlockId:
    """A block among others. Its file's name says all of it.

    `rows` counts its last keys for which a sliding window's layers are there too; in other models
    it equals `count`. `whole`: a state that cannot be cut (recurrent), from key 0 on.
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
        """The block of that file name."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        start, count, rows = (int(found[i], 16) for i in (1, 2, 3))
        return BlockId(bytes.fromhex(found[4]), bytes.fromhex(found[5]), start, count, rows, found[6] == "state")


@dataclass(frozen=True, slots=True)
class Block:
    """A block with its keys and its state."""

    id: BlockId
    keys: "array[int]"
    payload: ByteArray

    @property
    def size(self) -> int:
        """Bytes it takes in memory."""
        return self.payload.nbytes + 8 * len(self.keys)


# ---- identity


def root(fingerprint: bytes, adapters: Sequence[bytes], scales: Sequence[float]) -> bytes:
    """Where the chain of a sequence begins: the model and the adapters that are on."""
    used = [(adapter.hex(), scale) for adapter, scale in zip(adapters, scales, strict=True) if scale != 0.0]
    return blake2b(fingerprint + repr(used).encode(), digest_size=16).digest()


def identify(parent: bytes, keys: "array[int]") -> bytes:
    """The identity of a block after `parent`."""
    return blake2b(parent + keys.tobytes(), digest_size=16).digest()


def chain(start: bytes, keys: "array[int]") -> list[bytes]:
    """`start`, then the identity at the end of every full block of `keys`."""
    found = [start]
    for at in range(0, len(keys) - BLOCK + 1, BLOCK):
        found.append(identify(found[-1], keys[at : at + BLOCK]))
    return found


def identity_at(links: Sequence[bytes], keys: "array[int]", count: int) -> bytes:
    """The identity of the first `count` keys, whose chain is `links`."""
    full, rest = divmod(count, BLOCK)
    return identify(links[full], keys[full * BLOCK : count]) if rest else links[full]


# ---- finding


class Index:
    """Blocks by identity, by parent, and whole states by length."""

    def __init__(self) -> None:
        self.by_identity: dict[bytes, BlockId] = {}
        self._children: dict[bytes, dict[bytes, BlockId]] = {}
        self.wholes: dict[int, dict[bytes, BlockId]] = {}

    def __len__(self) -> int:
        return len(self.by_identity)

    def add(self, block: BlockId) -> BlockId | None:
        """Add; of two with one identity the one with more rows stays. Returns the one that went, if any."""
        old = self.by_identity.get(block.identity)
        if old is not None:
            if old == block:
                return None
            if old.rows >= block.rows:
                return block
            self.remove(old)
        self.by_identity[block.identity] = block
        if block.whole:
            self.wholes.setdefault(block.count, {})[block.identity] = block
        else:
            self._children.setdefault(block.parent, {})[block.identity] = block
        return old

    def remove(self, block: BlockId) -> None:
        """Remove, if it is there."""
        if self.by_identity.get(block.identity) != block:
            return
        del self.by_identity[block.identity]
        if block.whole:
            _discard(self.wholes, block.count, block.identity)
        else:
            _discard(self._children, block.parent, block.identity)

    def children(self, parent: bytes) -> list[BlockId]:
        """Blocks that follow `parent`, the newest first, not more than can be looked at."""
        group = self._children.get(parent, {})
        newest = reversed(group.values())
        return [block for block, _ in zip(newest, range(_MOST_CHILDREN), strict=False)]


def _discard(groups: dict[K, dict[bytes, BlockId]], group: K, identity: bytes) -> None:
    groups[group].pop(identity, None)
    if not groups[group]:
        del groups[group]


KeysOf = Callable[[BlockId], "array[int] | None"]
Found = list[tuple[BlockId, int]]  # blocks in order, and how many keys of each are used


def match(keys: "array[int]", start: bytes, indexes: Iterable[Index], keys_of: KeysOf, window: int) -> Found:
    """The longest saved prefix of `keys`; of the last block only a part may be used."""
    indexes = list(indexes)
    found: Found = []
    parent, at = start, 0
    while at < len(keys):
        part = keys[at : at + BLOCK]
        exact = _lookup(identify(parent, part), indexes) if len(part) == BLOCK else None
        if exact is None:
            partial = _closest(part, [child for index in indexes for child in index.children(parent)], keys_of)
            return within_window(found + partial, window)
        found.append((exact, BLOCK))
        parent, at = exact.identity, at + BLOCK
    return within_window(found, window)


def match_whole(keys: "array[int]", start: bytes, indexes: Iterable[Index]) -> Found:
    """The longest whole state that ends within `keys`."""
    indexes = list(indexes)
    links = chain(start, keys)
    for count in sorted({n for index in indexes for n in index.wholes if n <= len(keys)}, reverse=True):
        block = _lookup(identity_at(links, keys, count), indexes)
        if block is not None and block.whole and block.count == count:
            return [(block, count)]
    return []


def _lookup(identity: bytes, indexes: Iterable[Index]) -> BlockId | None:
    """The block of that identity with the most rows; the first index wins ties."""
    found = [index.by_identity[identity] for index in indexes if identity in index.by_identity]
    return max(found, key=lambda block: block.rows, default=None)


def _closest(part: "array[int]", children: Iterable[BlockId], keys_of: KeysOf) -> Found:
    best: Found = []
    for child in children:
        held = keys_of(child)
        length = common_prefix(held, part) if held else 0
        if length > (best[0][1] if best else 0):
            best = [(child, length)]
    return best


def within_window(found: Found, window: int) -> Found:
    """Cut back to a place before which a sliding window's layers are there for all that the window sees."""
    while found:
        last, used = found[-1]
        first = max(0, last.start + used - window)
        if all(b.start + b.count - b.rows <= max(first, b.start) for b, n in found if b.start + n > first):
            return found
        found = found[:-1]
    return found


def trim(found: Found, length: int) -> Found:
    """The part of `found` before `length`."""
    return [(block, min(used, length - block.start)) for block, used in found if block.start < length]


# ---- the file


def encode(block: Block, fingerprint: bytes) -> list[bytes | memoryview]:
    """The parts of a block's file, in order."""
    i = block.id
    head = _HEAD.pack(
        FORMAT, i.start, i.count, i.rows, i.whole, fingerprint, i.parent, i.identity, block.payload.nbytes
    )
    keys = block.keys.tobytes()
    crc = zlib.crc32(block.payload.data, zlib.crc32(keys, zlib.crc32(head)))
    return [_CHECKED.pack(_MAGIC, crc) + head + keys, block.payload.data]


def head_size(count: int) -> int:
    """Bytes before the payload of a block of `count` keys."""
    return _CHECKED.size + _HEAD.size + 8 * count


def decode(data: ByteArray, block: BlockId, fingerprint: bytes) -> Block:
    """The block in a file's bytes, every one of them checked; raises Damaged."""
    fixed = _CHECKED.size + _HEAD.size
    if len(data) < fixed:
        raise Damaged("torn")
    magic, crc = _CHECKED.unpack_from(data.data)
    form, start, count, rows, whole, made_for, parent, identity, size = _HEAD.unpack_from(data.data, _CHECKED.size)
    if magic != _MAGIC or form != FORMAT:
        raise Damaged("foreign")
    if len(data) != fixed + 8 * count + size:
        raise Damaged("torn")
    if zlib.crc32(data[_CHECKED.size :].data) != crc:
        raise Damaged("damaged")
    if made_for != fingerprint or BlockId(parent, identity, start, count, rows, bool(whole)) != block:
        raise Damaged("foreign")
    keys = array("q", data[fixed : fixed + 8 * count].tobytes())
    return Block(block, keys, data[fixed + 8 * count :])


def decode_keys(data: bytes, block: BlockId) -> "array[int] | None":
    """The keys in the first `head_size` bytes of a file; a block's identity proves them."""
    if len(data) < head_size(block.count):
        return None
    keys = array("q", data[_CHECKED.size + _HEAD.size : head_size(block.count)])
    return keys if block.whole or identify(block.parent, keys) == block.identity else None
