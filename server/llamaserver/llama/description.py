"""The facts about a loaded model and its context, read from llama.cpp once."""

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp.llama_cpp as lib

from ..interfaces.backend import ModelInfo
from . import devices
from .memory import LlamaMemory
from .options import POOLING, LoadOptions

_BLOCK = 32  # values that a quantized cache type stores together
_USUAL_TEXT = 512  # bytes


def describe(
    options: LoadOptions,
    model: Any,
    context: Any,
    *,
    memory: LlamaMemory,
    log: devices.LogCapture,
    modalities: frozenset[str],
) -> ModelInfo:
    """Read all facts. `log` holds the library's log messages from the load of the model."""
    recurrent = bool(lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
    vocabulary = lib.llama_model_get_vocab(model)
    metadata = _metadata(model) | {key: _shown(value) for key, value in options.override_kv}
    architecture = metadata.get("general.architecture", "")
    template = lib.llama_model_chat_template(model, None)
    return ModelInfo(
        path=options.model,
        n_swa=lib.llama_model_n_swa(model),
        flash_attn=log.flash_attn if options.flash_attn == "auto" else options.flash_attn,
        state_version=lib.LLAMA_STATE_SEQ_VERSION,
        description=_text(lambda buffer, size: lib.llama_model_desc(model, buffer, size)),
        architecture=architecture,
        n_vocab=int(lib.llama_vocab_n_tokens(vocabulary)),
        n_ctx_train=lib.llama_model_n_ctx_train(model),
        n_embd=lib.llama_model_n_embd_out(model),
        n_params=lib.llama_model_n_params(model),
        size=lib.llama_model_size(model),
        vocab_type=lib.llama_vocab_type(vocabulary),
        n_ctx=lib.llama_n_ctx(context),
        n_seq_max=lib.llama_n_seq_max(context),
        n_batch=lib.llama_n_batch(context),
        n_ubatch=lib.llama_n_ubatch(context),
        unified=options.kv_unified or options.n_seq_max == 1,
        can_shift=memory.can_shift and _shifts(options.cache_type_k, _rope_size(model, metadata)),
        partial_reuse=not recurrent,
        causal=memory.exists and metadata.get(f"{architecture}.attention.causal") != "false",
        pooling=_pooling(int(lib.llama_pooling_type(context))),
        chat_template=template.decode(errors="replace") if template else "",
        metadata=metadata,
        device=devices.accelerator(options.device) if log.layers_offloaded else "CPU",
        layers_total=log.layers_total or lib.llama_model_n_layer(model) + 1,
        layers_offloaded=log.layers_offloaded,
        n_lora=len(options.lora),
        modalities=modalities,
        file_type=_file_type(model),
        system_info=lib.llama_print_system_info().decode(),
        weights_in=tuple(dict.fromkeys(log.buffers)),
    )


def _file_type(model: Any) -> str:
    name = lib.llama_ftype_name(lib.llama_model_ftype(model))
    return name.decode() if name else ""


def _pooling(number: int) -> str:
    names = {value: name for name, value in POOLING.items() if name}
    return names.get(number, "none")


def _text(call: Callable[[Any, int], int]) -> str:
    """The text that a function of the library writes into a buffer."""
    buffer = ctypes.create_string_buffer(_USUAL_TEXT)
    length = call(buffer, len(buffer))
    if length >= len(buffer):
        buffer = ctypes.create_string_buffer(length + 1)
        call(buffer, len(buffer))
    return buffer.value.decode(errors="replace")


def _shifts(cache_type: str, rope_size: int) -> bool:
    """Whether the library can shift positions in a K cache of this type. A shift of other types crashes it."""
    if cache_type == "bf16":
        return False
    return cache_type in ("f32", "f16") or rope_size % _BLOCK == 0


def _rope_size(model: Any, metadata: dict[str, str]) -> int:
    """The number of values of each head's K that carry the position."""
    architecture = metadata.get("general.architecture")
    head = lib.llama_model_n_embd(model) // max(lib.llama_model_n_head(model), 1)
    for name in ("rope.dimension_count", "attention.key_length"):
        if size := metadata.get(f"{architecture}.{name}"):
            return int(size)
    return int(head)


def _shown(value: int | float | bool | str) -> str:
    """A value as the library writes those of the file."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metadata(model: Any) -> dict[str, str]:
    def key(i: int) -> str:
        return _text(lambda buffer, size: lib.llama_model_meta_key_by_index(model, i, buffer, size))

    def value(i: int) -> str:
        return _text(lambda buffer, size: lib.llama_model_meta_val_str_by_index(model, i, buffer, size))

    return {key(i): value(i) for i in range(lib.llama_model_meta_count(model))}
