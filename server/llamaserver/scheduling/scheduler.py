"""What the engine does next: admission, the batches of one step, and what their results change.

Pure of model, thread and clock: it sees a Backend's memory operations and says which rows to
decode. Each step runs the token of every generating sequence first, then prompt chunks under a
budget, so that running streams keep flowing while a long prompt comes in.

In a split cache every prompt chunk is a decode of its own: mixing it with single rows would cut
it into micro-batches whose sizes depend on the neighbours, and answers with them.
"""

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..errors import EngineFailure
from ..interfaces.backend import Backend, Batch
from ..interfaces.params import Media
from . import overflow
from .placement import Placement
from .sequence import Phase, Sequence
from .settings import EngineSettings


@dataclass(slots=True)
class Work:
    """One decode: its rows, which sequences advance by how many keys, whose logits are wanted."""

    kind: Literal["generate", "prompt", "mixed", "media", "embed"]
    lora: tuple[float, ...]
    batch: Batch = field(default_factory=Batch)
    parts: list[tuple[Sequence, int]] = field(default_factory=list)
    samples: list[tuple[Sequence, int]] = field(default_factory=list)  # (sequence, row)
    media: Media | None = None


@dataclass(slots=True)
class Ended:
    """A sequence that the scheduler ended without a decode."""

    sequence: Sequence
    reason: str = ""
    error: Exception | None = None


