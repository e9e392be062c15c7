"""The memory of a context: its sequences' cells, and their serialised state."""

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from ..interfaces.backend import ByteArray, ModelInfo, StateCodec
from .state import LlamaStateCodec

_HEADER = 8  # bytes before a sequence's state: the library's private magic, and the sequence's id


class LlamaMemory:
    """The memory of one context; an encoder has none, and then nothing happens here."""

    def __init__(self, context: Any, *, unified: bool) -> None:
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._unified = unified
        self._header = self.state_export(0)[:_HEADER].tobytes()  # what the library wants before a state

    @property
    def exists(self) -> bool:
        """Whether the context has a memory."""
        return bool(self._memory)

    @property
    def can_shift(self) -> bool:
        """Whether the library can shift positions, as far as the kind of memory goes."""
        return self.exists and bool(lib.llama_memory_can_shift(self._memory))

    def codec(self, info: ModelInfo) -> StateCodec | None:
        """What cuts and joins states; None where a state can only be kept whole."""
        if not self.exists or not info.partial_reuse:
            return None
        return LlamaStateCodec(self._header, 1 if info.unified else info.n_seq_max, info.n_swa)

    def seq_rm(self, seq: int, start: int, end: int = -1) -> bool:
        """Drop positions; False when the memory cannot drop a part."""
        return not self._memory or bool(lib.llama_memory_seq_rm(self._memory, seq, start, end))

    def seq_cp(self, source: int, target: int, end: int) -> None:
        """Copy a prefix; a split cache can only copy all of it, the tail is then dropped."""
        if self._unified:
            lib.llama_memory_seq_cp(self._memory, source, target, 0, end)
        else:
            lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            lib.llama_memory_seq_rm(self._memory, target, end, -1)

    def seq_add(self, seq: int, start: int, end: int, delta: int) -> None:
        """Shift positions; only where info.can_shift."""
        lib.llama_memory_seq_add(self._memory, seq, start, end, delta)

    def seq_div(self, seq: int, start: int, end: int, divisor: int) -> None:
        """Divide positions; only where info.can_shift."""
        lib.llama_memory_seq_div(self._memory, seq, start, end, divisor)

    def pos_max(self, seq: int) -> int:
        """Largest position, -1 when empty."""
        return int(lib.llama_memory_seq_pos_max(self._memory, seq)) if self._memory else -1

    def pos_min(self, seq: int) -> int:
        """Smallest position from which on the sequence is whole, -1 when empty."""
        return int(lib.llama_memory_seq_pos_min(self._memory, seq)) if self._memory else -1

    def state_get(self, seq: int) -> bytes:
        """Serialise one sequence, as the library does in its slot files: without the stream header."""
        return self.state_export(seq)[_HEADER:].tobytes()

    def state_set(self, seq: int, data: bytes) -> bool:
        """Restore one sequence; a state that does not fit leaves it empty."""
        return self.state_import(seq, np.frombuffer(self._header + data, np.uint8))

    def state_export(self, seq: int) -> ByteArray:
        """Serialise one sequence with the library's own header, as the codec and `state_import` want it."""
        size = lib.llama_state_seq_get_size(self._context, seq)
        buffer = np.empty(size, np.uint8)
        written = lib.llama_state_seq_get_data(self._context, _pointer(buffer), size, seq)
        return buffer[:written]

    def state_import(self, seq: int, data: ByteArray) -> bool:
        """Restore what state_export gave or the codec joined; a state that does not fit leaves the sequence empty."""
        read = lib.llama_state_seq_set_data(self._context, _pointer(data), len(data), seq)
        if read == 0:
            self.seq_rm(seq, 0)
        return bool(read)


def _pointer(data: ByteArray) -> Any:
    return ctypes.cast(data.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
