"""The logits of one CPU module for a fixed text. Also makes models of other types for a test of the module."""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np

from ..errors import ModelLoadError
from ..interfaces.backend import Batch, FloatArray, ModelInfo, Status
from . import devices
from .backend import LlamaBackend
from .options import LoadOptions

PROMPT = 64  # tokens
DECODED = 10
_TEXT = (
    "The river had risen in the night, and by morning the lower field was a sheet of grey water with the tops of "
    "the fence posts standing out of it like the teeth of a comb. Anna counted 17 of them, wrote the number into "
    "her notebook, and walked on towards the mill, where her brother was waiting with two buckets and a rope."
)


@dataclass(frozen=True, slots=True)
class Trial:
    """Logits of shape (rows, n_vocab): of a prompt, then of each following token. An encoder gives embeddings."""

    rows: FloatArray
    followed: tuple[int, ...]  # the tokens that follow the prompt
    info: ModelInfo


def evaluate(module: Path | None, options: LoadOptions, follow: Sequence[int] | None) -> Trial:
    """Evaluate the text with one CPU module, then the tokens of `follow`, or else the most likely tokens.

    With `module` None, the library uses its own choice. Raises ModelLoadError. Call this once in a process,
    because one module cannot replace another.
    """
    devices.initialise(module)
    backend = LlamaBackend(options, lambda _: True)
    try:
        prompt = _tokens(backend)
        rows = [_decoded(backend, 0, prompt)]
        followed: list[int] = []
        for number in range(DECODED if backend.info.causal else 0):
            followed.append(int(rows[-1][-1].argmax()) if follow is None else follow[number])
            rows.append(_decoded(backend, len(prompt) + number, followed[-1:]))
        return Trial(np.concatenate(rows), tuple(followed), backend.info)
    finally:
        backend.close()


def _tokens(backend: LlamaBackend) -> list[int]:
    info = backend.info
    longest = min(PROMPT, info.n_ctx_train or PROMPT)
    if info.vocab_type == lib.LLAMA_VOCAB_TYPE_NONE:
        return [number % info.n_vocab for number in range(longest)]
    return (backend.vocab.tokenize(_TEXT, add_special=True, parse_special=False) * PROMPT)[:longest]


def _decoded(backend: LlamaBackend, position: int, tokens: list[int]) -> FloatArray:
    batch = Batch()
    for offset, token in enumerate(tokens):
        batch.add(token, position + offset, 0, True)
    embeds = not backend.info.causal
    status = backend.decode(batch, embeddings=embeds)
    if status is not Status.OK:
        raise ModelLoadError(f"{len(tokens)} tokens cannot be evaluated ({status.name})")
    if embeds:
        return backend.embeddings(0, range(len(tokens)))
    return np.stack([backend.logits(row) for row in range(len(tokens))])


def file_types() -> dict[str, int]:
    """The types to which a model can be quantized, and the library's number for a file of each type."""
    prefix = "LLAMA_FTYPE_MOSTLY_"
    numbers = {name.removeprefix(prefix): int(value) for name, value in vars(lib).items() if name.startswith(prefix)}
    return numbers | {name.removesuffix("_M"): value for name, value in numbers.items() if name.endswith("_K_M")}


def quantize(module: Path | None, model: str, kind: str, target: Path, threads: int) -> None:
    """Write the model with all matrices of one type, if their shapes allow it. Raises ModelLoadError."""
    devices.initialise(module)
    params = lib.llama_model_quantize_default_params()
    params.ftype = file_types()[kind]
    params.nthread = threads
    params.allow_requantize = True
    params.pure = True
    with devices.capture_log() as log:
        if lib.llama_model_quantize(os.fsencode(model), os.fsencode(target), ctypes.byref(params)) != 0:
            raise ModelLoadError(f"{model} cannot be quantized to {kind}: {log.last_error()}")
