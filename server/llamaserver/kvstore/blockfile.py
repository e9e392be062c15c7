"""The file of a block. It carries codes that only servers with the store's key can make. Pure.

    4 bytes magic, 32 bytes code of the head, head, keys, payload

The code of the head (HMAC-SHA256) covers the head and the keys. The head holds the code of the payload and its
size. So a reader checks the head first, and never allocates memory for a size that somebody else has written.
"""

import hmac
import struct
from array import array
from dataclasses import dataclass
from hashlib import blake2b

from ..interfaces.backend import ByteArray
from .blocks import Block, BlockId
from .discards import Discard

FORMAT = 2
_MAGIC = b"LSKV"
_CODE = 32  # bytes of a code
_FRONT = struct.Struct(f"<4s{_CODE}s")
_HEAD = struct.Struct(f"<IIIII16s16s16sQ{_CODE}s")
# format, start, count, rows, whole, fingerprint, parent, identity, size of the payload, its code


class DamagedBlockError(Exception):
    """A file must not be used. The exception holds the reason."""

    def __init__(self, reason: Discard) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Head:
    """The checked beginning of a file."""

    block: BlockId
    keys: "array[int]"
    size: int  # bytes of the payload
    code: bytes  # of the payload

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return head_size(self.block.count) + self.size


class Format:
    """Writes and reads files of one model with one secret key."""

    def __init__(self, fingerprint: bytes, secret: bytes) -> None:
        self._fingerprint = fingerprint
        self._key = blake2b(key=secret, digest_size=_CODE, person=b"kv file").digest()

    def encode(self, block: Block) -> list[bytes | memoryview]:
        """The parts of a block's file, in their order."""
        at, payload = block.id, block.payload.data
        numbers = (FORMAT, at.start, at.count, at.rows, at.whole)
        names = (self._fingerprint, at.parent, at.identity)
        head = _HEAD.pack(*numbers, *names, payload.nbytes, self._code(payload)) + block.keys.tobytes()
        return [_FRONT.pack(_MAGIC, self._code(head)) + head, payload]

    def head(self, data: bytes, block: BlockId) -> Head:
        """Check the first `head_size` bytes of a file. Raises DamagedBlockError."""
        if len(data) < head_size(block.count):
            raise DamagedBlockError(Discard.TORN)
        magic, code = _FRONT.unpack_from(data)
        found = _HEAD.unpack_from(data, _FRONT.size)
        form, start, count, rows, whole, made_for, parent, identity, size, payload_code = found
        if magic != _MAGIC or form != FORMAT:
            raise DamagedBlockError(Discard.FOREIGN)
        checked = data[_FRONT.size : head_size(block.count)]
        if not hmac.compare_digest(code, self._code(checked)):
            raise DamagedBlockError(Discard.FORGED)
        if made_for != self._fingerprint or BlockId(parent, identity, start, count, rows, bool(whole)) != block:
            raise DamagedBlockError(Discard.FOREIGN)
        return Head(block, array("q", checked[_HEAD.size :]), size, payload_code)

    def block(self, head: Head, payload: ByteArray) -> Block:
        """The block of a checked head and the rest of its file. Raises DamagedBlockError."""
        if payload.nbytes != head.size:
            raise DamagedBlockError(Discard.TORN)
        if not hmac.compare_digest(head.code, self._code(payload.data)):
            raise DamagedBlockError(Discard.FORGED)
        return Block(head.block, head.keys, payload)

    def _code(self, data: bytes | memoryview) -> bytes:
        code = hmac.new(self._key, digestmod="sha256")  # in pieces: the one-shot function ends at 2 GiB
        code.update(data)
        return code.digest()


def head_size(count: int) -> int:
    """Bytes before the payload in the file of a block with `count` keys."""
    return _FRONT.size + _HEAD.size + 8 * count
