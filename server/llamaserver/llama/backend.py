"""The Backend over llama.cpp: model, context, decode, memory and state.

With its siblings `llama_*.py` the only place that imports llama_cpp. Guards of the library's
assertions live here: what reaches it has been checked, and its callbacks never run Python while
it decodes. Called by the engine thread alone, but for `abort` and the vocabulary.
"""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from ..errors import EngineFailure, ModelLoadError
from ..interfaces.backend import Batch, FloatArray, MediaTokenizer, ModelInfo, SamplerFactory, Status
from ..interfaces.params import Media
from . import devices, warmup
from .media import MediaProjector, ProjectorOptions
from .memory import LlamaMemory
from .options import LoadOptions
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
_BLOCK = 32  # numbers that a quantized cache type stores together
_FLASH = {"auto": -1, "off": 0, "on": 1}
_SPLIT = {"none": 0, "layer": 1, "row": 2}
_ROPE = {"": -1, "none": 0, "linear": 1, "yarn": 2}
_POOLING = {"": -1, "none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
_NUMA = {"": 0, "distribute": 1, "isolate": 2, "numactl": 3}

# Short calls keep the GIL: giving it up costs more than they do, and getting it back may wait.
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


class LlamaBackend(LlamaMemory):
    """One model and one context (protocol: interfaces/backend.py)."""

    vocab: LlamaVocab
    media: MediaTokenizer | None
    make_sampler: SamplerFactory

    def __init__(self, options: LoadOptions, progress: Callable[[float], bool]) -> None:
        """Load everything; raises ModelLoadError with a reason a person can act on."""
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
        self._model = _load_model(options, progress, log)
        if lib.llama_model_has_encoder(self._model) and lib.llama_model_has_decoder(self._model):
            text = f"cannot serve {options.model}: models with encoder and decoder are not supported"
            raise ModelLoadError(text, options.model)
        self.vocab = LlamaVocab(lib.llama_model_get_vocab(self._model))
        self._context = _make_context(self._model, options, self._abort_flag, log)
        self._memory = lib.llama_get_memory(self._context)
        self._adapters = [self._load_adapter(path, log) for path, _ in options.lora]
        self.set_lora(tuple(scale for _, scale in options.lora))
        if options.mmproj:
            self._projector = self._load_projector(options, log)
        self.media = self._projector
        self.make_sampler = LlamaSamplerFactory(self.vocab, lib.llama_model_get_vocab(self._model))
        self.info = self._describe(options, log)
        self._open_states()
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
            use_gpu=options.n_gpu_layers != 0,
            threads=options.threads_batch,
            n_batch=lib.llama_n_batch(self._context),
            n_ubatch=lib.llama_n_ubatch(self._context),
            abort_flag=self._abort_flag,
        )
        return MediaProjector(wanted, self._model, self._context, log)

    def _describe(self, options: LoadOptions, log: "devices.LogCapture") -> ModelInfo:
        model = self._model
        recurrent = bool(lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
        metadata = _metadata(model)
        template = lib.llama_model_chat_template(model, None)
        pooling = int(lib.llama_pooling_type(self._context))
        return ModelInfo(
            path=options.model,
            n_swa=lib.llama_model_n_swa(model),
            flash_attn=log.flash_attn if options.flash_attn == "auto" else options.flash_attn,
            state_version=lib.LLAMA_STATE_SEQ_VERSION,
            description=_text(lambda b, n: lib.llama_model_desc(model, b, n)),
            architecture=metadata.get("general.architecture", ""),
            n_vocab=self.vocab.n_vocab,
            n_ctx_train=lib.llama_model_n_ctx_train(model),
            n_embd=lib.llama_model_n_embd_out(model),
            n_params=lib.llama_model_n_params(model),
            size=lib.llama_model_size(model),
            vocab_type=lib.llama_vocab_type(lib.llama_model_get_vocab(model)),
            n_ctx=lib.llama_n_ctx(self._context),
            n_seq_max=lib.llama_n_seq_max(self._context),
            n_batch=lib.llama_n_batch(self._context),
            n_ubatch=lib.llama_n_ubatch(self._context),
            unified=options.kv_unified or options.n_seq_max == 1,
            can_shift=bool(self._memory and lib.llama_memory_can_shift(self._memory))
            and _turns(options.cache_type_k, _rope_size(model, metadata)),
            partial_reuse=not recurrent,
            causal=bool(self._memory)
            and metadata.get(f"{metadata.get('general.architecture')}.attention.causal") != "false",
            pooling=next((name for name, number in _POOLING.items() if number == pooling and name), "none"),
            chat_template=template.decode(errors="replace") if template else "",
            metadata=metadata,
            device=devices.accelerator() if log.layers_offloaded else "CPU",
            layers_total=log.layers_total or lib.llama_model_n_layer(model) + 1,
            layers_offloaded=log.layers_offloaded,
            n_lora=len(self._adapters),
            modalities=self._projector.modalities if self._projector else frozenset(),
            system_info=lib.llama_print_system_info().decode(),
            weights_in=tuple(dict.fromkeys(log.buffers)),
        )

    def warm_up(self) -> None:
        """Evaluate what requests will, before any comes. The cache is empty before and afterwards.

        Raises ModelLoadError when something cannot be evaluated or is not finite; the backend is closed then.
        """
        try:
            warmup.warm_up(self, self._context, self._options)
        except ModelLoadError:
            self.close()
            raise

    # ---- evaluation

    def decode(self, batch: Batch, *, embeddings: bool = False) -> Status:
        """Evaluate up to n_batch rows; ABORTED may have evaluated whole micro-batches."""
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
        """Evaluate one image; ABORTED and NO_ROOM leave nothing of it where a part can be dropped."""
        if self._projector is None:
            raise EngineFailure("an image reached a model without a projector")
        self._set_embeddings(False)
        status = self._projector.decode(media, position, seq)
        if status is not Status.OK:
            self.seq_rm(seq, position)
        return status

    def logits(self, row: int) -> FloatArray:
        """A view of one row's logits, valid until the next decode."""
        return self._view(_logits_ith(self._context, row), self.info.n_vocab)

    def embeddings(self, seq: int, rows: Sequence[int]) -> FloatArray:
        """Copies of the pooled vector of `seq`, or of each row's when nothing pools."""
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
            if len(self._views) > 4096:  # the output buffer was reallocated many times
                self._views.clear()
            view = self._views[address] = _floats(address, width)
        return view

    def abort(self, on: bool) -> None:
        """Raise or lower the byte that the native abort callback reads. Any thread."""
        self._abort_flag[0] = b"\1" if on else b"\0"

    # ---- adapters and the end

    def set_lora(self, scales: tuple[float, ...]) -> None:
        """Switch adapter scales; a no-op when they are the current ones."""
        if scales == self._lora:
            return
        used = [(a, s) for a, s in zip(self._adapters, scales, strict=True) if s != 0.0]
        handles = (lib.llama_adapter_lora_p_ctypes * max(1, len(used)))(*[a for a, _ in used])
        numbers = (ctypes.c_float * max(1, len(used)))(*[s for _, s in used])
        if lib.llama_set_adapters_lora(self._context, handles, len(used), numbers) != 0:
            raise EngineFailure("the library refused the LoRA scales")
        self._lora = scales

    def close(self) -> None:
        """Free the context; idempotent.

        Model and projector stay until the process ends: a tokenizing thread may be inside them.
        """
        if self._governor is not None:
            self._governor.stop()
        if self._context:
            lib.llama_free(self._context)
            self._context = None


class _Rows:
    """The library's batch, backed by numpy arrays that are filled by slices."""

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
        """Copy the rows in; the result is valid until the next call."""
        n = len(batch)
        self._tokens[:n] = batch.tokens
        self._positions[:n] = batch.positions
        self._seqs[:n] = batch.seqs
        self._wants[:n] = batch.wants
        self._batch.n_tokens = n
        return self._batch


def _load_model(options: LoadOptions, progress: Callable[[float], bool], log: "devices.LogCapture") -> Any:
    if Path(options.model).is_dir():
        raise ModelLoadError(f"cannot load model {options.model}: it is a folder")
    params = lib.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers
    params.main_gpu = options.main_gpu
    params.split_mode = _SPLIT[options.split_mode]
    params.load_mode = (lib.LLAMA_LOAD_MODE_MMAP if options.mmap else 0) + (2 if options.mlock else 0)
    splits = (ctypes.c_float * max(lib.llama_max_devices(), 1))(*options.tensor_split)
    if options.tensor_split:
        params.tensor_split = splits
    callback = lib.llama_progress_callback(lambda value, _: progress(value))
    params.progress_callback = callback
    model = lib.llama_model_load_from_file(options.model.encode(), params)
    if not model:
        raise ModelLoadError(f"cannot load model {options.model}: {log.last_error()}", options.model)
    return model


def _make_context(model: Any, options: LoadOptions, abort_flag: Any, log: "devices.LogCapture") -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = options.ctx_size
    params.n_batch = options.batch_size
    params.n_ubatch = options.ubatch_size
    params.n_seq_max = options.n_seq_max
    # Embedding without pooling wants every row; otherwise a slot wants one row a step, which
    # keeps the logits buffer at n_seq_max x n_vocab instead of n_batch x n_vocab floats.
    params.n_outputs_max = 0 if options.embedding else options.n_seq_max
    params.n_threads = options.threads
    params.n_threads_batch = options.threads_batch
    params.flash_attn_type = _FLASH[options.flash_attn]
    params.kv_unified = options.kv_unified
    params.type_k = CACHE_TYPES[options.cache_type_k]
    params.type_v = CACHE_TYPES[options.cache_type_v]
    params.rope_scaling_type = _ROPE[options.rope_scaling]
    params.rope_freq_base = options.rope_freq_base
    params.rope_freq_scale = options.rope_freq_scale
    params.yarn_orig_ctx = options.yarn_orig_ctx
    for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        setattr(params, name, getattr(options, name))
    params.pooling_type = _POOLING[options.pooling]
    params.embeddings = False
    params.no_perf = True
    # strlen() of a one-byte string is that byte's truth: an abort callback that runs no Python.
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


def _text(call: Callable[[Any, int], int]) -> str:
    buffer = ctypes.create_string_buffer(512)
    length = call(buffer, len(buffer))
    if length >= len(buffer):
        buffer = ctypes.create_string_buffer(length + 1)
        call(buffer, len(buffer))
    return buffer.value.decode(errors="replace")


def _turns(cache_type: str, rope_size: int) -> bool:
    """Whether the library can shift positions in a K of this type; it crashes where it cannot."""
    if cache_type == "bf16":
        return False
    return cache_type in ("f32", "f16") or rope_size % _BLOCK == 0


def _rope_size(model: Any, metadata: dict[str, str]) -> int:
    """How many numbers of each head's K carry the position."""
    architecture = metadata.get("general.architecture")
    head = lib.llama_model_n_embd(model) // max(lib.llama_model_n_head(model), 1)
    for name in ("rope.dimension_count", "attention.key_length"):
        if size := metadata.get(f"{architecture}.{name}"):
            return int(size)
    return int(head)


def _metadata(model: Any) -> dict[str, str]:
    def key(i: int) -> str:
        return _text(lambda b, n: lib.llama_model_meta_key_by_index(model, i, b, n))

    def value(i: int) -> str:
        return _text(lambda b, n: lib.llama_model_meta_val_str_by_index(model, i, b, n))

    return {key(i): value(i) for i in range(lib.llama_model_meta_count(model))}
