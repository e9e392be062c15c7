"""The engine's state for monitoring: immutable values, replaced as a whole after a step.

/health, /slots, /metrics and /status read them without waiting for a decode.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..kvstore.messages import StoreStats


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot: idle (0) or processing (1), the request on it, and its progress."""

    id: int
    n_ctx: int
    state: int = 0
    id_task: int = -1
    tag: Any = None  # data that the API attached to the request
    owner: str = ""  # key of the request's tenant
    has_next_token: bool = False
    n_remain: int = -1
    n_decoded: int = 0
    stopped_reason: str = ""
    stopping_word: str = ""
    n_prompt: int = 0
    n_prompt_processed: int = 0
    n_cached: int = 0
    cached_from: str = ""  # slot, ram or disk
    n_past: int = 0  # tokens held by the slot's sequence


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts for `bounds` (seconds), then the sum and count."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float
    count: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since start, and the current rates."""

    prompt_tokens_total: int = 0  # evaluated, reused ones not counted
    prompt_seconds_total: float = 0.0
    prompt_tokens_cached_total: int = 0
    tokens_predicted_total: int = 0
    tokens_predicted_seconds_total: float = 0.0
    decode_total: int = 0  # calls of decode
    decode_seconds_total: float = 0.0  # inside decode
    step_seconds_total: float = 0.0  # whole steps, decode included
    busy_slots_total: int = 0  # sum over all decodes of the slots that took part
    preemptions_total: int = 0
    requests_total: int = 0
    requests_cancelled_total: int = 0
    requests_failed_total: Mapping[str, int] = field(default_factory=dict)  # by HTTP status of the error
    decode_failures_total: Mapping[str, int] = field(default_factory=dict)  # by status of decode
    prompt_tokens_seconds: float = 0.0  # average over the last busy window
    predicted_tokens_seconds: float = 0.0
    n_tokens_max: int = 0
    time_to_first_token: Histogram | None = None
    inter_token: Histogram | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that monitoring shows."""

    state: str = "loading"  # loading, ready, failed, stopped
    error: str = ""
    load_progress: float = 0.0  # 0..1
    slots: tuple[SlotView, ...] = ()
    requests_processing: int = 0
    requests_deferred: int = 0
    kv_cells_used: int = 0
    kv_cells_total: int = 0
    counters: Counters = field(default_factory=Counters)
    kv_store: StoreStats | None = None  # None: the server has none
    kv_unsaved: int = 0  # cached sequences that the store is to write and has not written yet
