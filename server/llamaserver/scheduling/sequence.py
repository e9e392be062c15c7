"""One request's life in the engine: queued, placed on a slot, prefilled, decoded, done.

Plain state, changed by the scheduler and the loop on the engine thread. `cancelled`, `taken` and
`resting` are the only fields another thread changes.
"""

from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from ..interfaces.backend import Sampler
from ..interfaces.output import Timings, TokenProbs
from ..interfaces.params import GenerationParams, Media
from .text_stream import TextStream

if TYPE_CHECKING:
    from ..kvstore.messages import Lookup, Offer
    from .residents import Resident, Slot


MAX_BACKLOG = 512  # events a client may leave unread before its sequence rests


class Phase(Enum):
    """Where a sequence stands."""

    QUEUED = "queued"  # no slot yet
    FOLLOWING = "following"  # has a slot, waits for another sequence to compute the common prefix
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Sequence:
    """A request and everything the engine knows about it. Times are seconds of one clock."""

    id_task: int
    kind: Literal["completion", "embedding"]
    params: GenerationParams
    keys: "array[int]"  # what prefill has to bring into the cache
    media: tuple[Media, ...]
    sampler: Sampler | None
    lora: tuple[float, ...]
    n_predict: int  # -1: unlimited
    truncated: bool = False
    tag: Any = None
    arrived: float = 0.0

    phase: Phase = Phase.QUEUED
    slot: "Slot | None" = None
    resident: "Resident | None" = None
    leader: "Sequence | None" = None
    n_prompt: int = 0
    n_cached: int = 0
    cached_from: str = ""  # slot, ram or disk
    lookup: "Lookup | None" = None  # the question to the KV store, once it has been asked
    n_keep: int = 0
    token: int = -1  # sampled, not yet in the cache
    n_decoded: int = 0
    text: TextStream = field(default_factory=lambda: TextStream(()))
    pending_tokens: list[int] = field(default_factory=list)  # made no text yet
    pending_probs: list[TokenProbs] = field(default_factory=list)
    started: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    reason: str = ""
    group: int = 0  # self-extend: ga_i of the April 2024 server

    cancelled: bool = False
    emitted: int = 0  # events made (engine thread)
    taken: int = 0  # events read by the client (event loop)
    resting: bool = False  # waits for the client to read: set by the engine thread, unset by the event loop

    def __post_init__(self) -> None:
        self.n_prompt = len(self.keys)
        self.text = TextStream(self.params.stop)

    @property
    def backlog(self) -> int:
        """Events the client has not taken yet."""
        return self.emitted - self.taken

    def rest(self) -> bool:
        """Whether the client is so far behind that nothing more should be made for it (engine thread).

        The flag goes up before the count is read again: a client that catches up in between either
        is seen here, or sees the flag and wakes the engine.
        """
        self.resting = self.backlog >= MAX_BACKLOG
        return self.resting and self.backlog >= MAX_BACKLOG

    def drop_lookup(self) -> None:
        """Nobody waits for the KV store's answer any more."""
        if self.lookup is not None:
            self.lookup.dropped, self.lookup = True, None

    @property
    def offer(self) -> "Offer | None":
        """A state from the KV store to start from."""
        return self.lookup.offer if self.lookup is not None else None

    @property
    def offered(self) -> int:
        """Tokens of it."""
        return self.offer.length if self.offer is not None else 0

    @property
    def held(self) -> bool:
        """Whether the KV store has not answered yet."""
        return self.lookup is not None and not self.lookup.done

    @property
    def extra_cells(self) -> int:
        """KV cells that images take beyond their positions (M-RoPE)."""
        return sum(media.n_tokens - media.n_pos for media in self.media)

    @property
    def n_past(self) -> int:
        """Keys of this sequence that are in the cache."""
        return len(self.resident.keys) if self.resident else 0

    @property
    def remaining(self) -> int:
        """Prompt keys still to evaluate."""
        return len(self.keys) - self.n_past

    def media_at(self, position: int) -> Media | None:
        """The image that starts at `position`, if one does."""
        return next((media for media in self.media if media.start == position), None)

    def next_media(self, position: int) -> int:
        """Where the next image after `position` starts, or the prompt's end."""
        return min((m.start for m in self.media if m.start > position), default=len(self.keys))

    def timings(self, now: float) -> Timings:
        """Durations so far, in milliseconds."""
        prompt_end = self.first_token or now
        return Timings(
            prompt_n=self.n_prompt - self.n_cached,
            prompt_ms=(prompt_end - self.started) * 1000,
            predicted_n=self.n_decoded,
            predicted_ms=(now - self.first_token) * 1000 if self.first_token else 0.0,
            cache_n=self.n_cached,
            cache_source=self.cached_from,
        )
