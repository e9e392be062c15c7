"""llama.cpp's own samplers through ctypes: the reference that ours are tested against."""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt


class NativeArray:
    """Candidates in the library's layout."""

    def __init__(self, logits: npt.NDArray[np.float32]) -> None:
        size = len(logits)
        self._data = (lib.llama_token_data * size)()
        for token, logit in enumerate(logits):
            self._data[token] = lib.llama_token_data(token, float(logit), 0.0)
        self.array = lib.llama_token_data_array(self._data, size, -1, False)

    def apply(self, sampler: Any) -> "NativeArray":
        """Run a sampler over the candidates."""
        lib.llama_sampler_apply(sampler, ctypes.byref(self.array))
        return self

    def logits(self) -> dict[int, float]:
        """Finite logits by token id."""
        found: dict[int, float] = {}
        for i in range(self.array.size):
            item = self.array.data[i]
            if np.isfinite(item.logit):
                found[int(item.id)] = float(item.logit)
        return found

    def shares(self) -> dict[int, float]:
        """Softmax of the finite logits by token id."""
        logits = self.logits()
        highest = max(logits.values())
        weights = {token: float(np.exp(np.float64(logit) - highest)) for token, logit in logits.items()}
        total = sum(weights.values())
        return {token: weight / total for token, weight in weights.items()}

    @property
    def selected(self) -> int:
        """The chosen token's id."""
        return int(self.array.data[self.array.selected].id)


def applied(sampler: Any, logits: npt.NDArray[np.float32], accepted: Sequence[int] = ()) -> NativeArray:
    """Feed `accepted` to a fresh sampler, run it once and free it."""
    for token in accepted:
        lib.llama_sampler_accept(sampler, token)
    result = NativeArray(logits).apply(sampler)
    lib.llama_sampler_free(sampler)
    return result


def chain(samplers: Sequence[Any]) -> Any:
    """A native chain that owns its samplers."""
    result = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for sampler in samplers:
        lib.llama_sampler_chain_add(result, sampler)
    return result
