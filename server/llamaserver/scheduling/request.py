"""One request in the engine: queued, placed on a slot, prefilled, decoded, done."""

from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from ..interfaces.backend import Sampler
from ..interfaces.keys import common_prefix
from ..interfaces.output import Timings
from ..interfaces.params import GenerationParams, Media
from ..interfaces.tenant import COMMON, Scope, Tenant
from ..kvstore.messages import Lookup, Offer
from .answer import Answer
from .client_flow import ClientFlow
from .lines import Lines
from .residents import Resident, Slot
from .text_stream import Stops, TextStream


class Phase(Enum):
    """Where a request stands."""

    QUEUED = "queued"  # has no slot yet
    FOLLOWING = "following"  # has a slot, waits for another request to compute the common prefix
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a client asked for, checked and with all defaults resolved. Never changes."""

    id_task: int
    kind: Literal["completion", "embedding"]
    params: GenerationParams
    keys: "array[int]"  # the prompt
    media: tuple[Media, ...]
    sampler: Sampler | None  # None: nothing is generated
    lora: tuple[float, ...]
    n_predict: int  # -1: unlimited
    n_keep: int = 0  # prompt tokens that a context shift keeps
    truncated: bool = False  # the prompt was cut
    shifts: bool = True  # the context is shifted when the slot is full
    tag: Any = None  # data that the API attached
    tenant: Tenant = COMMON
    stops: Stops | None = None  # those of `params`, made already
    shown: frozenset[int] = frozenset()  # control tokens whose text is part of the answer
    n_scored: int = 0  # tokens at the end of the prompt whose probabilities are wanted
    system: "array[int]" = field(default_factory=lambda: array("q"))  # the server's system prompt, if it comes first

    @property
    def extra_cells(self) -> int:
        """KV cells that images take beyond their positions (M-RoPE)."""
        return sum(media.n_tokens - media.n_pos for media in self.media)

    def media_at(self, position: int) -> Media | None:
        """The image that starts at `position`, if one does."""
        return next((media for media in self.media if media.start == position), None)


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """A task and its progress, which changes on the engine thread alone.

    `Roster` changes the phase, the slot and the resident. The scheduler changes the keys and the
    counts of cached tokens, the store's client `lookup`, and the core `answer`.
    """

    task: Task
    client: ClientFlow = field(default_factory=ClientFlow)
    answer: Answer = field(init=False)
    phase: Phase = Phase.QUEUED
    slot: Slot | None = None
    resident: Resident | None = None
    keys: "array[int]" = field(init=False)  # what prefill has to bring into the cache
    n_cached: int = 0  # prompt tokens that were in the cache already
    cached_from: str = ""  # slot, ram or disk
    truncated: bool = field(init=False)
    lookup: Lookup | None = None  # the question to the KV store, once it has been asked
    most_past: int = 0  # the most keys of the prompt that were in the cache so far
    turn: int = 0  # when it last got its turn among the prompts of its key
    preempted: int = 0  # times, since it last made progress
    preempted_at: int = 0  # the most progress it had when it was preempted

    def __post_init__(self) -> None:
        params = self.task.params
        self.answer = Answer(TextStream(self.task.stops or Stops(params.stop)), Lines(params.n_indent))
        self.keys, self.truncated = self.task.keys, self.task.truncated

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.task.keys)

    @property
    def n_decoded(self) -> int:
        """Tokens generated so far."""
        return self.answer.n_decoded

    @property
    def n_past(self) -> int:
        """Keys of this request that are in the cache."""
        return len(self.resident.keys) if self.resident else 0

    @property
    def progress(self) -> int:
        """Tokens done for the client. To evaluate them again after a preemption is no progress."""
        return self.n_prompt + self.n_decoded if self.n_decoded else self.n_past

    @property
    def remaining(self) -> int:
        """Prompt keys still to evaluate."""
        return len(self.keys) - self.n_past

    def rests(self) -> bool:
        """Whether it has begun, and its client must read before it goes on."""
        return self.answer.n_decoded > 0 and self.client.rest()

    @property
    def offer(self) -> Offer | None:
        """A state from the KV store to start from."""
        return self.lookup.offer if self.lookup is not None else None

    @property
    def offered(self) -> int:
        """Tokens of the offer."""
        return self.offer.length if self.offer is not None else 0

    @property
    def awaits_store(self) -> bool:
        """Whether the KV store has been asked and has not answered yet."""
        return self.lookup is not None and not self.lookup.done

    @property
    def scope(self) -> Scope:
        """Whom the keys serve. A prompt that was cut may have lost a part of the system prompt."""
        return Scope(self.task.tenant.domain, common_prefix(self.keys, self.task.system))

    @property
    def next_scored(self) -> int:
        """The place of the next token of the prompt that is to get a score. The prompt's length: none."""
        return self.n_prompt - self.task.n_scored + self.answer.n_scored

    def next_media(self, position: int) -> int:
        """Where the next image after `position` starts, or the end of the keys."""
        return min((m.start for m in self.task.media if m.start > position), default=len(self.keys))

    def timings(self, now: float) -> Timings:
        """Durations so far, in milliseconds."""
        answer = self.answer
        prompt_end = answer.first_token or now
        return Timings(
            prompt_n=self.n_prompt - self.n_cached,
            prompt_ms=(prompt_end - answer.started) * 1000,
            predicted_n=answer.n_decoded,
            predicted_ms=(now - answer.first_token) * 1000 if answer.first_token else 0.0,
            cache_n=self.n_cached,
            cache_source=self.cached_from,
        )
