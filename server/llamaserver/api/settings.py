"""`generation_settings`: the options of a request as the server has read them."""

import math
from typing import Any

from ..interfaces.parameters import Parameter
from ..interfaces.params import GENERATION_PARAMETERS, SAMPLING_PARAMETERS, GenerationParams


def generation_settings(params: GenerationParams, *, n_ctx: int, model: str, stream: bool) -> dict[str, Any]:
    """Every option of a request except the prompt, with n_ctx and model, as JSON."""
    settings: dict[str, Any] = {"n_ctx": n_ctx, "model": model, "stream": stream}
    for item in _REPORTED_SAMPLING:
        settings |= _shown(item, getattr(params.sampling, item.attribute))
    for item in _REPORTED:
        settings |= _shown(item, getattr(params, item.attribute))
    return settings


def _shown(item: Parameter, value: Any) -> dict[str, Any]:
    if item.attribute == "penalty_prompt":
        return {"penalty_prompt_tokens": value or (), "use_penalty_prompt_tokens": value is not None}
    if item.attribute == "logit_bias":  # JSON has no infinity: as in requests, false forbids a token
        return {item.names[0]: [[token, bias if math.isfinite(bias) else False] for token, bias in value]}
    return {item.names[0]: value}


_REPORTED = tuple(item for item in GENERATION_PARAMETERS if item.reported)
_REPORTED_SAMPLING = tuple(item for item in SAMPLING_PARAMETERS if item.reported)
