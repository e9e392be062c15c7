"""llama.cpp's serialised sequence state: cut into ranges of tokens, and put together again.

The layout is that of llama_kv_cache::state_write. A state has one section for each cache. A model with a
sliding window has two caches. A section holds the position of each cell. Then it holds for each layer the rows
of K, then those of V. Without flash attention, V is transposed. Some values depend on the number of slots or on
the places of the cells. A cut drops them, and a join makes them again. So a part fits every layout.

The code trusts no input: it checks that all lengths add up. A state of another shape raises ValueError, for
example the state of a recurrent model or of an unknown kind of cache. There is no ctypes here, because this
runs on the store's threads.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..interfaces.backend import ByteArray

_EXTENSIONS = (0, 12, 8, 16)  # bytes that a cell may carry after its position (M-RoPE, n-gram hashes)
_WORD = struct.Struct("<I")
_DATA = struct.Struct("<II")  # transposed, layers
_ROW = struct.Struct("<iQ")  # type, bytes of a row
_COLUMN = struct.Struct("<iII")  # type, bytes of an element, elements
_PLANE = 12  # bytes of _ROW or _COLUMN
_SECTION = struct.Struct("<IIIII")  # header of a part's section: extension, rows, transposed, planes of K, planes of V
_MOST_LAYERS = 4096


@dataclass(slots=True)
class _Plane:
    """K or V of one layer: `lines` lines, each with `width` bytes for each cell. One line if not transposed."""

    head: bytes
    lines: int
    width: int
    data: ByteArray  # (lines, cells * width)

    def size(self, cells: int) -> int:
        return self.lines * self.width * cells

    def cells(self, start: int, end: int) -> ByteArray:
        part: ByteArray = self.data[:, start * self.width : end * self.width]
        return part


@dataclass(slots=True)
class _Section:
    """One cache. Its cells are sorted by position."""

    extension: int
    transposed: int
    n_k: int
    first: int  # position of the first cell
    count: int  # number of cells from there on with consecutive positions
    extras: ByteArray  # (cells, extension)
    planes: list[_Plane] = field(default_factory=list)

    @property
    def heads(self) -> bytes:
        return b"".join(plane.head for plane in self.planes)


class ParsedState:
    """A state that can be cut. It refers to the bytes from which it was made."""

    def __init__(self, sections: list[_Section]) -> None:
        self._sections = sections
        self.length = min(s.first + s.count for s in sections)  # number of keys that can be cut, from key 0 on

    def rows(self, start: int, end: int) -> int:
        """The number of keys at the end of a range for which every cache has its rows."""
        return min(max(0, end - max(start, s.first)) for s in self._sections)

    def cut(self, start: int, end: int) -> ByteArray:
        """One range, as a part that `join` takes."""
        spans = [(s, max(start, s.first)) for s in self._sections]
        head = [_WORD.pack(len(spans))]
        body: list[ByteArray] = []
        for s, begin in spans:
            rows = max(0, end - begin)
            head.append(_SECTION.pack(s.extension, rows, s.transposed, s.n_k, len(s.planes) - s.n_k) + s.heads)
            if rows:
                low, high = begin - s.first, end - s.first
                body.append(s.extras[low:high])
                body += [plane.cells(low, high) for plane in s.planes]
        return np.concatenate([np.frombuffer(b"".join(head), np.uint8), *(part.reshape(-1) for part in body)])


class LlamaStateCodec:
    """Cuts and joins the states of one context (protocol: interfaces/backend.py). Thread-safe."""

    def __init__(self, header: bytes, n_streams: int, window: int) -> None:
        self._header = header
        self._streams = n_streams
        self._window = window

    def parse(self, state: ByteArray) -> ParsedState:
        """Parse a state. Raises ValueError for a state of another shape."""
        for extension in _EXTENSIONS:
            sections = _Reader(state, len(self._header), extension).sections()
            if sections:
                return ParsedState(sections)
        raise ValueError("the state has a layout that cannot be cut")

    def join(self, parts: Sequence[tuple[ByteArray, int, int]]) -> ByteArray:
        """Join parts (part, its keys, number of keys to use) in order. Raises ValueError if they do not fit."""
        opened = [_open(part) for part, _, _ in parts]
        length = sum(used for _, _, used in parts)
        out: list[Any] = [self._header]
        for index, first in enumerate(opened[0]):
            pieces: list[tuple[_Section, int]] = []  # from the last to the first
            for sections, (_, count, used) in zip(reversed(opened), reversed(parts), strict=True):
                if len(sections) != len(opened[0]) or not _alike(sections[index], first):
                    raise ValueError("parts of different models")
                section = sections[index]
                take = max(0, used - (count - section.count))
                if take:
                    pieces.append((section, take))
                if take < used:
                    break
            self._join_section(out, pieces[::-1], first, length)
        return np.concatenate([np.frombuffer(x, np.uint8) if isinstance(x, bytes) else x.reshape(-1) for x in out])

    def _join_section(self, out: list[Any], pieces: list[tuple[_Section, int]], like: _Section, length: int) -> None:
        rows = sum(take for _, take in pieces)
        if rows < (min(length, self._window) if self._window else length):
            raise ValueError("rows are missing")
        out.append(_WORD.pack(self._streams) + _WORD.pack(rows))
        if rows:
            cells = np.zeros((rows, 12 + like.extension), np.uint8)
            cells[:, 0:4] = np.arange(length - rows, length, dtype="<i4").view(np.uint8).reshape(rows, 4)
            cells[:, 4] = 1  # number of sequences. The library does not read which one
            cells[:, 8 : 8 + like.extension] = np.concatenate([s.extras[:take] for s, take in pieces])
            out.append(cells)
            out.append(_DATA.pack(like.transposed, like.n_k))
            for number, plane in enumerate(like.planes):
                out.append(plane.head)
                out.append(np.concatenate([s.planes[number].cells(0, take) for s, take in pieces], axis=1))
        out.append(bytes(4 * (self._streams - 1)))  # the other streams have no cells


def _alike(a: _Section, b: _Section) -> bool:
    return (a.extension, a.transposed, a.n_k, a.heads) == (b.extension, b.transposed, b.n_k, b.heads)


def _plane(head: bytes, transposed: bool) -> _Plane:
    if transposed:
        _, width, lines = _COLUMN.unpack(head)
    else:
        (_, width), lines = _ROW.unpack(head), 1
    return _Plane(head, lines, width, np.empty((lines, 0), np.uint8))


def _open(part: ByteArray) -> list[_Section]:
    """Parse the sections of a part of `cut`."""
    try:
        return _open_unchecked(part)
    except struct.error as error:
        raise ValueError("not a part") from error


def _open_unchecked(part: ByteArray) -> list[_Section]:
    (number,) = _WORD.unpack_from(part.data)
    at = _WORD.size
    sections = []
    for _ in range(number):
        extension, rows, transposed, n_k, n_v = _SECTION.unpack_from(part.data, at)
        at += _SECTION.size
        section = _Section(extension, transposed, n_k, 0, rows, np.empty((0, extension), np.uint8))
        for index in range(n_k + n_v):
            section.planes.append(_plane(part[at : at + _PLANE].tobytes(), bool(transposed) and index >= n_k))
            at += _PLANE
        sections.append(section)
    for section in sections:
        if section.count:
            size = section.count * section.extension
            section.extras = part[at : at + size].reshape(section.count, section.extension)
            at += size
            for plane in section.planes:
                size = plane.size(section.count)
                plane.data = part[at : at + size].reshape(plane.lines, -1)
                at += size
    if at != len(part):
        raise ValueError("not a part")
    return sections


class _Reader:
    """Reads a state whose cells are assumed to carry `extension` more bytes."""

    def __init__(self, state: ByteArray, at: int, extension: int) -> None:
        self._state = state
        self._at = at
        self._extension = extension

    def sections(self) -> list[_Section]:
        """All sections. The list is empty if the assumption is wrong."""
        found = []
        try:
            while self._at < len(self._state):
                found.append(self._section())
        except (ValueError, struct.error):
            return []
        return found

    def _take(self, size: int) -> ByteArray:
        part = self._state[self._at : self._at + size]
        if size < 0 or len(part) != size:
            raise ValueError("too short")
        self._at += size
        return part

    def _word(self) -> int:
        return int(_WORD.unpack(self._take(_WORD.size).data)[0])

    def _section(self) -> _Section:
        streams = self._word()
        section = None
        for _ in range(streams):
            cells = self._word()
            if cells:
                if section is not None:
                    raise ValueError("a sequence in two streams")
                section = self._filled(cells)
        if section is None:
            raise ValueError("empty")
        return section

    def _filled(self, cells: int) -> _Section:
        meta = self._take(cells * (12 + self._extension)).reshape(cells, 12 + self._extension)
        positions = np.ascontiguousarray(meta[:, 0:4]).view("<i4").reshape(-1)
        if (np.ascontiguousarray(meta[:, 4:8]).view("<u4") != 1).any():
            raise ValueError("not the cells of one sequence")
        transposed, layers = _DATA.unpack(self._take(_DATA.size).data)
        if transposed > 1 or layers > _MOST_LAYERS:
            raise ValueError("not a cache")
        order = np.argsort(positions, kind="stable")
        moved = bool((order != np.arange(cells)).any())
        positions = positions[order]
        section = _Section(
            extension=self._extension,
            transposed=transposed,
            n_k=layers,
            first=int(positions[0]),
            count=_run(positions),
            extras=meta[order, 8 : 8 + self._extension],
        )
        n_v = layers if self._at < len(self._state) else 0  # some models have no V
        for index in range(layers + n_v):
            plane = _plane(self._take(_PLANE).tobytes(), bool(transposed) and index >= layers)
            plane.data = self._take(plane.size(cells)).reshape(plane.lines, -1)
            if moved:
                by_cell = plane.data.reshape(plane.lines, cells, plane.width)
                plane.data = by_cell[:, order].reshape(plane.lines, -1)
            section.planes.append(plane)
        return section


def _run(positions: "npt.NDArray[np.int32]") -> int:
    """The number of consecutive positions from the first one on. Two cells of an image may share a position."""
    steps = np.diff(positions) != 1
    return int(steps.argmax()) + 1 if steps.any() else len(positions)
