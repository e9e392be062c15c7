"""The parameters of one request to the engine: frozen values, checked by the API.

The API has converted texts and strings in logit_bias to token ids, and has drawn `seed`. The defaults are those
of the April 2024 document.
"""

from array import array
from dataclasses import dataclass, field
from typing import Any

from .declare import Budget, parameter, parameters
from .grammar import Constraint
from .thinking import Thinking

DEFAULT_SAMPLERS = ("top_k", "tfs_z", "typical_p", "top_p", "min_p", "temperature")
KNOWN_SAMPLERS = (*DEFAULT_SAMPLERS, "dry", "xtc", "top_n_sigma", "infill", "adaptive_p")
MAX_PROBS = 1024

_CHARACTERS = Budget(1 << 16, "characters")
_VALUES = Budget(1 << 18, "values")
_TEXT = Budget(1 << 20, "characters")
_PENALTY_PROMPT = Budget(1 << 18, "characters or ids")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The choice of the next token from the logits. The API reads, reports and documents requests by this table.

    `penalty_prompt` holds token ids that the penalties use instead of the prompt. None stands for the prompt.
    `logit_bias` pairs a token id with an addend. An addend of -inf forbids the token. `repeat_last_n` 0 is off,
    and -1 is the slot's context size. `grammar` is GBNF text, "" is none. `constraint` restricts the answer in place
    of `grammar`, which is its Lark text then. They restrict what follows a thought, if `thinking` is set.
    """

    seed: int = parameter(
        0,
        "Seed of the random numbers. -1 and 4294967295 draw one. Other numbers of 32 bits are used as they are. "
        "Of all others, negative ones too, the upper and the lower half of their 64 bits are XORed.",
    )
    temperature: float = parameter(
        0.8, "Randomness of the choice. At 0 or below, the most likely token is chosen.", low=-1e3, high=1e3
    )
    dynatemp_range: float = parameter(
        0.0, "The temperature varies by this much up and down, with the entropy. 0 is off.", low=0.0, high=1e3
    )
    dynatemp_exponent: float = parameter(
        1.0, "How the entropy becomes the temperature within dynatemp_range.", low=-1e2, high=1e2
    )
    top_k: int = parameter(40, "Choose among this many most likely tokens. 0 or below is off.")
    top_p: float = parameter(
        0.95, "Choose among the most likely tokens that have this probability together. 1 is off.", low=0.0, high=1e3
    )
    min_p: float = parameter(
        0.05,
        "Smallest probability of a token, as a share of that of the most likely one. 0 is off.",
        low=0.0,
        high=1e3,
    )
    tfs_z: float = parameter(1.0, "Parameter z of tail-free sampling. 1 is off.", low=0.0, high=1e3)
    typical_p: float = parameter(
        1.0, "Parameter p of locally typical sampling. 1 is off.", "typical_p", "typ_p", low=0.0, high=1e3
    )
    top_n_sigma: float = parameter(
        -1.0,
        "Choose among tokens whose logits are within this many standard deviations of the best. 0 or below is off.",
    )
    xtc_probability: float = parameter(
        0.0, "Probability that XTC removes the most likely tokens. 0 is off.", low=0.0, high=1.0
    )
    xtc_threshold: float = parameter(
        0.1, "Tokens with at least this probability can be removed by XTC. Above 0.5 is off.", low=0.0, high=1.0
    )
    repeat_last_n: int = parameter(
        64, "Number of last tokens that the penalties look at. 0 is off, -1 is the size of the slot.", low=-1
    )
    repeat_penalty: float = parameter(
        1.1, "Penalty for tokens that are in the text already. 1 is off.", low=1e-3, high=1e3
    )
    presence_penalty: float = parameter(
        0.0, "Subtracted once from the logits of tokens that are in the text already.", low=-1e3, high=1e3
    )
    frequency_penalty: float = parameter(
        0.0, "Subtracted from the logits of tokens for each time that they are in the text already.", low=-1e3, high=1e3
    )
    penalty_prompt: tuple[int, ...] | None = parameter(
        None, "Text or token ids that the penalties use instead of the prompt.", budget=_PENALTY_PROMPT
    )
    penalize_nl: bool = parameter(True, "Whether the penalties include the newline token.")
    dry_multiplier: float = parameter(0.0, "Strength of the DRY penalty. 0 is off.", low=0.0, high=1e3)
    dry_base: float = parameter(1.75, "Base of the DRY penalty, which grows with the repetition.", low=0.0, high=1e3)
    dry_allowed_length: int = parameter(2, "Repetitions up to this many tokens get no DRY penalty.", low=0)
    dry_penalty_last_n: int = parameter(
        -1, "Number of last tokens that DRY looks at. 0 is off, -1 is the size of the slot.", low=-1
    )
    dry_sequence_breakers: tuple[str, ...] = parameter(
        ("\n", ":", '"', "*"), "Strings at which DRY begins anew.", budget=_CHARACTERS
    )
    mirostat: int = parameter(0, "Version of Mirostat sampling, 1 or 2. 0 is off.", low=0, high=2)
    mirostat_tau: float = parameter(5.0, "Target entropy of Mirostat.", low=0.0, high=1e3)
    mirostat_eta: float = parameter(0.1, "Learning rate of Mirostat.", low=0.0, high=1e3)
    adaptive_target: float = parameter(
        -1.0, "Probability that the sampler adaptive_p prefers. Below 0 is off.", low=-1e3, high=1.0
    )
    adaptive_decay: float = parameter(
        0.9, "How fast adaptive_p forgets earlier tokens: it looks at about 1 / (1 - decay).", low=0.0, high=0.99
    )
    ignore_eos: bool = parameter(False, "Never choose the end of the text.")
    logit_bias: tuple[tuple[int, float], ...] = parameter(
        (),
        "Numbers to add to the logits of tokens. False forbids a token. A string stands for all its tokens.",
        budget=_VALUES,
    )
    n_probs: int = parameter(
        0,
        "Return the probabilities of this many of the most likely tokens with each token.",
        low=0,
        high=MAX_PROBS,
        budget=Budget(1 << 16, "candidates for each token"),
    )
    post_sampling_probs: bool = parameter(
        True,
        "Whether n_probs returns the probabilities after the samplers. If false, those before them.",
        reported=False,
    )
    min_keep: int = parameter(0, "Smallest number of tokens that each sampler leaves to choose from.", low=0)
    grammar: str = parameter("", "GBNF grammar of the answer.", budget=_TEXT)
    constraint: Constraint | None = field(default=None, repr=False)
    thinking: Thinking | None = field(default=None, compare=False, repr=False)
    samplers: tuple[str, ...] = parameter(
        DEFAULT_SAMPLERS, "Names of the samplers in their order, or a string of one letter each.", budget=_VALUES
    )


@dataclass(frozen=True, slots=True)
class Media:
    """One image inside a prompt. It occupies `n_pos` positions from entry `start`.

    `n_tokens` is the number of KV cells that the image takes. `payload` is the backend's own handle of the
    decoded and checked image. The prompt's keys at these positions are negative numbers, derived from a hash of
    the image's content. So two different images never share a cached prefix.
    """

    start: int
    n_pos: int
    n_tokens: int
    payload: Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt as one key for each position: a token id, or a negative number for a piece of an image.

    The first `common` keys are the server's own system prompt.
    """

    keys: "array[int]"
    media: tuple[Media, ...] = ()
    common: int = 0

    @staticmethod
    def of(tokens: "list[int] | tuple[int, ...]") -> "Prompt":
        """Build a prompt of token ids only."""
        return Prompt(array("q", tokens))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """One completion: limits, stop strings, use of cache and slots, and sampling.

    `n_predict` -1 is unlimited, 0 evaluates only the prompt. `n_keep` -1 keeps the whole prompt on a context
    shift. `n_discard` 0 discards half. `lora` holds one scale for each loaded adapter. None stands for the
    server's current scales. After `max_predict_ms` milliseconds, an answer ends with its line; 0 is unlimited.
    """

    n_predict: int = parameter(
        -1,
        "Most tokens to generate. -1 is no limit, 0 evaluates the prompt only.",
        "n_predict",
        "max_tokens",
        "max_completion_tokens",
        low=-1,
    )
    n_keep: int = parameter(
        0, "Tokens at the start of the prompt that a context shift keeps. -1 is the whole prompt.", low=-1
    )
    n_indent: int = parameter(
        0,
        "Least indentation, in blanks, of all lines after the first. The answer ends before the first line with less.",
        low=0,
        reported=False,
    )
    n_discard: int = parameter(0, "Tokens that a context shift removes. 0 is half of them.", low=0)
    stop: tuple[str, ...] = parameter((), "Strings that end the answer. They are not part of it.", budget=_CHARACTERS)
    id_slot: int = parameter(-1, "Slot to run on. -1 is any.", "id_slot", "slot_id", low=-1, reported=False)
    cache_prompt: bool = parameter(True, "Reuse the KV cache of a common prefix.")
    cache_salt: str = parameter(
        "",
        "Reuse cached prompts of requests with the same text here only. At most 256 characters.",
        reported=False,
        budget=_CHARACTERS,
    )
    lora: tuple[float, ...] | None = parameter(
        None, "Scales of the LoRA adapters. Adapters that are not named are off.", reported=False, budget=_VALUES
    )
    max_predict_ms: int = parameter(
        0,
        "After so many milliseconds of generation, the answer ends with its line. 0 or below is no limit.",
        "t_max_predict_ms",
        low=-1,
        reported=False,
    )
    return_tokens: bool = parameter(False, "Return the token ids too.", reported=False)
    return_progress: bool = parameter(
        False, "Tell in a stream how far the evaluation of the prompt is: `prompt_progress`.", reported=False
    )
    timings_per_token: bool = parameter(False, "Tell the timings with each part of a stream.", reported=False)
    sampling: SamplingParams = field(default_factory=SamplingParams)


SAMPLING_PARAMETERS = parameters(SamplingParams)
GENERATION_PARAMETERS = parameters(GenerationParams)
