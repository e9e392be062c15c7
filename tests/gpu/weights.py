"""Random models of a real size and a real vocabulary, written in seconds: speed does not depend on what weights say.

Weights are runs of one pool of random blocks. The pool's length is a prime number of blocks, so no two
rows of a matrix are alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt

from tests.bench.tiny_model import copy_vocabulary, unlikely

Kind = Literal["Q4_0", "Q4_1", "Q8_0"]
Bytes = npt.NDArray[np.uint8]

_BLOCK = 32  # weights
_POOL = 524_287  # blocks; prime
_SEED = 11
# Bytes of a block's scale (and offset), bytes of its numbers, deviation of the numbers.
_LAYOUT: dict[Kind, tuple[int, int, float]] = {"Q4_0": (2, 16, 4.61), "Q4_1": (4, 16, 4.61), "Q8_0": (2, 32, 73.9)}


@dataclass(frozen=True, slots=True)
class Dimensions:
    """A dense decoder of the llama family."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    kind: Kind
    context: int = 131_072

    @property
    def kv_bytes(self) -> int:
        """Of one token, K and V in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * (self.width // self.heads)

    def matrices(self, layer: int) -> Iterator[tuple[str, int, int]]:
        """(name, rows, columns) of one layer."""
        at, kv = f"blk.{layer}", self.kv_heads * (self.width // self.heads)
        yield f"{at}.attn_q.weight", self.width, self.width
        yield f"{at}.attn_k.weight", kv, self.width
        yield f"{at}.attn_v.weight", kv, self.width
        yield f"{at}.attn_output.weight", self.width, self.width
        yield f"{at}.ffn_gate.weight", self.feed_forward, self.width
        yield f"{at}.ffn_up.weight", self.feed_forward, self.width
        yield f"{at}.ffn_down.weight", self.width, self.feed_forward


_HOLLOW = Dimensions("hollow", 0, 8192, 64, 8, 28_672, "Q4_0")


def ensure(folder: Path, dimensions: Dimensions, vocabulary: Path) -> Path:
    """Path of the model, made now if the folder has none."""
    path = folder / f"{dimensions.name}.gguf"
    if not path.exists():
        scratch = path.with_suffix(".part")
        _Writer(scratch, dimensions, vocabulary).write()
        scratch.rename(path)
    return path


def hollow(folder: Path, vocabulary: Path, least: int) -> Path:
    """A file of at least `least` bytes that takes next to no room on the disk: its weights are a hole."""
    path = folder / f"{_HOLLOW.name}.gguf"
    one = sum(rows * _row_bytes(_HOLLOW.kind, columns) for _, rows, columns in _HOLLOW.matrices(0))
    path.unlink(missing_ok=True)
    _Writer(path, replace(_HOLLOW, layers=-(-least // one)), vocabulary).write(empty=True)
    return path


def _row_bytes(kind: Kind, columns: int) -> int:
    scale, numbers, _ = _LAYOUT[kind]
    return columns // _BLOCK * (scale + numbers)


class _Writer:
    def __init__(self, path: Path, dimensions: Dimensions, vocabulary: Path) -> None:
        self._path = path
        self._dimensions = dimensions
        self._random = np.random.default_rng(_SEED)
        self._pools: dict[int, Bytes] = {}
        self._at = 0  # blocks of the pool taken so far
        self._gguf = gguf.GGUFWriter(path, "llama")
        self._describe()
        self._tokens = copy_vocabulary(self._gguf, vocabulary)

    def _describe(self) -> None:
        d, writer = self._dimensions, self._gguf
        writer.add_name(f"random {d.name}")
        writer.add_context_length(d.context)
        writer.add_embedding_length(d.width)
        writer.add_block_count(d.layers)
        writer.add_feed_forward_length(d.feed_forward)
        writer.add_head_count(d.heads)
        writer.add_head_count_kv(d.kv_heads)
        writer.add_rope_dimension_count(d.width // d.heads)
        writer.add_layer_norm_rms_eps(1e-5)

    def write(self, *, empty: bool = False) -> None:
        """The whole file; `empty` leaves a hole where the weights would be."""
        d, count = self._dimensions, len(self._tokens)
        self._announce("token_embd.weight", count, d.width)
        self._announce("output.weight", count, d.width)
        norms = ["output_norm.weight"]
        for layer in range(d.layers):
            for name, rows, columns in d.matrices(layer):
                self._announce(name, rows, columns)
            norms += [f"blk.{layer}.attn_norm.weight", f"blk.{layer}.ffn_norm.weight"]
        for name in norms:
            self._gguf.add_tensor_info(name, (d.width,), np.dtype(np.float32), 4 * d.width)
        self._gguf.write_header_to_file()
        self._gguf.write_kv_data_to_file()
        self._gguf.write_ti_data_to_file()
        if empty:
            self._leave_hole()
        else:
            self._fill(len(norms))
        self._gguf.close()

    def _announce(self, name: str, rows: int, columns: int) -> None:
        kind = self._dimensions.kind
        shape, size = (rows, _row_bytes(kind, columns)), rows * _row_bytes(kind, columns)
        self._gguf.add_tensor_info(name, shape, np.dtype(np.uint8), size, gguf.GGMLQuantizationType[kind])

    def _leave_hole(self) -> None:
        files: Any = self._gguf.fout
        sizes = [gguf.GGUFWriter.ggml_pad(t.nbytes, self._gguf.data_alignment) for t in self._gguf.tensors[0].values()]
        start = gguf.GGUFWriter.ggml_pad(files[0].tell(), self._gguf.data_alignment)
        files[0].truncate(start + sum(sizes))

    def _fill(self, norms: int) -> None:
        d = self._dimensions
        self._gguf.write_tensor_data(self._matrix(len(self._tokens), d.width))
        output = self._matrix(len(self._tokens), d.width)
        output[unlikely(self._tokens)] = 0
        self._gguf.write_tensor_data(output)
        for layer in range(d.layers):
            for _, rows, columns in d.matrices(layer):
                self._gguf.write_tensor_data(self._matrix(rows, columns))
        for _ in range(norms):
            self._gguf.write_tensor_data(np.ones(d.width, np.float32))

    def _matrix(self, rows: int, columns: int) -> Bytes:
        """The next blocks of the pool, from its beginning again when it ends."""
        pool, missing, runs = self._pool(columns), rows * columns // _BLOCK, []
        while missing:
            run = pool[self._at : self._at + missing]
            runs.append(run)
            missing -= len(run)
            self._at = (self._at + len(run)) % len(pool)
        return np.concatenate(runs).reshape(rows, -1)

    def _pool(self, columns: int) -> Bytes:
        """Blocks whose weights have the deviation 1 / sqrt(columns)."""
        if columns not in self._pools:
            kind = self._dimensions.kind
            scale, numbers, deviation = _LAYOUT[kind]
            blocks = self._random.integers(0, 256, (_POOL, scale + numbers), np.uint8)
            step = np.float16(columns**-0.5 / deviation)
            heads = [step, np.float16(-7.5) * step] if kind == "Q4_1" else [step]
            blocks[:, :scale] = np.frombuffer(np.array(heads, np.float16).tobytes(), np.uint8)
            self._pools[columns] = blocks
        return self._pools[columns]
