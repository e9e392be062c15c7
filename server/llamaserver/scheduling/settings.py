"""How the engine schedules."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes in tokens; `max_queue` in requests, 0 is unbounded."""

    n_slots: int = 1
    slot_ctx: int = 512  # tokens a slot may hold; 0: what the loaded model gives
    prompt_budget: int = 128  # prompt tokens a step while something generates
    cont_batching: bool = False
    context_shift: bool = True
    max_queue: int = 0
    grp_attn_n: int = 1
    grp_attn_w: int = 512
    n_predict: int = -1  # server-wide cap
    lora_scales: tuple[float, ...] = ()
