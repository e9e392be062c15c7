"""One step of the engine: admit, plan, decode, sample, emit. Runs on the engine thread alone.

Joins the pure scheduler to the backend; what it has to say lands in `outbox` for the loop to
deliver. Knows nothing of threads but the two hooks around a decode, by which another thread may
abort it.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from ..errors import EngineFailure, InvalidRequest, ServerError, Unavailable
from ..interfaces.backend import Backend, Batch, Status
from ..interfaces.output import Delta, Embedded, Event, Failed, Finish
from ..kvstore.store import KVStore
from ..scheduling.residents import Slot
from ..scheduling.scheduler import Scheduler, Work
from ..scheduling.sequence import Phase, Sequence
from ..scheduling.settings import EngineSettings
from .keeper import Keeper
from .snapshot import SlotView, Snapshot
from .stats import Stats

_log = logging.getLogger(__name__)
_EXTRA_FOR_CHARACTER = 8  # tokens that may follow n_predict to complete a multi-byte character


class Core:
    """The engine's state on its own thread."""

    def __init__(
        self,
        backend: Backend,
        settings: EngineSettings,
        clock: Callable[[], float],
        during: Callable[[Work], AbstractContextManager[Any]],
        store: KVStore | None = None,
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.scheduler = Scheduler(backend, settings)
        self.stats = Stats()
        self.outbox: list[tuple[Sequence, Event]] = []
        self._clock = clock
        self._during = during
        self.keeper = Keeper(backend, self.scheduler.placement, store, self.stats, clock) if store else None

    # ---- one step

    def step(self) -> bool:
        """Run one step; what it has to say is in `outbox` by the next decode. False when nothing moved."""
        began, preempted = self._clock(), self.scheduler.preemptions
        if self.keeper is not None:
            self.keeper.prepare(self.scheduler.queue)
        for sequence in self.scheduler.admit():
            if not sequence.started:
                sequence.started = began
        works = self.scheduler.plan()
        moved = bool(works or self.scheduler.ended) or self.scheduler.preemptions > preempted
        self._report_ended()
        decoding = 0.0
        for work in works:
            status, seconds = self._run(work)
            decoding += seconds
            self._report_ended()
            if status is not Status.OK:
                break  # making room or starting over may have moved what the other works count on
        if works:
            self.stats.decode_seconds += decoding
            self.stats.step_seconds += self._clock() - began
        return self._keep(idle=not works) or moved

    def _keep(self, *, idle: bool) -> bool:
        """Give the KV store one sequence, at the end as many as it takes; True when it took one."""
        if self.keeper is None:
            return False
        if idle and self.keeper.draining and self.keeper.candidates():
            with suppress(Unavailable):
                self._settle()
        took = more = self.keeper.save_one()
        while more and self.keeper.draining:  # the next step may take long
            more = self.keeper.save_one()
        return took

    @property
    def unsaved(self) -> int:
        """Cached sequences that the KV store is to write and has not."""
        return self.keeper.unsaved if self.keeper is not None else 0

    @property
    def waits_for_store(self) -> bool:
        """Whether there is to be another step although nothing moves: an answer may not come, a disk recover."""
        keeper = self.keeper
        return keeper is not None and (keeper.postponed or any(s.held for s in self.scheduler.queue))

    def _run(self, work: Work) -> tuple[Status, float]:
        """Decode one work and act on the result; returns the seconds inside decode too."""
        if all(sequence.cancelled for sequence, _ in work.parts):
            return Status.OK, 0.0
        self.backend.set_lora(work.lora)
        before = self._clock()
        with self._during(work):
            status = self._decode(work)
        after = self._clock()
        if status is Status.OK:
            self._account(work)
            self.scheduler.commit(work)
            self._results(work, after)
        elif status is Status.ABORTED:
            self.scheduler.resync(work)
        elif status is Status.NO_ROOM:
            self.scheduler.no_room(work)
        else:
            _log.error("decode failed with status %s", status.name)
            self.scheduler.failed(work)
        return status, after - before

    def _decode(self, work: Work) -> Status:
        if work.media is not None:
            sequence = work.parts[0][0]
            assert sequence.resident is not None
            return self.backend.decode_media(work.media, sequence.resident.position, sequence.resident.seq)
        return self.backend.decode(work.batch, embeddings=work.kind == "embed")

    def _account(self, work: Work) -> None:
        self.stats.decodes += 1
        self.stats.busy_slots += len(work.parts)

    def _results(self, work: Work, now: float) -> None:
        if work.kind == "embed":
            self._embedded(work, now)
            return
        for sequence, row in work.samples:
            if sequence.cancelled or sequence.phase is Phase.DONE:
                continue
            try:
                self._sample(sequence, row)
            except ServerError as error:
                self._end_with(sequence, error)
            except Exception:  # a defect in one sampler is not to end the others' answers
                _log.exception("sampling failed")
                self._end_with(sequence, EngineFailure("sampling failed; see the server's log"))

    def _embedded(self, work: Work, now: float) -> None:
        sequence = work.parts[0][0]
        assert sequence.resident is not None
        vectors = self.backend.embeddings(sequence.resident.seq, range(len(work.batch)))
        self.stats.prompt_done(sequence.n_prompt, 0, now - sequence.started)
        self._end(sequence, Embedded(vectors, sequence.n_prompt))

    # ---- tokens

    def _sample(self, sequence: Sequence, row: int) -> None:
        if sequence.phase is Phase.PREFILL and self._prompt_done(sequence):
            return
        sampler = sequence.sampler
        assert sampler is not None
        token, probs = sampler.sample(self.backend.logits(row))
        now = self._clock()
        self._time_token(sequence, now)
        sequence.n_decoded += 1
        self.stats.predicted_tokens += 1
        if sequence.params.return_tokens:
            sequence.pending_tokens.append(token)
        if probs is not None:
            sequence.pending_probs.append(probs)
        if token in self.backend.vocab.eog:
            self._finish(sequence, "", "eos", now)
            return
        text = sequence.text.push(self.backend.vocab.piece(token))
        reason = self._stop_reason(sequence, now)
        if reason:
            self._finish(sequence, text, reason, now)
            return
        sequence.token = token
        if text:
            self._emit(sequence, text)

    def _prompt_done(self, sequence: Sequence) -> bool:
        """The whole prompt is in the cache; True when nothing is to be generated.

        For a sequence that was preempted this is not its first time.
        """
        resumed = sequence.n_decoded > 0
        now = self._clock()
        if not resumed:
            self.stats.prompt_done(sequence.n_prompt - sequence.n_cached, sequence.n_cached, now - sequence.started)
            if sequence.n_predict == 0:
                self._finish(sequence, "", "limit", now)
                return True
            if sequence.sampler is not None:
                sequence.sampler.prime([key for key in sequence.keys if key >= 0])
        sequence.phase = Phase.DECODE
        return False

    def _time_token(self, sequence: Sequence, now: float) -> None:
        if sequence.n_decoded == 0:
            sequence.first_token = now
            self.stats.first_token.observe(now - sequence.arrived)
        else:
            self.stats.inter_token.observe(now - sequence.last_token)
        sequence.last_token = now

    def _stop_reason(self, sequence: Sequence, now: float) -> str:
        if sequence.text.stopping_word:
            return "word"
        limit = sequence.n_predict
        if 0 <= limit <= sequence.n_decoded and not (
            sequence.text.mid_character and sequence.n_decoded < limit + _EXTRA_FOR_CHARACTER
        ):
            return "limit"
        allowed = sequence.params.max_predict_ms
        return "limit" if allowed and (now - sequence.first_token) * 1000 > allowed else ""

    def _emit(self, sequence: Sequence, text: str) -> None:
        delta = Delta(text, sequence.pending_tokens, sequence.pending_probs)
        sequence.pending_tokens, sequence.pending_probs = [], []
        sequence.emitted += 1
        self.outbox.append((sequence, delta))

    def _finish(self, sequence: Sequence, text: str, reason: str, now: float) -> None:
        sequence.reason = reason
        timings = sequence.timings(now)
        if sequence.n_decoded:
            self.stats.answer_done(sequence.n_decoded, timings.predicted_ms / 1000)
        self.stats.most_tokens = max(self.stats.most_tokens, sequence.n_past)
        finish = Finish(
            content=text + sequence.text.finish(),
            reason=reason,
            stopping_word=sequence.text.stopping_word,
            truncated=sequence.truncated,
            n_prompt=sequence.n_prompt,
            n_cached=sequence.n_cached,
            n_decoded=sequence.n_decoded,
            id_slot=sequence.slot.id if sequence.slot else -1,
            timings=timings,
            tokens=tuple(sequence.pending_tokens),
            probs=tuple(sequence.pending_probs),
        )
        self._end(sequence, finish)

    def _report_ended(self) -> None:
        """Sequences that the scheduler ended by itself."""
        for ended in self.scheduler.ended:
            if ended.error is not None:
                self._end_with(ended.sequence, ended.error)
            elif ended.sequence.phase is not Phase.DONE:
                self._finish(ended.sequence, "", ended.reason, self._clock())
        self.scheduler.ended.clear()

    def _end_with(self, sequence: Sequence, error: Exception) -> None:
        self._end(sequence, Failed(error))

    def _end(self, sequence: Sequence, event: Event) -> None:
        self._leave(sequence)
        self.outbox.append((sequence, event))

    def _leave(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        if sequence.sampler is not None:
            sequence.sampler.close()

    # ---- requests and slots

    def submit(self, sequence: Sequence) -> None:
        """Queue a request."""
        sequence.arrived = self._clock()
        self.stats.requests += 1
        self.scheduler.submit(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """The client has gone: free the slot; what was computed stays as cache."""
        if sequence.phase is not Phase.DONE:
            self.stats.cancelled += 1
            self._leave(sequence)

    def cut_off(self, error: Exception) -> None:
        """End every request with an error; what was computed stays as cache."""
        for sequence in [*self.scheduler.running(), *self.scheduler.queue]:
            self._end_with(sequence, error)

    def fail_all(self, error: Exception) -> None:
        """End every request with an error and forget the cache."""
        self.scheduler.ended.clear()
        for sequence in [*self.scheduler.running(), *self.scheduler.queue]:
            self._end_with(sequence, error)
        for resident in self.scheduler.placement.residents():
            self.scheduler.placement.clear(resident)

    def save(self, slot: Slot) -> tuple[tuple[int, ...], bytes]:
        """Token ids and state of an idle slot."""
        self._settle()
        resident = slot.resident
        if resident is None or not resident.keys:
            return (), b""
        if any(key < 0 for key in resident.keys):
            raise InvalidRequest(f"slot {slot.id} holds an image and cannot be saved", field="id_slot")
        return tuple(resident.keys), self.backend.state_get(resident.seq)

    def restore(self, slot: Slot, tokens: tuple[int, ...], data: bytes, lora: tuple[float, ...]) -> int:
        """Put saved tokens and state into an idle slot."""
        if len(tokens) > self.settings.slot_ctx:
            raise InvalidRequest(f"{len(tokens)} saved tokens do not fit a slot of {self.settings.slot_ctx}")
        placement = self.scheduler.placement
        resident = placement.vacate(slot)
        self._settle()
        if not tokens:
            return 0
        if not placement.free_cells(len(tokens)):
            raise Unavailable("the running requests leave no room in the cache for these tokens", retry_after=1)
        fits = self.backend.state_set(resident.seq, data) and self.backend.pos_max(resident.seq) + 1 == len(tokens)
        if not fits:
            placement.clear(resident)
            raise InvalidRequest("the saved state does not fit this model and context", field="filename")
        placement.adopt(resident, tokens, lora)
        return len(tokens)

    def erase(self, slot: Slot) -> int:
        """Drop the cache of an idle slot."""
        if slot.resident is None:
            return 0
        count = len(slot.resident.keys)
        self.scheduler.placement.clear(slot.resident)
        return count

    def _settle(self) -> None:
        """Make pending copies and shifts happen: only a decode carries them out, so decode one row."""
        placement = self.scheduler.placement
        if not placement.unsettled:
            return
        idle = [slot.resident or placement.vacate(slot) for slot in placement.slots if slot.idle]
        for resident in sorted(idle, key=lambda r: len(r.keys)):
            removable = self.backend.info.partial_reuse or not resident.keys
            if removable and resident.position < self.settings.slot_ctx:
                batch = Batch()
                batch.add(0, resident.position, resident.seq, True)
                if self.backend.decode(batch) is Status.OK:
                    self.backend.seq_rm(resident.seq, resident.position)
                    placement.settled()
                    return
        raise Unavailable("the cache has pending copies and no idle slot to carry them out", retry_after=1)

    # ---- monitoring

    def snapshot(self) -> Snapshot:
        """An immutable view of everything."""
        placement = self.scheduler.placement
        return Snapshot(
            state="ready",
            load_progress=1.0,
            slots=tuple(self._view(slot) for slot in placement.slots),
            requests_processing=sum(not slot.idle for slot in placement.slots),
            requests_deferred=len(self.scheduler.queue),
            kv_cells_used=placement.cells_used,
            kv_cells_total=self.backend.info.n_ctx,
            counters=self.stats.freeze(self.scheduler.preemptions),
            kv_store=self.keeper.store.stats() if self.keeper else None,
            kv_unsaved=self.unsaved,
        )

    def _view(self, slot: Slot) -> SlotView:
        n_past = len(slot.resident.keys) if slot.resident else 0
        shown = slot.sequence or slot.last
        if shown is None:
            return SlotView(slot.id, self.settings.slot_ctx, n_past=n_past)
        busy = slot.sequence is not None
        return SlotView(
            id=slot.id,
            n_ctx=self.settings.slot_ctx,
            state=int(busy),
            id_task=shown.id_task,
            params=shown.params,
            prompt_keys=shown.keys,
            tag=shown.tag,
            has_next_token=busy and shown.phase in (Phase.PREFILL, Phase.DECODE),
            n_remain=shown.n_predict - shown.n_decoded if shown.n_predict >= 0 else -1,
            n_decoded=shown.n_decoded,
            stopped_reason=shown.reason,
            stopping_word=shown.text.stopping_word,
            n_prompt=shown.n_prompt,
            n_prompt_processed=min(n_past, shown.n_prompt),
            n_cached=shown.n_cached,
            cached_from=shown.cached_from,
            n_past=n_past,
        )
