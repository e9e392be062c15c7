"""Checks by the header that a file is a complete GGUF file. Every count and length in the header is checked.

This is our own reader. The `gguf` package maps the file into memory, makes an object of each value and needs
NumPy. The reader of llama.cpp is part of the model library, which `llamaserver fetch` does not load. A file
with a quantization or a format version that this reader does not know is accepted.
"""

from pathlib import Path
from typing import BinaryIO, Final

MAGIC: Final = b"GGUF"
# elements and bytes of one block, by the number of the ggml type
TYPES: Final = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip
_NEWEST = 3  # the newest known version of the format
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by type number
_UINT32, _STRING, _ARRAY = 4, 8, 9
_LEAST = {**_WIDTHS, _STRING: 8, _ARRAY: 12}  # smallest number of bytes of a value
_WINDOW = 1 << 20  # bytes of one read
_MOST_VALUES = 1 << 24  # values of varying length. The largest vocabularies have a million
_LONGEST_NAME = 65_535  # bytes
_DEEPEST = 4  # levels of arrays in arrays
_MOST_DIMENSIONS = 8

# The first bytes of files in other formats.
_OTHERS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a ZIP archive",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"7z\xbc\xaf": "a 7z archive",
    b"version https://git-lfs": "a Git LFS pointer, which stands for the file",
    b"tjgg": "the format before GGUF",
    b"lmgg": "the format before GGUF",
    b"algg": "the format before GGUF",
    b"fmgg": "the format before GGUF",
}


class NotGGUFError(Exception):
    """The message is a predicate, such as "is not a GGUF file: it is empty"."""


class CutOffError(NotGGUFError):
    """The file is shorter than its header says. `needed` is the smallest complete size in bytes."""

    def __init__(self, size: int, needed: int) -> None:
        super().__init__(f"is not a complete GGUF file: it has {size:,} bytes, but its header requires {needed:,}")
        self.needed = needed


def check_begin(head: bytes) -> None:
    """Raise NotGGUFError if no GGUF file begins with these bytes: the first 64, or all bytes of a shorter file."""
    if head.startswith(MAGIC):
        return
    if not head:
        raise NotGGUFError("is not a GGUF file: it is empty")
    kind = next((kind for start, kind in _OTHERS.items() if head.startswith(start)), "")
    if head[8:10] == b'{"':
        kind = "safetensors"
    raise NotGGUFError(f"is not a GGUF file: it begins with {_quoted(head)}" + (f" ({kind})" if kind else ""))


def _quoted(head: bytes) -> str:
    """The first line if it is text, else the bytes."""
    line = head.lstrip()[:60].decode(errors="ignore").partition("\n")[0].strip()
    if len(line) >= 4 and line.isprintable():
        return f'"{line[:40]}"'
    return head[:8].hex(" ")


def check(path: Path) -> None:
    """Raise NotGGUFError if data that the header announces are missing. Raise OSError if the file cannot be read."""
    with path.open("rb") as file:
        size = path.stat().st_size
        check_begin(file.read(64))
        needed = _end(_Reader(file, size))
    if needed > size:
        raise CutOffError(size, needed)


def _broken(what: str) -> NotGGUFError:
    return NotGGUFError(f"is not a readable GGUF file: in its header {what}")


class _Reader:
    """Reads little-endian numbers from the front of a file. Raises NotGGUFError beyond its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._window, self._start, self._at = b"", 0, 0  # bytes, their offset in the file, position in them
        self._values = _MOST_VALUES

    @property
    def at(self) -> int:
        """Position in the file."""
        return self._start + self._at

    def number(self, width: int) -> int:
        if self._at + width > len(self._window):
            self._refill(width)
        self._at += width
        return int.from_bytes(self._window[self._at - width : self._at], "little")

    def text(self, what: str) -> bytes:
        length = self.number(8)
        if length > _LONGEST_NAME:
            raise _broken(f"{what} has {length:,} bytes")
        if self._at + length > len(self._window):
            self._refill(length)
        self._at += length
        return self._window[self._at - length : self._at]

    def skip(self, count: int) -> None:
        self._need(count)
        self._at += count

    def count(self, least: int, what: str) -> int:
        """Read a number of items of at least `least` bytes each, and check it against the rest of the file."""
        count = self.number(8)
        self._need(count * least)
        if count > self._values:
            raise _broken(f"there are more than {_MOST_VALUES:,} {what}")
        self._values -= count
        return count

    def _need(self, count: int) -> None:
        if self.at + count > self._size:
            raise CutOffError(self._size, self.at + count)

    def _refill(self, least: int) -> None:
        self._need(least)
        self._start, self._at = self.at, 0
        self._file.seek(self._start)
        self._window = self._file.read(max(least, _WINDOW))
        if len(self._window) < least:  # another process has truncated the file
            raise CutOffError(self._start + len(self._window), self._start + least)


def _end(reader: _Reader) -> int:
    """The end of the last tensor's data, as far as it is known."""
    reader.skip(len(MAGIC))
    version = reader.number(4)
    if version & 0xFFFF == 0:
        raise NotGGUFError("is a GGUF file for big-endian machines, which this one is not")
    if version == 1:
        raise NotGGUFError("is a GGUF file of version 1, which llama.cpp no longer reads")
    if version > _NEWEST:
        return 0  # a newer version, with an unknown header
    n_tensors = reader.count(24, "tensors")
    n_values = reader.count(13, "values")
    alignment = 32
    for _ in range(n_values):
        name, kind = reader.text("a name"), reader.number(4)
        if name == b"general.alignment":
            alignment = _alignment(reader, kind)
        else:
            _skip(reader, kind)
    ends = [_tensor(reader) for _ in range(n_tensors)]
    return -(-reader.at // alignment) * alignment + max(ends) if ends else reader.at


def _alignment(reader: _Reader, kind: int) -> int:
    found = reader.number(4) if kind == _UINT32 else 0
    if found <= 0 or found & (found - 1):
        raise _broken("general.alignment is no power of two")
    return found


def _skip(reader: _Reader, kind: int, depth: int = 0) -> None:
    """Skip a value."""
    if kind in _WIDTHS:
        reader.skip(_WIDTHS[kind])
    elif kind == _STRING:
        reader.skip(reader.number(8))
    elif kind == _ARRAY and depth < _DEEPEST:
        _skip_array(reader, depth + 1)
    else:
        raise _broken("arrays are nested too deeply" if kind == _ARRAY else f"a value has the unknown type {kind}")


def _skip_array(reader: _Reader, depth: int) -> None:
    kind = reader.number(4)
    if kind in _WIDTHS:
        reader.skip(reader.number(8) * _WIDTHS[kind])
        return
    count = reader.count(_LEAST.get(kind, 1), "values")
    if kind == _STRING:  # a vocabulary: needs few calls
        for _ in range(count):
            reader.skip(reader.number(8))
        return
    for _ in range(count):
        _skip(reader, kind, depth)


def _tensor(reader: _Reader) -> int:
    """The end of the tensor's data, relative to the beginning of all data."""
    reader.text("a name")
    n_dimensions, elements = reader.number(4), 1
    if n_dimensions > _MOST_DIMENSIONS:
        raise _broken(f"a tensor has {n_dimensions:,} dimensions")
    for _ in range(n_dimensions):
        elements *= reader.number(8)
    block, width = TYPES.get(reader.number(4), (1, 0))  # of an unknown type, only the beginning is known
    return reader.number(8) + elements // block * width
