"""What one request asks of the engine: frozen values, already validated at the HTTP edge.

Text has become token ids, strings in logit_bias have become ids, `seed` has been drawn. The
defaults are those of the April 2024 document.
"""

from array import array
from dataclasses import dataclass, field
from typing import Any

DEFAULT_SAMPLERS = ("top_k", "tfs_z", "typical_p", "top_p", "min_p", "temperature")
KNOWN_SAMPLERS = (*DEFAULT_SAMPLERS, "dry", "xtc", "top_n_sigma")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen from the logits.

    `penalty_prompt` is None (the prompt is the first part of the penalty window) or the token ids
    that stand in for it. `logit_bias` pairs a token id with an addend; -inf forbids the token.
    `repeat_last_n`: 0 is off, -1 is the slot's context size. `grammar` is GBNF text, "" is none.
    """

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    tfs_z: float = 1.0
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.1
    repeat_last_n: int = 64
    penalize_nl: bool = True
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_prompt: tuple[int, ...] | None = None
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int = 0
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    n_probs: int = 0
    post_sampling_probs: bool = True
    min_keep: int = 0
    grammar: str = ""
    samplers: tuple[str, ...] = DEFAULT_SAMPLERS


@dataclass(frozen=True, slots=True)
class Media:
    """One image inside a prompt, occupying `n_pos` positions from entry `start`.

    `n_tokens` is the number of KV cells it takes. `payload` is the backend's own handle (already
    decoded and checked); the entries of the prompt's keys that it covers are negative numbers
    derived from a hash of its content, so that two images never share a cached prefix.
    """

    start: int
    n_pos: int
    n_tokens: int
    payload: Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt as one key a position: a token id, or a negative number for a piece of an image."""

    keys: "array[int]"
    media: tuple[Media, ...] = ()

    @staticmethod
    def of(tokens: "list[int] | tuple[int, ...]") -> "Prompt":
        """Build a prompt of token ids only."""
        return Prompt(array("q", tokens))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """One completion: limits, stopping, cache and slot wishes, sampling.

    `n_predict`: -1 unlimited, 0 evaluates the prompt only. `n_keep`: -1 keeps the whole prompt on
    a context shift. `n_discard`: 0 discards half. `lora` holds one scale per loaded adapter, None
    for the server's current scales. `max_predict_ms` bounds generation time, 0 is unlimited.
    """

    n_predict: int = -1
    n_keep: int = 0
    n_discard: int = 0
    stop: tuple[str, ...] = ()
    id_slot: int = -1
    cache_prompt: bool = True
    lora: tuple[float, ...] | None = None
    max_predict_ms: int = 0
    return_tokens: bool = False
    sampling: SamplingParams = field(default_factory=SamplingParams)
