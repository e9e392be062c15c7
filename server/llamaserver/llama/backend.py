"""The Backend over llama.cpp: model, context, decode, memory and state.

Only this package imports llama_cpp. A failed assertion of the library ends the process, so this module checks
all arguments. The library's callbacks run no Python during a decode. Only the engine thread calls a backend.
Any thread may call `abort` and use the vocabulary.
"""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from ..errors import EngineFailure, ModelLoadError
from ..files import Bytes
from ..interfaces.backend import (
    SCORED_ROWS,
    Batch,
    ByteArray,
    FloatArray,
    MediaTokenizer,
    ModelInfo,
    SamplerFactory,
    StateCodec,
    Status,
)
from ..interfaces.params import Media
from . import devices, placement, warmup
from .description import describe
from .media import MediaProjector, ProjectorOptions
from .memory import LlamaMemory
from .options import POOLING, LoadOptions
from .sampling import LlamaSamplerFactory
from .spin import SpinGovernor
from .vocab import LlamaVocab

CACHE_TYPES = {
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, missing from the binding
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q4_0": lib.GGML_TYPE_Q4_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "iq4_nl": lib.GGML_TYPE_IQ4_NL,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
}
_FLASH = {"auto": -1, "off": 0, "on": 1}
_ROPE = {"": -1, "none": 0, "linear": 1, "yarn": 2}
_NUMA = {"": 0, "distribute": 1, "isolate": 2, "numactl": 3}
_MOST_VIEWS = 4096  # views of output rows that are kept. A larger number means that the buffer has moved often

# Short calls keep the GIL. Releasing it costs more than the call, and taking it again may wait.
_held = ctypes.PyDLL(lib._lib._name)
_logits_ith = _held.llama_get_logits_ith
_logits_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_logits_ith.restype = ctypes.c_void_p
_embeddings_ith = _held.llama_get_embeddings_ith
_embeddings_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_embeddings_ith.restype = ctypes.c_void_p
_embeddings_seq = _held.llama_get_embeddings_seq
_embeddings_seq.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_embeddings_seq.restype = ctypes.c_void_p


