"""GGUF files as bytes, right and wrong ones, without a model in them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

I8, UINT32, STRING, ARRAY = 24, 4, 8, 9


def u32(value: int) -> bytes:
    """Four bytes."""
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    """Eight bytes."""
    return struct.pack("<Q", value)


def text(value: bytes) -> bytes:
    """A string with its length before it."""
    return u64(len(value)) + value


def value(name: bytes, kind: int, data: bytes) -> bytes:
    """A key with its value."""
    return text(name) + u32(kind) + data


@dataclass(frozen=True)
class Tensor:
    """What the header says of one tensor."""

    shape: tuple[int, ...]
    kind: int = I8
    offset: int = 0
    name: bytes = b"t"

    def info(self) -> bytes:
        """As it stands in the header."""
        shape = b"".join(u64(n) for n in self.shape)
        return text(self.name) + u32(len(self.shape)) + shape + u32(self.kind) + u64(self.offset)


def header(
    tensors: Sequence[Tensor] = (),
    values: Sequence[bytes] = (),
    *,
    version: bytes = u32(3),
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """All before the data, padded as far as these; `counts` of tensors and values other than the true ones."""
    n_tensors, n_values = counts or (len(tensors), len(values))
    start = b"GGUF" + version + u64(n_tensors) + u64(n_values)
    made = start + b"".join(values) + b"".join(tensor.info() for tensor in tensors)
    return made.ljust(-(-len(made) // alignment) * alignment, b"\0") if tensors else made


def whole(data: bytes) -> bytes:
    """A file whose only tensor holds these bytes."""
    return header([Tensor((len(data),))]) + data
