"""The warm-up of a loaded model: its data, and the message after a failure."""

import io
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from PIL import Image

from ..errors import ModelLoadError, ServerError
from ..interfaces.backend import Backend, Batch
from . import devices, warmup_steps
from .options import LoadOptions


def warm_up(backend: Backend, context: Any, options: LoadOptions) -> None:
    """Evaluate the kinds of input that requests bring. The cache is empty before and after. Raises ModelLoadError."""
    scales = tuple(scale for _, scale in options.lora)
    served = warmup_steps.Served(
        tokens=_tokens(backend),
        slots=options.n_slots,
        embeds=options.embedding,
        shifts=options.shifts,
        image=_picture() if backend.info.modalities else b"",
    )
    with devices.capture_log() as log:
        try:
            backend.set_lora(tuple(scale or 1.0 for scale in scales))  # a request may switch any adapter on
            if backend.info.causal:
                _touch_experts(backend, context)
            warmup_steps.WarmUp(backend, served).run()
            backend.set_lora(scales)
        except (ModelLoadError, ServerError) as error:
            raise ModelLoadError(_text(str(error), log.last_error(""), backend, options)) from error


def _tokens(backend: Backend) -> list[int]:
    if backend.info.vocab_type == lib.LLAMA_VOCAB_TYPE_NONE:
        return [0]  # the library would end the process for a text
    return backend.vocab.tokenize(warmup_steps.TEXT, add_special=True, parse_special=False) or [0]


def _picture(side: int = 64) -> bytes:
    """A gradient as PNG."""
    ramp = np.tile(np.linspace(0, 255, side, dtype=np.uint8), (side, 1))
    out = io.BytesIO()
    Image.fromarray(np.stack([ramp, ramp.T, np.full_like(ramp, 127)], axis=-1)).save(out, "PNG")
    return out.getvalue()


def _touch_experts(backend: Backend, context: Any) -> None:
    """Evaluate one row through all experts of a mixture. So no request has to wait until one is read from the disk."""
    batch = Batch()
    batch.add(max(backend.vocab.bos, 0), 0, 0, True)
    lib.llama_set_warmup(context, True)
    backend.decode(batch)
    lib.llama_set_warmup(context, False)
    backend.seq_rm(0, 0)


def _text(problem: str, said: str, backend: Backend, options: LoadOptions) -> str:
    device, module = backend.info.device, devices.cpu_module()
    return (
        f"the warm-up has failed: {problem}{f'; llama.cpp says: {said}' if said else ''}. It ran on "
        f"{f'{device} ({module})' if module else device} with flash attention {backend.info.flash_attn or 'off'} and "
        f"the KV types {options.cache_type_k} and {options.cache_type_v}. "
        f"`llamaserver selftest -m {options.model}` tells whether the file or the machine is at fault"
    )
