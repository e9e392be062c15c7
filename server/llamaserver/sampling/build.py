"""Makes the sampling steps of a request from its parameters. Checks the bounds of the parameters."""

import math
from collections.abc import Callable

from ..errors import InvalidRequest
from ..interfaces.backend import Vocab
from ..interfaces.params import KNOWN_SAMPLERS, SAMPLING_PARAMETERS, SamplingParams
from . import chain
from .chain import Step
from .dry import Dry
from .infill import Infill

_LEAST_WINDOW = 4096  # a request may ask for a window of this size, whatever the context is
_MOST_STEPS = 64  # samplers of one request

_FINITE = tuple(item.attribute for item in SAMPLING_PARAMETERS if item.kind is float)


def check_finite(params: SamplingParams) -> None:
    """Raise InvalidRequest for numbers that no formula accepts."""
    for name in _FINITE:
        if not math.isfinite(getattr(params, name)):
            raise InvalidRequest(f"{name} must be a finite number", field=name)
    if params.repeat_penalty <= 0:
        raise InvalidRequest("repeat_penalty must be greater than 0", field="repeat_penalty")
    if params.mirostat not in (0, 1, 2):
        raise InvalidRequest("mirostat must be 0, 1 or 2", field="mirostat")
    for _, value in params.logit_bias:
        if not value < math.inf:  # also catches NaN
            raise InvalidRequest("logit_bias must be finite or forbid the token", field="logit_bias")


def window(last_n: int, n_ctx: int) -> int:
    """The number of tokens to look back over. -1 is the context size, 0 is none."""
    return n_ctx if last_n < 0 else min(last_n, max(n_ctx, _LEAST_WINDOW))


def build_steps(params: SamplingParams, vocab: Vocab, dry: Dry | None) -> tuple[list[Step], int]:
    """The steps that have an effect, in order, and the number of the most likely tokens that they need at first.

    The second value is 0 if the steps need the whole vocabulary.
    """
    keep, n_vocab = max(1, params.min_keep), vocab.n_vocab
    k = min(max(params.top_k, keep), n_vocab) if params.top_k > 0 else n_vocab
    makers: dict[str, Callable[[], Step | None]] = {
        "top_k": lambda: chain.top_k(k) if k < n_vocab else None,
        "tfs_z": lambda: chain.tfs_z(params.tfs_z, keep) if params.tfs_z < 1 else None,
        "typical_p": lambda: chain.typical_p(params.typical_p, keep) if params.typical_p < 1 else None,
        "top_p": lambda: chain.top_p(params.top_p, keep) if params.top_p < 1 else None,
        "min_p": lambda: chain.min_p(params.min_p, keep) if params.min_p > 0 else None,
        "temperature": lambda: _temperature(params),
        "dry": lambda: dry,
        "xtc": lambda: _xtc(params, keep),
        "top_n_sigma": lambda: chain.top_n_sigma(params.top_n_sigma) if params.top_n_sigma > 0 else None,
        "infill": lambda: Infill(vocab, restricted=bool(params.grammar) or params.constraint is not None),
        "adaptive_p": lambda: None,  # chooses a token, so it comes last (parts.py)
    }
    if len(params.samplers) > _MOST_STEPS:
        raise InvalidRequest(f"at most {_MOST_STEPS} samplers", field="samplers")
    for name in params.samplers:
        if name not in makers:
            known = ", ".join(KNOWN_SAMPLERS)
            raise InvalidRequest(f"unknown sampler {name!r}; known are {known}", field="samplers")
    made = [(name, step) for name in params.samplers if (step := makers[name]()) is not None]
    enough = k if made and made[0][0] == "top_k" else 0
    return [step for _, step in made], enough


def _temperature(params: SamplingParams) -> Step | None:
    if params.dynatemp_range > 0:
        return chain.dynamic_temperature(params.temperature, params.dynatemp_range, params.dynatemp_exponent)
    return chain.temperature(params.temperature) if params.temperature != 1.0 else None


def _xtc(params: SamplingParams, keep: int) -> Step | None:
    if params.xtc_probability <= 0 or params.xtc_threshold > 0.5:
        return None
    return chain.xtc(params.xtc_probability, params.xtc_threshold, keep, params.seed)