class LlamaBackend:
    """One model and one context (protocol: interfaces/backend.py)."""

    info: ModelInfo
    vocab: LlamaVocab
    media: MediaTokenizer | None
    make_sampler: SamplerFactory
    codec: StateCodec | None

    def __init__(self, options: LoadOptions, progress: Callable[[float], bool]) -> None:
        """Load everything. Raises ModelLoadError with a reason that a person can act on."""
        self._abort_flag = ctypes.create_string_buffer(2)
        self._adapters: list[Any] = []
        self._lora: tuple[float, ...] = ()
        self._embeddings_on = False
        self._projector: MediaProjector | None = None
        self._governor: SpinGovernor | None = None
        self._views: dict[int, FloatArray] = {}
        self._context = None
        self._model: Any = None
        self._options = options
        try:
            with devices.capture_log() as log:
                self._load(options, progress, log)
        except ModelLoadError:
            self.close()
            raise

    def _load(self, options: LoadOptions, progress: Callable[[float], bool], log: "devices.LogCapture") -> None:
        if options.numa:
            lib.llama_numa_init(_NUMA[options.numa])
        params, self._placed = placement.model_parameters(options)
        self._model = _load_model(options.model, params, progress, log)
        if lib.llama_model_has_encoder(self._model) and lib.llama_model_has_decoder(self._model):
            text = f"cannot serve {options.model}: models with encoder and decoder are not supported"
            raise ModelLoadError(text, options.model)
        self.vocab = LlamaVocab(lib.llama_model_get_vocab(self._model))
        self._context = _make_context(self._model, options, self._abort_flag, log)
        self._memory = LlamaMemory(self._context, unified=options.kv_unified or options.n_seq_max == 1)
        self._adapters = [self._load_adapter(path, log) for path, _ in options.lora]
        self.set_lora(tuple(scale for _, scale in options.lora))
        if options.mmproj:
            self._projector = self._load_projector(options, log)
        self.media = self._projector
        self.make_sampler = LlamaSamplerFactory(self.vocab, lib.llama_model_get_vocab(self._model))
        modalities = self._projector.modalities if self._projector else frozenset[str]()
        self.info = describe(options, self._model, self._context, memory=self._memory, log=log, modalities=modalities)
        self.codec = self._memory.codec(self.info)
        self._rows = _Rows(self.info.n_batch)
        self._governor = SpinGovernor(options.threads)
        self._governor.start()

    def _load_adapter(self, path: str, log: "devices.LogCapture") -> Any:
        adapter = lib.llama_adapter_lora_init(self._model, path.encode())
        if not adapter:
            raise ModelLoadError(f"cannot load LoRA adapter {path}: {log.last_error()}", path)
        return adapter

    def _load_projector(self, options: LoadOptions, log: "devices.LogCapture") -> MediaProjector:
        wanted = ProjectorOptions(
            path=options.mmproj,
            max_pixels=options.max_image_pixels,
            use_gpu=options.n_gpu_layers != 0 and options.device != ("none",),
            threads=options.threads_batch,
            n_batch=lib.llama_n_batch(self._context),
            n_ubatch=lib.llama_n_ubatch(self._context),
            abort_flag=self._abort_flag,
        )
        return MediaProjector(wanted, self._model, self._context, self.vocab, log)

    def warm_up(self) -> None:
        """Evaluate the kinds of input that requests bring. The cache is empty before and after.

        Raises ModelLoadError when an evaluation fails or a number is not finite. The backend is closed then.
        """
        try:
            warmup.warm_up(self, self._context, self._options)
        except ModelLoadError:
            self.close()
            raise

    # ---- evaluation

    def decode(self, batch: Batch, *, embeddings: bool = False) -> Status:
        """Evaluate up to n_batch rows. After ABORTED, some whole micro-batches may have been evaluated."""
        self._set_embeddings(embeddings)
        code = lib.llama_decode(self._context, self._rows.fill(batch))
        if code == 0:
            lib.llama_synchronize(self._context)
            return Status.OK
        return Status(code) if code in (1, 2, -1) else Status.FATAL

    def _set_embeddings(self, on: bool) -> None:
        if on != self._embeddings_on:
            lib.llama_set_embeddings(self._context, on)
            self._embeddings_on = on

    def decode_media(self, media: Media, position: int, seq: int) -> Status:
        """Evaluate one image. ABORTED and NO_ROOM leave no part of it in the cache, if the memory can drop a part."""
        if self._projector is None:
            raise EngineFailure("an image reached a model without a projector")
        self._set_embeddings(False)
        status = self._projector.decode(media, position, seq)
        if status is not Status.OK:
            self._memory.seq_rm(seq, position)
        return status

    def logits(self, row: int) -> FloatArray:
        """A view of one row's logits. It is valid until the next decode."""
        return self._view(_logits_ith(self._context, row), self.info.n_vocab)

    def embeddings(self, seq: int, rows: Sequence[int]) -> FloatArray:
        """Copies of the pooled vector of `seq`. Without pooling, copies of the vector of each row."""
        if self.info.pooling == "none":
            addresses = [_embeddings_ith(self._context, row) for row in rows]
            width = self.info.n_embd
        else:
            addresses = [_embeddings_seq(self._context, seq)]
            width = lib.llama_model_n_cls_out(self._model) if self.info.pooling == "rank" else self.info.n_embd
        return np.stack([_floats(address, width).copy() for address in addresses])

    def _view(self, address: int | None, width: int) -> FloatArray:
        if address is None:
            raise EngineFailure("the library has no output for this row")
        view = self._views.get(address)
        if view is None:
            if len(self._views) > _MOST_VIEWS:
                self._views.clear()
            view = self._views[address] = _floats(address, width)
        return view

    def abort(self, on: bool) -> None:
        """Set or clear the byte that the native abort callback reads. Any thread."""
        self._abort_flag[0] = b"\1" if on else b"\0"

    # ---- memory and states

    def seq_rm(self, seq: int, start: int, end: int = -1) -> bool:
        """Drop positions. False if the memory cannot drop a part."""
        return self._memory.seq_rm(seq, start, end)

    def seq_cp(self, source: int, target: int, end: int) -> None:
        """Copy the first `end` positions."""
        self._memory.seq_cp(source, target, end)

    def seq_add(self, seq: int, start: int, end: int, delta: int) -> None:
        """Shift positions. Requires info.can_shift."""
        self._memory.seq_add(seq, start, end, delta)

    def seq_div(self, seq: int, start: int, end: int, divisor: int) -> None:
        """Divide positions. Requires info.can_shift."""
        self._memory.seq_div(seq, start, end, divisor)

    def pos_max(self, seq: int) -> int:
        """Largest position, -1 if the sequence is empty."""
        return self._memory.pos_max(seq)

    def pos_min(self, seq: int) -> int:
        """The smallest position from which on no cell is missing, -1 if the sequence is empty."""
        return self._memory.pos_min(seq)

    def state_get(self, seq: int) -> Bytes:
        """Serialise one sequence, in the format of the library's slot files."""
        return self._memory.state_get(seq)

    def state_set(self, seq: int, data: Bytes) -> bool:
        """Restore a state of state_get. False if it does not fit."""
        return self._memory.state_set(seq, data)

    def state_export(self, seq: int) -> ByteArray:
        """Serialise one sequence, in the form that `codec` and `state_import` take."""
        return self._memory.state_export(seq)

    def state_import(self, seq: int, data: ByteArray) -> bool:
        """Restore a state of state_export or of `codec.join`. False if it does not fit."""
        return self._memory.state_import(seq, data)

    # ---- adapters and the end

    def set_lora(self, scales: tuple[float, ...]) -> None:
        """Set the adapter scales. Does nothing if they are the current ones."""
        if scales == self._lora:
            return
        used = [(a, s) for a, s in zip(self._adapters, scales, strict=True) if s != 0.0]
        handles = (lib.llama_adapter_lora_p_ctypes * max(1, len(used)))(*[a for a, _ in used])
        numbers = (ctypes.c_float * max(1, len(used)))(*[s for _, s in used])
        if lib.llama_set_adapters_lora(self._context, handles, len(used), numbers) != 0:
            raise EngineFailure("the library refused the LoRA scales")
        self._lora = scales

    def close(self) -> None:
        """Free the context. A second call does nothing.

        The model and the projector stay until the process ends, because a tokenizing thread may still use them.
        """
        if self._governor is not None:
            self._governor.stop()
        if self._context:
            lib.llama_free(self._context)
            self._context = None


