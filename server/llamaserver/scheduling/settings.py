"""The settings of the scheduler."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes in tokens. `max_queue` counts requests, 0 is unbounded."""

    n_slots: int = 1
    slot_ctx: int = 512  # tokens that a slot may hold, 0: as many as the model allows
    prompt_budget: int = 128  # prompt tokens per step while a request generates
    cont_batching: bool = False
    context_shift: bool = True
    max_queue: int = 0
    grp_attn_n: int = 1
    grp_attn_w: int = 512
    n_predict: int = -1  # limit for all requests, -1: none
    lora_scales: tuple[float, ...] = ()
