"""One step of the engine: admit, plan, decode, sample, emit. Runs on the engine thread alone.

It joins the scheduler to the backend. Its events are in `outbox` until they are delivered. It
knows no other thread: `around_decode` lets the caller watch, and abort, each decode.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from ..errors import EngineFailure, ServerError, Unavailable, as_server_error
from ..interfaces.backend import AnswerCompleteError, Backend, Status
from ..interfaces.output import Delta, Embedded, Event, Failed, Finish, Progress
from ..kvstore.messages import WORTH_RESTORING
from ..kvstore.store import KVStore
from ..scheduling.batches import Work
from ..scheduling.cache import Cache
from ..scheduling.placement import Placement
from ..scheduling.request import ActiveRequest, Phase
from ..scheduling.residents import Residents, Slot
from ..scheduling.scheduler import Scheduler
from ..scheduling.settings import EngineSettings
from .failures import Failures
from .slot_states import SlotStates
from .snapshot import SlotView, Snapshot
from .stats import Stats
from .store_client import NoStoreClient, StoreClient

_log = logging.getLogger(__name__)


class Core:
    """The engine's state on its own thread."""

    def __init__(
        self,
        backend: Backend,
        settings: EngineSettings,
        clock: Callable[[], float],
        around_decode: Callable[[Work], AbstractContextManager[Any]],
        store: KVStore | None = None,
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.stats = Stats()
        self.failures = Failures()
        self.outbox: list[tuple[ActiveRequest, Event]] = []
        self._clock = clock
        self._around_decode = around_decode
        self.residents = Residents(settings.n_slots, backend.info.n_seq_max, unified=backend.info.unified)
        # What follows a restored state cannot be saved, so a short one is worth less than a new start.
        placement = Placement(backend, self.residents, min_foreign=WORTH_RESTORING if store else 0)
        self.store_client: StoreClient | NoStoreClient = NoStoreClient()
        if store is not None:
            self.store_client = StoreClient(backend, self.residents, placement, store, stats=self.stats, clock=clock)
        self.cache = Cache(backend, self.residents, placement, self.store_client.save_evicted)
        self.scheduler = Scheduler(backend, settings, placement, self.cache, self.store_client)
        self.slot_states = SlotStates(backend, self.cache, settings.slot_ctx)

    # ---- one step

    def step(self) -> bool:
        """Run one step. Its events are in `outbox` by the next decode. Returns False when nothing moved."""
        began, preempted = self._clock(), self.scheduler.preemptions
        self.store_client.look_up(self.scheduler.roster.startable())
        for request in self.scheduler.admit():
            if not request.answer.started:
                request.answer.started = began
        works = self.scheduler.plan()
        moved = bool(works or self.scheduler.ended) or self.scheduler.preemptions > preempted
        self._report_ended()
        decoding = 0.0
        for work in works:
            status, seconds = self._run(work)
            decoding += seconds
            self._report_ended()
            if status is not Status.OK:
                break  # making room or starting over may have changed residents that the other works use
        if works:
            self.stats.decode_seconds += decoding
            self.stats.step_seconds += self._clock() - began
        if self.failures.untested or (self.failures.failing and not works):
            self._test()
        return self._save(idle=not works) or moved

    def _save(self, *, idle: bool) -> bool:
        """Give the KV store one sequence, at the end as many as it takes. Returns True when it took one."""
        client = self.store_client
        if idle and client.draining and client.candidates():
            with suppress(Unavailable):
                self.slot_states.settle()
        took = more = client.enqueue_save()
        while more and client.draining:  # the next step may take long
            more = client.enqueue_save()
        return took

    def _test(self) -> None:
        """Decode one row, to see whether the library still works."""
        status = self.slot_states.decode_one_row()
        if status is None:
            return  # every slot is busy: the next decode will tell
        self.failures.tested(status)
        if status is Status.OK:
            _log.warning("a test of one row is evaluated without an error, so the engine goes on")
        else:
            _log.error("a test of one row fails too, with status %s", status.name)

    @property
    def unsaved(self) -> int:
        """Cached sequences that the KV store is to write and has not written yet."""
        return self.store_client.unsaved

    @property
    def waits_for_store(self) -> bool:
        """Whether to step again although nothing moves: an answer may not come, a disk may recover."""
        return self.store_client.postponed or any(request.awaits_store for request in self.scheduler.queue)

    def _run(self, work: Work) -> tuple[Status, float]:
        """Decode one work and act on the result. Also returns the seconds inside decode."""
        if all(request.client.cancelled for request, _, _ in work.parts):
            return Status.OK, 0.0
        self.backend.set_lora(work.lora)
        before = self._clock()
        with self._around_decode(work):
            status = self._decode(work)
        after = self._clock()
        self.failures.decoded(status)
        if status is Status.OK:
            self.stats.decoded(work.kind, work.n_tokens, after - before)
            self.stats.busy_slots += len(work.parts)
            self.scheduler.commit(work)
            self._report_progress(work, after)
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
            resident = work.parts[0].resident
            return self.backend.decode_media(work.media, resident.position, resident.seq)
        return self.backend.decode(work.batch, embeddings=work.kind == "embed")

    def _results(self, work: Work, now: float) -> None:
        if work.kind == "embed":
            self._embedded(work, now)
            return
        for request, row, token in work.scores:
            self._guarded(request, self._score, row, token)
        for request, row in work.samples:
            self._guarded(request, self._sample, row)

    def _guarded(self, request: ActiveRequest, call: Callable[..., None], *args: int) -> None:
        """Call for a request. A defect in one sampler must not end the answers of other requests."""
        if request.client.cancelled or request.phase is Phase.DONE:
            return
        try:
            call(request, *args)
        except ServerError as error:
            self._end(request, Failed(error))
        except Exception:
            _log.exception("sampling failed")
            self._end(request, Failed(EngineFailure("sampling failed; see the server's log")))

    def _score(self, request: ActiveRequest, row: int, token: int) -> None:
        assert request.task.sampler is not None
        request.answer.pending_scores.append(request.task.sampler.score(self.backend.logits(row), token))
        request.answer.n_scored += 1

    def _embedded(self, work: Work, now: float) -> None:
        request, resident, _ = work.parts[0]
        vectors = self.backend.embeddings(resident.seq, range(len(work.batch)))
        self.stats.prompt_done(request.n_prompt, 0, now - request.answer.started)
        self._end(request, Embedded(vectors, request.n_prompt))

    # ---- tokens

    def _sample(self, request: ActiveRequest, row: int) -> None:
        if request.phase is Phase.PREFILL and self._prompt_done(request):
            return
        task, answer = request.task, request.answer
        assert task.sampler is not None
        try:
            token, probs = task.sampler.sample(self.backend.logits(row))
        except AnswerCompleteError:
            self._finish(request, "", "eos", self._clock())
            return
        now = self._clock()
        self._time_token(request, now)
        answer.n_decoded += 1
        request.client.generated += 1
        self.stats.predicted_tokens += 1
        if task.params.return_tokens:
            answer.pending_tokens.append(token)
        if probs is not None:
            answer.pending_probs.append(probs)
        vocab = self.backend.vocab
        if token in vocab.eog:
            self._finish(request, "", "eos", now)
            return
        text = answer.text.push(vocab.special_piece(token) if token in task.shown else vocab.piece(token))
        text, reason = answer.take(text, task.n_predict, task.params.max_predict_ms, now)
        if reason:
            self._finish(request, text, reason, now)
            return
        answer.token = token
        if text:
            self._emit(request, answer.delta(text, request.timings(now) if task.params.timings_per_token else None))

    def _emit(self, request: ActiveRequest, delta: Delta) -> None:
        request.client.emitted += delta.weight
        self.outbox.append((request, delta))

    def _report_progress(self, work: Work, now: float) -> None:
        for request, _, _ in work.parts:
            if request.phase is Phase.PREFILL and request.task.params.return_progress and not request.n_decoded:
                took = (now - request.answer.started) * 1000
                progress = Progress(request.n_prompt, request.n_cached, request.n_past, took)
                self._emit(request, Delta("", progress=progress))

    def _prompt_done(self, request: ActiveRequest) -> bool:
        """The whole prompt is in the cache. Returns True when nothing is to be generated.

        For a request that was preempted this is not the first time.
        """
        if request.answer.n_decoded == 0:
            task, now = request.task, self._clock()
            self.stats.prompt_done(request.n_prompt - request.n_cached, request.n_cached, now - request.answer.started)
            if scores := request.answer.pending_scores:
                self._emit(request, Delta("", scores=scores))
                request.answer.pending_scores = []
            if task.n_predict == 0:
                self._finish(request, "", "limit", now)
                return True
            if task.sampler is not None:
                task.sampler.prime([key for key in request.keys if key >= 0])
        self.scheduler.begin_decode(request)
        return False

    def _time_token(self, request: ActiveRequest, now: float) -> None:
        answer = request.answer
        if answer.n_decoded == 0:
            answer.first_token = now
            self.stats.first_token.observe(now - answer.arrived)
        else:
            self.stats.inter_token.observe(now - answer.last_token)
        answer.last_token = now

    def _finish(self, request: ActiveRequest, text: str, reason: str, now: float) -> None:
        answer = request.answer
        answer.reason = reason
        timings = request.timings(now)
        if answer.n_decoded:
            self.stats.answer_done(answer.n_decoded, timings.predicted_ms / 1000)
        self.stats.most_tokens = max(self.stats.most_tokens, request.n_past)
        content = text + answer.text.finish()
        finish = Finish(
            content=content,
            reason=reason,
            stopping_word=answer.text.stopping_word,
            truncated=request.truncated,
            has_new_line=answer.lines.several or "\n" in content,
            n_prompt=request.n_prompt,
            n_cached=request.n_cached,
            n_decoded=answer.n_decoded,
            id_slot=request.slot.id if request.slot else -1,
            timings=timings,
            tokens=tuple(answer.pending_tokens),
            probs=tuple(answer.pending_probs),
            n_reasoning=request.task.sampler.reasoning_tokens if request.task.sampler is not None else 0,
        )
        self._end(request, finish)

    def _report_ended(self) -> None:
        """Send the ends of requests that the scheduler ended by itself."""
        for ended in self.scheduler.ended:
            if ended.error is not None:
                self._end(ended.request, Failed(ended.error))
            elif ended.request.phase is not Phase.DONE:
                self._finish(ended.request, "", ended.reason, self._clock())
        self.scheduler.ended.clear()

    def _end(self, request: ActiveRequest, event: Event) -> None:
        self._leave(request)
        if isinstance(event, Failed):
            self.stats.failed(as_server_error(event.error).status)
        self.outbox.append((request, event))

    def _leave(self, request: ActiveRequest) -> None:
        self.scheduler.finish(request)
        if request.task.sampler is not None:
            request.task.sampler.close()

    # ---- requests

    def enqueue(self, request: ActiveRequest) -> None:
        """Take a request in."""
        request.answer.arrived = self._clock()
        self.stats.requests += 1
        self.scheduler.queue.append(request)

    def cancel(self, request: ActiveRequest) -> None:
        """The client has gone: free the slot. What was computed stays as cache."""
        if request.phase is not Phase.DONE:
            self.stats.cancelled += 1
            self._leave(request)

    def cut_off(self, error: Exception) -> None:
        """End every request with an error. What was computed stays as cache."""
        for request in [*self.scheduler.running(), *self.scheduler.queue]:
            self._end(request, Failed(error))

    def fail_all(self, error: Exception) -> None:
        """End every request with an error and forget the cache."""
        self.scheduler.ended.clear()
        self.cut_off(error)
        for resident in self.residents:
            self.cache.clear(resident)

    # ---- monitoring

    def snapshot(self) -> Snapshot:
        """An immutable view of everything."""
        return Snapshot(
            state="ready",
            load_progress=1.0,
            slots=tuple(self._view(slot) for slot in self.residents.slots),
            requests_processing=sum(slot.busy for slot in self.residents.slots),
            requests_deferred=len(self.scheduler.queue),
            kv_cells_used=self.residents.cells_used,
            kv_cells_total=self.backend.info.n_ctx,
            counters=self.stats.freeze(self.scheduler.preemptions, self.failures.totals),
            kv_store=self.store_client.stats(),
            kv_unsaved=self.unsaved,
        )

    def _view(self, slot: Slot) -> SlotView:
        n_past = len(slot.resident.keys) if slot.resident else 0
        request = self.scheduler.roster.last[slot.id]
        if request is None:
            return SlotView(slot.id, self.settings.slot_ctx, n_past=n_past)
        task, answer = request.task, request.answer
        return SlotView(
            id=slot.id,
            n_ctx=self.settings.slot_ctx,
            state=int(slot.busy),
            id_task=task.id_task,
            tag=task.tag,
            owner=task.tenant.key,
            has_next_token=slot.busy and request.phase in (Phase.PREFILL, Phase.DECODE),
            n_remain=task.n_predict - answer.n_decoded if task.n_predict >= 0 else -1,
            n_decoded=answer.n_decoded,
            stopped_reason=answer.reason,
            stopping_word=answer.text.stopping_word,
            n_prompt=request.n_prompt,
            n_prompt_processed=min(n_past, request.n_prompt),
            n_cached=request.n_cached,
            cached_from=request.cached_from,
            n_past=n_past,
        )