class Scheduler:
    """Queue and slots of one engine."""

    def __init__(self, backend: Backend, settings: EngineSettings) -> None:
        self._backend = backend
        self._settings = settings
        self._info = backend.info
        self.placement = Placement(backend, settings.n_slots)
        self.queue: deque[Sequence] = deque()
        self.ended: list[Ended] = []
        self.preemptions = 0
        self._turn = 0
        self._claimed = 0  # cells promised to rows of this plan

    # ---- admission

    def submit(self, sequence: Sequence) -> None:
        """Queue a request."""
        self.queue.append(sequence)

    def running(self) -> list[Sequence]:
        """Sequences on slots."""
        return [slot.sequence for slot in self.placement.slots if slot.sequence]

    def admit(self) -> list[Sequence]:
        """Place what can be placed; return the sequences whose prefill starts now."""
        following = [s for s in self.running() if s.phase is Phase.FOLLOWING]
        started = [s for s in sorted(following, key=lambda s: s.id_task) if self._start(s)]
        for sequence in list(self.queue):
            if sequence.n_decoded and sequence.rest():
                continue  # stepped back because its client does not read
            if sequence.held or (sequence.lookup is None and self.placement.keeping is not None):
                continue  # the KV store is looking for its prefix, or has not been asked yet
            slot = self.placement.choose_slot(sequence)
            if slot is None:
                if sequence.params.id_slot < 0:
                    break  # no slot is idle
                continue
            if not self._fits(sequence):
                self._preempt_resting()
                break  # first come, first served: a smaller one must not overtake for ever
            self.queue.remove(sequence)
            sequence.slot, slot.sequence = slot, sequence
            slot.last = sequence
            sequence.phase = Phase.FOLLOWING
            if self._start(sequence):
                started.append(sequence)
        return started

    def _fits(self, sequence: Sequence) -> bool:
        """Whether a unified cache has room for the prompt beside what runs."""
        running = self.running()
        if self.placement.ledger is None or not running:
            return True
        waiting = sum(s.remaining for s in running if s.phase in (Phase.PREFILL, Phase.FOLLOWING))
        return waiting + len(running) <= self.placement.room_beside(sequence)

    def _start(self, sequence: Sequence) -> bool:
        """Begin prefill, unless another sequence is about to compute the same prefix, or less is lost a step later."""
        leader = self.placement.leader_for(sequence)
        if leader is not None:
            sequence.leader = leader
            return False
        sequence.leader = None
        if self._decodes_soon() and self.placement.better_later(sequence):
            return False
        length = self.placement.place(sequence)
        if sequence.n_decoded == 0:
            sequence.n_cached = length
        sequence.group = 0
        sequence.phase = Phase.PREFILL
        return True

    def _decodes_soon(self) -> bool:
        active = [s for s in self.running() if s.phase in (Phase.PREFILL, Phase.DECODE) and not s.cancelled]
        return any(s.phase is Phase.PREFILL or not s.rest() for s in active)

    # ---- planning

    def plan(self) -> list[Work]:
        """The decodes of this step, in order. Sequences that cannot go on land in `ended`."""
        self._claimed = 0
        decoding = [s for s in self.running() if s.phase is Phase.DECODE and not s.cancelled]
        fitting = [s for s in decoding if self._fits_slot(s)]  # all before any is preempted for another
        ready = [s for s in fitting if not s.rest() and self._has_cell(s)]
        ready = [s for s in ready if s.phase is Phase.DECODE]  # making room may preempt
        works = list(self._generation(ready))
        if self._settings.cont_batching or not works:
            budget = self._settings.prompt_budget if ready else self._info.n_ubatch
            self._prompts(works, budget)
        return works

    def _fits_slot(self, sequence: Sequence) -> bool:
        """Make sure that one more token fits the slot."""
        assert sequence.resident is not None
        if self._extends:
            overflow.self_extend(sequence, self._settings, self.placement, self._backend)
        held = len(sequence.resident.keys) + sequence.extra_cells
        return held + 1 <= self._settings.slot_ctx or self._shift(sequence)

    def _has_cell(self, sequence: Sequence) -> bool:
        """Make sure that one more token fits the cache."""
        if sequence.resident is None:
            return False  # an older one has just preempted it
        return self._reserve(1) or self._make_room(sequence)

    @property
    def _extends(self) -> bool:
        return self._settings.grp_attn_n > 1

    def _shift(self, sequence: Sequence) -> bool:
        """Shift the context; False when the sequence cannot go on in this step."""
        resident = sequence.resident
        assert resident is not None
        sequence.truncated = True
        wanted = self._settings.context_shift and self._info.can_shift and not self._extends
        span = overflow.discarded(sequence) if wanted else None
        if span is None:
            self.ended.append(Ended(sequence, "limit"))
            return False
        keys = resident.keys[: span.start] + resident.keys[span.stop :]
        own = not self.placement.shares_beyond(resident, span.start) or self.placement.unshare(resident)
        if own and overflow.shift(resident, span, self.placement, self._backend):
            return True
        self._restart(sequence)
        sequence.keys = keys + array("q", [sequence.token])
        return False

    def _reserve(self, cells: int) -> bool:
        """Claim cells of a unified cache, dropping cached sequences for them; False when all are in use."""
        if not self.placement.free_cells(self._claimed + cells):
            return False
        self._claimed += cells
        return True

    def _make_room(self, sequence: Sequence) -> bool:
        """Preempt the youngest request for this one; alone, it has reached its limit."""
        if not self._preempt_youngest():
            sequence.truncated = True
            self.ended.append(Ended(sequence, "limit"))
            return False
        return sequence.resident is not None and self._reserve(1)

    def _preempt_youngest(self) -> bool:
        """Preempt one whose client does not read, else the youngest; False when a single one has all the cells."""
        holders = [s for s in self.running() if s.resident]
        if len(holders) > 1:
            self.preempt(max(holders, key=lambda s: (s.resting, s.id_task)))
        return len(holders) > 1

    def _preempt_resting(self) -> None:
        """Take the cells of a request whose client does not read; it goes on when that has caught up."""
        resting = [s for s in self.running() if s.resident and s.resting]
        if resting:
            self.preempt(max(resting, key=lambda s: s.id_task))

    def preempt(self, sequence: Sequence) -> None:
        """Take a sequence off its slot and queue it again, first in line, with all its tokens as prompt."""
        resident = sequence.resident
        assert resident is not None
        if sequence.phase is Phase.DECODE:
            sequence.keys = resident.keys[:]
            sequence.keys.append(sequence.token)
        slot = sequence.slot
        self.placement.release(sequence)
        self.placement.drop(resident)
        sequence.slot, sequence.phase = None, Phase.QUEUED
        self.placement.forget_offer(sequence)
        if slot:
            slot.sequence = None
        self.queue.appendleft(sequence)
        self.preemptions += 1

    def _generation(self, ready: list[Sequence]) -> Iterator[Work]:
        """One work for each set of LoRA scales, rows in the order of sequence ids.

        The library joins rows of a split cache into one micro-batch only in that order.
        """
        for lora in dict.fromkeys(s.lora for s in ready):
            alike = sorted((s for s in ready if s.lora == lora), key=_seq)
            for start in range(0, len(alike), self._info.n_batch):
                work = Work("generate", lora)
                for sequence in alike[start : start + self._info.n_batch]:
                    resident = sequence.resident
                    assert resident is not None
                    row = work.batch.add(sequence.token, resident.position, resident.seq, True)
                    work.parts.append((sequence, 1))
                    work.samples.append((sequence, row))
                yield work

    def _prompts(self, works: list[Work], budget: int) -> None:
        waiting = [s for s in self.running() if s.phase is Phase.PREFILL and not s.cancelled]
        if not waiting:
            return
        turn = self._turn % len(waiting)
        self._turn += 1
        for sequence in waiting[turn:] + waiting[:turn]:
            if sequence.kind == "embedding":
                if budget <= 0:
                    break
                budget -= len(sequence.keys)
                if not self._info.causal or self._reserve(len(sequence.keys)):  # encoders have no cache
                    works.append(self._embedding(sequence))
                continue
            if budget <= 0 or (budget == 1 and works):
                break  # the rest goes to the next step, not to a chunk of one row
            budget -= self._prompt_chunk(works, sequence, budget)
        if not works and not self.ended:
            self._preempt_youngest()  # together they have filled the cache

    def _prompt_chunk(self, works: list[Work], sequence: Sequence, budget: int) -> int:
        """Add the next part of one prompt; return the tokens it takes from the budget."""
        if self._extends:
            overflow.self_extend(sequence, self._settings, self.placement, self._backend)
            budget = min(budget, overflow.chunk_limit(sequence, self._settings.grp_attn_w))
        start = sequence.n_past
        media = sequence.media_at(start)
        if media:
            if not self._reserve(media.n_tokens):
                return 0
            works.append(Work("media", sequence.lora, parts=[(sequence, media.n_pos)], media=media))
            if start + media.n_pos == len(sequence.keys):
                works[-1].samples.append((sequence, -1))
            return media.n_tokens
        work = self._work_for(works, sequence)
        count = min(budget, sequence.next_media(start) - start, self._info.n_batch - len(work.batch))
        if sequence.remaining - count == 1 and count > 2 and not self._extends:
            count -= 1  # a single row would take another path through the kernels
        if not self._reserve(count):
            return 0
        if not work.parts:
            works.append(work)
        self._add_rows(work, sequence, start, count)
        return count

    def _work_for(self, works: list[Work], sequence: Sequence) -> Work:
        """A unified cache takes prompt and generation rows in one decode; a split one is asked apart."""
        if self._info.unified and self._info.n_seq_max > 1:
            for work in works:
                joins = work.lora == sequence.lora and work.kind in ("generate", "mixed", "prompt")
                if joins and len(work.batch) < self._info.n_batch:
                    work.kind = "mixed"
                    return work
        return Work("prompt", sequence.lora)

    def _add_rows(self, work: Work, sequence: Sequence, start: int, count: int) -> None:
        resident = sequence.resident
        assert resident is not None
        last = start + count == len(sequence.keys)
        base = len(work.batch)
        work.batch.tokens.extend(sequence.keys[start : start + count])
        work.batch.positions.extend(range(resident.position, resident.position + count))
        work.batch.seqs.extend([resident.seq] * count)
        work.batch.wants.extend([0] * (count - 1) + [int(last)])
        work.parts.append((sequence, count))
        if last:
            work.samples.append((sequence, base + count - 1))

    def _embedding(self, sequence: Sequence) -> Work:
        work = Work("embed", sequence.lora)
        assert sequence.resident is not None
        for position, token in enumerate(sequence.keys):
            work.batch.add(token, position, sequence.resident.seq, True)
        work.parts.append((sequence, len(sequence.keys)))
        return work

    # ---- results

    def commit(self, work: Work) -> None:
        """The decode succeeded: its keys are in the cache."""
        self.placement.settled()
        for sequence, count in work.parts:
            resident = sequence.resident
            if resident is None:
                continue
            if sequence.phase is Phase.DECODE:
                self.placement.extend(resident, array("q", [sequence.token]))
            else:
                start = len(resident.keys)
                self.placement.extend(resident, sequence.keys[start : start + count])

    def resync(self, work: Work) -> None:
        """The decode was aborted: cut every sequence back to what the books say, or start it over.

        Micro-batches that were done stay in the cache; the books do not have them.
        """
        self._forget_shifted()
        for sequence, _ in work.parts:
            resident = sequence.resident
            if resident is None or self._backend.pos_max(resident.seq) + 1 == resident.position:
                continue
            if not self._info.partial_reuse or not self._backend.seq_rm(resident.seq, resident.position):
                self._restart(sequence)

    def _forget_shifted(self) -> None:
        """A decode that did not succeed may have carried out pending shifts in some layers only."""
        for suspect in self.placement.shifted:
            if suspect.owner is not None:
                self._restart(suspect.owner)
            else:
                self.placement.clear(suspect)
        self.placement.shifted.clear()

    def _restart(self, sequence: Sequence) -> None:
        """Lose the cache of a sequence but not the sequence."""
        assert sequence.resident is not None
        if sequence.phase is Phase.DECODE:
            sequence.keys = sequence.resident.keys[:]
            sequence.keys.append(sequence.token)
            sequence.phase = Phase.PREFILL
        if sequence.n_decoded == 0:
            sequence.n_cached = 0
        sequence.group = 0
        self.placement.clear(sequence.resident)

    def no_room(self, work: Work) -> None:
        """The library found no cells although the books had some: free more, or end one request."""
        if self.placement.ledger:
            if self.placement.evict_one() or self.placement.evict_idle_slot() or self._preempt_youngest():
                return
        elif len(work.parts) > 1:
            self.preempt(max((s for s, _ in work.parts), key=lambda s: s.id_task))
            return
        for sequence, _ in work.parts:
            self.ended.append(Ended(sequence, error=EngineFailure("the KV cache has no room for this request")))

    def failed(self, work: Work) -> None:
        """The library failed at this work: its sequences end, their cache is not to be trusted."""
        self._forget_shifted()
        for sequence, _ in work.parts:
            if sequence.resident:
                self.placement.clear(sequence.resident)
            self.ended.append(Ended(sequence, error=EngineFailure("llama.cpp failed to evaluate the batch")))

    def finish(self, sequence: Sequence) -> None:
        """Free the slot (or the place in the queue)."""
        self.placement.forget_offer(sequence)
        if sequence.phase is Phase.QUEUED:
            if sequence in self.queue:
                self.queue.remove(sequence)
            sequence.phase = Phase.DONE
        elif sequence.phase is not Phase.DONE:
            self.placement.release(sequence)


def _seq(sequence: Sequence) -> int:
    assert sequence.resident is not None
    return sequence.resident.seq
