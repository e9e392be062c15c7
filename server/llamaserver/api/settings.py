"""`generation_settings`: the options of a request as the server understood them."""

import math
from typing import Any

from ..interfaces.params import GenerationParams


def generation_settings(params: GenerationParams, *, n_ctx: int, model: str, stream: bool) -> dict[str, Any]:
    """Every option of the document excluding prompt, including n_ctx and model; for JSON."""
    s = params.sampling
    return {
        "n_ctx": n_ctx,
        "n_predict": params.n_predict,
        "model": model,
        "seed": s.seed,
        "temperature": s.temperature,
        "dynatemp_range": s.dynatemp_range,
        "dynatemp_exponent": s.dynatemp_exponent,
        "top_k": s.top_k,
        "top_p": s.top_p,
        "min_p": s.min_p,
        "tfs_z": s.tfs_z,
        "typical_p": s.typical_p,
        "top_n_sigma": s.top_n_sigma,
        "xtc_probability": s.xtc_probability,
        "xtc_threshold": s.xtc_threshold,
        "repeat_last_n": s.repeat_last_n,
        "repeat_penalty": s.repeat_penalty,
        "presence_penalty": s.presence_penalty,
        "frequency_penalty": s.frequency_penalty,
        "penalty_prompt_tokens": list(s.penalty_prompt or ()),
        "use_penalty_prompt_tokens": s.penalty_prompt is not None,
        "penalize_nl": s.penalize_nl,
        "dry_multiplier": s.dry_multiplier,
        "dry_base": s.dry_base,
        "dry_allowed_length": s.dry_allowed_length,
        "dry_penalty_last_n": s.dry_penalty_last_n,
        "dry_sequence_breakers": list(s.dry_sequence_breakers),
        "mirostat": s.mirostat,
        "mirostat_tau": s.mirostat_tau,
        "mirostat_eta": s.mirostat_eta,
        "stop": list(params.stop),
        "n_keep": params.n_keep,
        "n_discard": params.n_discard,
        "ignore_eos": s.ignore_eos,
        "stream": stream,
        "logit_bias": [[token, bias if math.isfinite(bias) else False] for token, bias in s.logit_bias],
        "n_probs": s.n_probs,
        "min_keep": s.min_keep,
        "grammar": s.grammar,
        "samplers": list(s.samplers),
        "cache_prompt": params.cache_prompt,
    }
