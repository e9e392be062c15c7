"""The batches of one step.

In a split cache every prompt chunk is a decode of its own: mixed with single rows it would be cut
into micro-batches whose sizes depend on the neighbours, and answers with them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..interfaces.backend import SCORED_ROWS, Backend, Batch
from ..interfaces.params import Media
from . import overflow
from .cache import Cache
from .request import ActiveRequest
from .residents import Resident
from .settings import EngineSettings


class Part(NamedTuple):
    """The share of one request in a decode: `n_keys` keys, which go into `resident`."""

    request: ActiveRequest
    resident: Resident
    n_keys: int


@dataclass(slots=True)
class Work:
    """One decode: its rows, how far each request advances, and whose logits are wanted."""

    kind: Literal["generate", "prompt", "mixed", "media", "embed"]
    lora: tuple[float, ...]
    batch: Batch = field(default_factory=Batch)
    parts: list[Part] = field(default_factory=list)
    samples: list[tuple[ActiveRequest, int]] = field(default_factory=list)  # (request, row)
    scores: list[tuple[ActiveRequest, int, int]] = field(default_factory=list)  # (request, row, the token after it)
    media: Media | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens that the library evaluates."""
        return self.media.n_tokens if self.media else len(self.batch)


class Batches:
    """Puts the rows of requests into works."""

    def __init__(self, backend: Backend, settings: EngineSettings, cache: Cache) -> None:
        self._backend = backend
        self._settings = settings
        self._info = backend.info
        self._cache = cache
        self._joins = self._info.unified and self._info.n_seq_max > 1  # prompts and generation share decodes
        self._turn = 0

    def generation(self, ready: list[ActiveRequest]) -> Iterator[Work]:
        """One work for each set of LoRA scales, rows in the order of sequence ids.

        The library joins rows of a split cache into one micro-batch only in that order.
        """
        groups: dict[tuple[float, ...], list[Part]] = {}
        for request in ready:
            if request.resident is not None:
                groups.setdefault(request.task.lora, []).append(Part(request, request.resident, 1))
        for lora, parts in groups.items():
            parts.sort(key=_sequence_id)
            for start in range(0, len(parts), self._info.n_batch):
                work = Work("generate", lora, parts=parts[start : start + self._info.n_batch])
                for request, resident, _ in work.parts:
                    row = work.batch.add(request.answer.token, resident.position, resident.seq, True)
                    work.samples.append((request, row))
                yield work

    def add_prompts(self, works: list[Work], waiting: list[ActiveRequest], budget: int) -> int:
        """Add the next parts of the waiting prompts, `budget` tokens in all. The prompts take turns.

        Returns what is left of the budget.
        """
        for request in waiting:
            request.turn = request.turn or self._next_turn()
        for request in sorted(waiting, key=lambda request: request.turn):
            resident = request.resident
            if resident is None:
                continue
            if request.task.kind == "embedding":
                if budget <= 0:
                    break
                budget -= len(request.keys)
                if not self._info.causal or self._cache.claim(len(request.keys)):  # encoders have no cache
                    works.append(self._embedding(request, resident))
                continue
            if budget <= 0 or (budget == 1 and works):
                break  # leave the rest to the next step, so that no chunk has one row
            request.turn = self._next_turn()
            budget -= self._prompt_chunk(works, request, resident, budget)
        return budget

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn

    def _prompt_chunk(self, works: list[Work], request: ActiveRequest, resident: Resident, budget: int) -> int:
        """Add the next part of one prompt. Returns the tokens that it takes from the budget."""
        extends = self._settings.grp_attn_n > 1
        if extends:
            overflow.self_extend(resident, self._settings, self._cache.residents, self._backend)
            budget = min(budget, overflow.chunk_limit(resident, self._settings.grp_attn_w))
        start = len(resident.keys)
        media = request.task.media_at(start)
        if media:
            return self._media(works, Part(request, resident, media.n_pos), media)
        work = self._work_for(works, request)
        count = min(budget, request.next_media(start) - start, self._info.n_batch - len(work.batch))
        if _is_scored(request):
            count = min(count, SCORED_ROWS)
        if request.remaining - count == 1 and count > 2 and not extends:
            count -= 1  # a single row would take another path through the kernels
        if not self._cache.claim(count):
            return 0
        if not work.parts:
            works.append(work)
        self._add_rows(work, Part(request, resident, count))
        return count

    def _media(self, works: list[Work], part: Part, media: Media) -> int:
        if not self._cache.claim(media.n_tokens):
            return 0
        work = Work("media", part.request.task.lora, parts=[part], media=media)
        works.append(work)
        if media.start + media.n_pos == len(part.request.keys):
            work.samples.append((part.request, -1))
        return media.n_tokens

    def _work_for(self, works: list[Work], request: ActiveRequest) -> Work:
        """The work that the next rows of a prompt belong to: a new one, if no decode may be shared."""
        lora = request.task.lora
        if self._joins and not _is_scored(request):
            for work in works:
                joins = work.lora == lora and work.kind in ("generate", "mixed", "prompt") and not work.scores
                if joins and len(work.batch) < self._info.n_batch:
                    work.kind = "mixed"
                    return work
        return Work("prompt", lora)

    def _add_rows(self, work: Work, part: Part) -> None:
        request, resident, count = part
        start, base = len(resident.keys), len(work.batch)
        last = start + count == len(request.keys)
        work.batch.tokens.extend(request.keys[start : start + count])
        work.batch.positions.extend(range(resident.position, resident.position + count))
        work.batch.seqs.extend([resident.seq] * count)
        work.batch.wants.extend([0] * (count - 1) + [int(last)])
        work.parts.append(part)
        if _is_scored(request):
            for place in range(max(start + 1, request.next_scored), min(start + count + 1, request.n_prompt)):
                row = base + place - 1 - start
                work.batch.wants[row] = 1
                work.scores.append((request, row, request.keys[place]))
        if last:
            work.samples.append((request, base + count - 1))

    def _embedding(self, request: ActiveRequest, resident: Resident) -> Work:
        work = Work("embed", request.task.lora, parts=[Part(request, resident, len(request.keys))])
        for position, token in enumerate(request.keys):
            work.batch.add(token, position, resident.seq, True)
        return work


def _is_scored(request: ActiveRequest) -> bool:
    return request.next_scored < request.n_prompt


def _sequence_id(part: Part) -> int:
    return part.resident.seq
