"""The settings of the scheduler."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes in tokens, `max_queue` in requests (0: no limit). Names are those of Config, which has the defaults."""

    n_slots: int
    slot_ctx: int  # tokens that a slot may hold; 0: as many as the model allows
    prompt_budget: int  # prompt tokens per step while a request generates
    cont_batching: bool
    context_shift: bool
    max_queue: int
    grp_attn_n: int
    grp_attn_w: int
    n_predict: int  # limit for all requests, -1: none
    unlimited_answers: bool  # False: no answer is longer than its slot
    lora_scales: tuple[float, ...]
    decode_timeout: float | None = None  # seconds; None: by measured rates, 0: off
