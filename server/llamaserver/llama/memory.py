"""The memory of a context: the cells of its sequences, and their serialised state."""

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from ..files import Bytes
from ..interfaces.backend import ByteArray, ModelInfo, StateCodec
from .state import LlamaStateCodec

_HEADER = 8  # bytes before a sequence's state: the library's private magic number and the sequence's id


class LlamaMemory:
    """The memory of one context. An encoder has none, and all operations do nothing then."""

    def __init__(self, context: Any, *, unified: bool) -> None:
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._unified = unified
        self._header = self.state_export(0)[:_HEADER].tobytes()  # the library expects these bytes before a state

    @property
    def exists(self) -> bool:
        """Whether the context has a memory."""
        return bool(self._memory)

    @property
    def can_shift(self) -> bool:
        """Whether this kind of memory allows the library to shift positions."""
        return self.exists and bool(lib.llama_memory_can_shift(self._memory))

    def codec(self, info: ModelInfo) -> StateCodec | None:
        """The codec that cuts and joins states. None if a state cannot be cut."""
        if not self.exists or not info.partial_reuse:
            return None
        return LlamaStateCodec(self._header, 1 if info.unified else info.n_seq_max, info.n_swa)

    def seq_rm(self, seq: int, start: int, end: int = -1) -> bool:
        """Drop positions. False if the memory cannot drop a part."""
        return not self._memory or bool(lib.llama_memory_seq_rm(self._memory, seq, start, end))

    def seq_cp(self, source: int, target: int, end: int) -> None:
        """Copy the first `end` positions. A split cache copies the whole sequence, and then drops the rest."""
        if self._unified:
            lib.llama_memory_seq_cp(self._memory, source, target, 0, end)
        else:
            lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            lib.llama_memory_seq_rm(self._memory, target, end, -1)

    def seq_add(self, seq: int, start: int, end: int, delta: int) -> None:
        """Shift positions. Requires info.can_shift."""
        lib.llama_memory_seq_add(self._memory, seq, start, end, delta)

    def seq_div(self, seq: int, start: int, end: int, divisor: int) -> None:
        """Divide positions. Requires info.can_shift."""
        lib.llama_memory_seq_div(self._memory, seq, start, end, divisor)

    def pos_max(self, seq: int) -> int:
        """Largest position, -1 if the sequence is empty."""
        return int(lib.llama_memory_seq_pos_max(self._memory, seq)) if self._memory else -1

    def pos_min(self, seq: int) -> int:
        """The smallest position from which on no cell is missing, -1 if the sequence is empty."""
        return int(lib.llama_memory_seq_pos_min(self._memory, seq)) if self._memory else -1

    def state_get(self, seq: int) -> Bytes:
        """Serialise one sequence, in the format of the library's slot files: without the stream header."""
        return self.state_export(seq)[_HEADER:].data

    def state_set(self, seq: int, data: Bytes) -> bool:
        """Restore one sequence. If the state does not fit, the sequence is empty."""
        return self.state_import(seq, np.frombuffer(b"".join([self._header, data]), np.uint8))

    def state_export(self, seq: int) -> ByteArray:
        """Serialise one sequence with the library's own header, in the form that the codec and `state_import` take."""
        size = lib.llama_state_seq_get_size(self._context, seq)
        buffer = np.empty(size, np.uint8)
        written = lib.llama_state_seq_get_data(self._context, _pointer(buffer), size, seq)
        return buffer[:written]

    def state_import(self, seq: int, data: ByteArray) -> bool:
        """Restore a state of state_export or of the codec. If it does not fit, the sequence is empty."""
        read = lib.llama_state_seq_set_data(self._context, _pointer(data), len(data), seq)
        if read == 0:
            self.seq_rm(seq, 0)
        return bool(read)


def _pointer(data: ByteArray) -> Any:
    return ctypes.cast(data.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