class _Rows:
    """The library's batch over numpy arrays, which are filled by slices."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._seqs = np.zeros(capacity, np.int32)
        self._counts = np.ones(capacity, np.int32)
        self._wants = np.zeros(capacity, np.int8)
        step = self._seqs.itemsize
        base = self._seqs.ctypes.data
        self._pointers = np.arange(base, base + step * capacity, step, dtype=np.uintp)
        number, flag = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        self._batch = lib.llama_batch(
            0,
            ctypes.cast(self._tokens.ctypes.data, number),
            None,
            ctypes.cast(self._positions.ctypes.data, number),
            ctypes.cast(self._counts.ctypes.data, number),
            ctypes.cast(self._pointers.ctypes.data, ctypes.POINTER(number)),
            ctypes.cast(self._wants.ctypes.data, flag),
        )

    def fill(self, batch: Batch) -> Any:
        """Copy the rows into the arrays. The result is valid until the next call."""
        n = len(batch)
        self._tokens[:n] = batch.tokens
        self._positions[:n] = batch.positions
        self._seqs[:n] = batch.seqs
        self._wants[:n] = batch.wants
        self._batch.n_tokens = n
        return self._batch


def _load_model(path: str, params: Any, progress: Callable[[float], bool], log: "devices.LogCapture") -> Any:
    if Path(path).is_dir():
        raise ModelLoadError(f"cannot load model {path}: it is a folder")
    callback = lib.llama_progress_callback(lambda value, _: progress(value))
    params.progress_callback = callback
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise ModelLoadError(f"cannot load model {path}: {log.last_error()}", path)
    return model


def _make_context(model: Any, options: LoadOptions, abort_flag: Any, log: "devices.LogCapture") -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = options.ctx_size
    params.n_batch = options.batch_size
    params.n_ubatch = options.ubatch_size
    params.n_seq_max = options.n_seq_max
    # Embedding without pooling needs the output of every row. Otherwise a slot needs one row a step, or some rows of
    # one prompt. So the logits buffer has n_seq_max x n_vocab floats instead of n_batch x n_vocab.
    params.n_outputs_max = 0 if options.embedding else max(options.n_seq_max, SCORED_ROWS)
    params.n_threads = options.threads
    params.n_threads_batch = options.threads_batch
    params.flash_attn_type = _FLASH[options.flash_attn]
    params.kv_unified = options.kv_unified
    params.offload_kqv = options.kv_offload
    params.type_k = CACHE_TYPES[options.cache_type_k]
    params.type_v = CACHE_TYPES[options.cache_type_v]
    params.rope_scaling_type = _ROPE[options.rope_scaling]
    params.rope_freq_base = options.rope_freq_base
    params.rope_freq_scale = options.rope_freq_scale
    params.yarn_orig_ctx = options.yarn_orig_ctx
    for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        setattr(params, name, getattr(options, name))
    params.pooling_type = POOLING[options.pooling]
    params.embeddings = False
    params.no_perf = True
    # strlen() of a string of at most one byte is 0 or 1. So strlen is an abort callback that runs no Python.
    strlen = ctypes.cast(ctypes.CDLL(None).strlen, lib.ggml_abort_callback)
    params.abort_callback = strlen
    params.abort_callback_data = ctypes.cast(abort_flag, ctypes.c_void_p)
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise ModelLoadError(f"cannot create a context of {options.ctx_size} tokens: {log.last_error()}")
    return context


def _floats(address: int | None, width: int) -> FloatArray:
    if address is None:
        raise EngineFailure("the library has no output for this sequence")
    return np.ctypeslib.as_array((ctypes.c_float * width).from_address(address))
