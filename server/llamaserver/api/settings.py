"""`generation_settings`: the options of a request as the server has read them."""

import math
from typing import Any

from ..interfaces.declare import Parameter
from ..interfaces.params import GENERATION_PARAMETERS, SAMPLING_PARAMETERS, GenerationParams


def generation_settings(params: GenerationParams, *, n_ctx: int, model: str, stream: bool) -> dict[str, Any]:
    """Every option of a request except the prompt, with n_ctx and model, as JSON."""
    sampling = params.sampling
    settings: dict[str, Any] = {"n_ctx": n_ctx, "model": model, "stream": stream}
    for name, attribute in _SAMPLING:
        settings[name] = getattr(sampling, attribute)
    for name, attribute in _GENERATION:
        settings[name] = getattr(params, attribute)
    # JSON has no infinity: false forbids a token, as in requests.
    biases = [[token, bias if math.isfinite(bias) else False] for token, bias in sampling.logit_bias]
    prompt = settings.pop("penalty_prompt")
    return settings | {
        "logit_bias": biases,
        "penalty_prompt_tokens": prompt or (),
        "use_penalty_prompt_tokens": prompt is not None,
    }


def _reported(declared: tuple[Parameter, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((item.names[0], item.attribute) for item in declared if item.reported)


_SAMPLING = _reported(SAMPLING_PARAMETERS)
_GENERATION = _reported(GENERATION_PARAMETERS)
