"""Samplers for a llama.cpp vocabulary: those of sampling/, with the tokens that the model must never generate.

The library's own samplers are not used. Its grammar ends the process at an unexpected token, and hangs on
ambiguous rules. The other samplers cost more through ctypes than in numpy.
"""

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib

from ..interfaces.backend import Vocab
from ..sampling.sampler import ChainSamplerFactory


class LlamaSamplerFactory(ChainSamplerFactory):
    """SamplerFactory of one loaded model."""

    def __init__(self, vocab: Vocab, handle: Any) -> None:
        """Read the suppressed tokens. `handle` is the library's vocabulary."""
        super().__init__(vocab, _suppressed(handle, vocab.n_vocab))


def _suppressed(handle: Any, n_vocab: int) -> list[int]:
    """The ids under tokenizer.ggml.suppress_tokens in the model's metadata."""
    count = ctypes.c_int32(0)
    tokens = lib.llama_vocab_get_suppress_tokens(handle, ctypes.byref(count))
    return [token for token in tokens[: count.value] if 0 <= token < n_vocab] if tokens else []
