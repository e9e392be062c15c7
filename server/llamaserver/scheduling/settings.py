"""How the engine schedules."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes in tokens, `max_queue` in requests (0: no limit). Names are those of Config, which has the defaults."""

    n_slots: int
    slot_ctx: int  # tokens a slot may hold; 0: what the loaded model gives
    prompt_budget: int  # prompt tokens a step while something generates
    cont_batching: bool
    context_shift: bool
    max_queue: int
    grp_attn_n: int
    grp_attn_w: int
    n_predict: int  # server-wide cap
    lora_scales: tuple[float, ...]
