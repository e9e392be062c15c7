"""Blocks, the saved parts of sequences: their identities, the search for a prompt, and the file format. Pure.

A sequence is cut into blocks of BLOCK keys. A block's identity is a hash of all keys up to its end, chained
from block to block. So equal prefixes share their blocks, whichever request saved them. The last block of a
sequence may be shorter. The next turn replaces it by a longer one.
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
from .discards import Discard

K = TypeVar("K")

BLOCK = 64
FORMAT = 1
_MAGIC = b"LSKV"
_CHECKED = struct.Struct("<4sI")  # magic number, crc32 of all bytes that follow
_HEAD = struct.Struct("<IIIII16s16s16sQ")  # format, start, count, rows, whole, fingerprint, parent, identity, payload
_NAME = re.compile(r"([0-9a-f]{6})-([0-9a-f]{6})-([0-9a-f]{6})-([0-9a-f]{32})-([0-9a-f]{32})\.(block|state)")
_MOST_CHILDREN = 64  # blocks after one parent that are compared token by token, from the newest on


class DamagedBlockError(Exception):
    """A file must not be used. The exception holds the reason."""

    def __init__(self, reason: Discard) -> None:
        super().__init__(reason)
        self.reason = reason


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
        return BlockId(bytes.fromhex(found[4]), bytes.fromhex(found[5]), start, count, rows, found[6] == "state")


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


# ---- identity


def root(fingerprint: bytes, adapters: Sequence[bytes], scales: Sequence[float]) -> bytes:
    """The identity before the first block of a sequence: a hash of the model and of the adapters in use."""
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
    """The identity of the first `count` keys. `links` is the chain of `keys`."""
    full, rest = divmod(count, BLOCK)
    return identify(links[full], keys[full * BLOCK : count]) if rest else links[full]


# ---- search


class Index:
    """Blocks by identity and by parent, and whole states by length."""

    def __init__(self) -> None:
        self.by_identity: dict[bytes, BlockId] = {}
        self._children: dict[bytes, dict[bytes, BlockId]] = {}
        self.wholes: dict[int, dict[bytes, BlockId]] = {}

    def __len__(self) -> int:
        return len(self.by_identity)

    def add(self, block: BlockId) -> BlockId | None:
        """Add a block. Of two blocks with one identity, keep the one with more rows and return the other one."""
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
        """Remove a block if it is in the index."""
        if self.by_identity.get(block.identity) != block:
            return
        del self.by_identity[block.identity]
        if block.whole:
            _discard(self.wholes, block.count, block.identity)
        else:
            _discard(self._children, block.parent, block.identity)

    def children(self, parent: bytes) -> list[BlockId]:
        """Blocks that follow `parent`, from the newest on, at most _MOST_CHILDREN."""
        group = self._children.get(parent, {})
        newest = reversed(group.values())
        return [block for block, _ in zip(newest, range(_MOST_CHILDREN), strict=False)]


def _discard(groups: dict[K, dict[bytes, BlockId]], group: K, identity: bytes) -> None:
    groups[group].pop(identity, None)
    if not groups[group]:
        del groups[group]


KeysOf = Callable[[BlockId], "array[int] | None"]
Found = list[tuple[BlockId, int]]  # blocks in order, and how many keys of each block are used


def match(keys: "array[int]", start: bytes, indexes: Iterable[Index], keys_of: KeysOf, window: int) -> Found:
    """The longest saved prefix of `keys`. It may use only a part of the last block."""
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
    """The longest whole state whose keys are a prefix of `keys`."""
    indexes = list(indexes)
    links = chain(start, keys)
    for count in sorted({n for index in indexes for n in index.wholes if n <= len(keys)}, reverse=True):
        block = _lookup(identity_at(links, keys, count), indexes)
        if block is not None and block.whole and block.count == count:
            return [(block, count)]
    return []


def length(found: Found) -> int:
    """The number of the prompt's keys that these blocks cover."""
    return found[-1][0].start + found[-1][1] if found else 0


def _lookup(identity: bytes, indexes: Iterable[Index]) -> BlockId | None:
    """The block of that identity with the most rows. Of equal blocks, the one in the first index."""
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


# ---- the file


def encode(block: Block, fingerprint: bytes) -> list[bytes | memoryview]:
    """The parts of a block's file, in their order."""
    at = block.id
    head = _HEAD.pack(
        FORMAT, at.start, at.count, at.rows, at.whole, fingerprint, at.parent, at.identity, block.payload.nbytes
    )
    keys = block.keys.tobytes()
    crc = zlib.crc32(block.payload.data, zlib.crc32(keys, zlib.crc32(head)))
    return [_CHECKED.pack(_MAGIC, crc) + head + keys, block.payload.data]


def head_size(count: int) -> int:
    """Bytes before the payload in the file of a block with `count` keys."""
    return _CHECKED.size + _HEAD.size + 8 * count


def decode(data: ByteArray, block: BlockId, fingerprint: bytes) -> Block:
    """Decode the block in a file's bytes and check every byte. Raises DamagedBlockError."""
    fixed = _CHECKED.size + _HEAD.size
    if len(data) < fixed:
        raise DamagedBlockError(Discard.TORN)
    magic, crc = _CHECKED.unpack_from(data.data)
    form, start, count, rows, whole, made_for, parent, identity, size = _HEAD.unpack_from(data.data, _CHECKED.size)
    if magic != _MAGIC or form != FORMAT:
        raise DamagedBlockError(Discard.FOREIGN)
    if len(data) != fixed + 8 * count + size:
        raise DamagedBlockError(Discard.TORN)
    if zlib.crc32(data[_CHECKED.size :].data) != crc:
        raise DamagedBlockError(Discard.DAMAGED)
    if made_for != fingerprint or BlockId(parent, identity, start, count, rows, bool(whole)) != block:
        raise DamagedBlockError(Discard.FOREIGN)
    keys = array("q", data[fixed : fixed + 8 * count].tobytes())
    return Block(block, keys, data[fixed + 8 * count :])


def decode_keys(data: bytes, block: BlockId) -> "array[int] | None":
    """The keys in the first `head_size` bytes of a file. None if they do not match the block's identity."""
    if len(data) < head_size(block.count):
        return None
    keys = array("q", data[_CHECKED.size + _HEAD.size : head_size(block.count)])
    return keys if block.whole or identify(block.parent, keys) == block.identity else None
