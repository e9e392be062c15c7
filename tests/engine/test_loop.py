"""The engine thread and its door: loading, events in order, cancellation, slot calls, stopping."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.engine.loop import Engine, EngineSettings, Request, SlotState
from llamaserver.engine.stream import Stream
from llamaserver.errors import ContextExceeded, EngineFailure, InvalidRequest, ModelLoadError, NotSupported, Unavailable
from llamaserver.interfaces.backend import Batch, Status
from llamaserver.interfaces.output import Delta, Embedded, Event, Failed, Finish
from llamaserver.interfaces.params import GenerationParams, Prompt
from llamaserver.interfaces.tenant import Tenant
from llamaserver.scheduling.client_flow import MAX_BACKLOG, ClientFlow

from tests.support.engine.driver import GREEDY, solo, tokens
from tests.support.engine.options import engine_settings
from tests.support.engine.toy import ToyBackend
from tests.support.polling import eventually

SETTINGS = engine_settings(n_slots=2, slot_ctx=128, cont_batching=True)


class Toy:
    """Makes the backend on the engine thread, as loading a model does, and keeps it for the test."""

    def __init__(self, **options: Any) -> None:
        self._options = {"n_ctx": 256, "n_seq_max": 2, **options}
        self.backend: ToyBackend

    def __call__(self, progress: Callable[[float], bool]) -> ToyBackend:
        progress(0.5)
        self.backend = ToyBackend(**self._options)
        return self.backend


@asynccontextmanager
async def running(settings: EngineSettings = SETTINGS, **options: Any) -> AsyncIterator[tuple[Engine, ToyBackend]]:
    toy = Toy(**options)
    engine = Engine(toy, settings)
    engine.start()
    async with asyncio.timeout(20):
        await engine.loaded()
        try:
            yield engine, toy.backend
        finally:
            await engine.stop()
    assert toy.backend.closed


def request(engine: Engine, prompt: list[int], n_predict: int = 8, **fields: Any) -> Request:
    params = GenerationParams(n_predict=n_predict, sampling=GREEDY, **fields)
    return Request(Prompt.of(prompt), params, engine.make_sampler(GREEDY, engine.settings.slot_ctx))


async def collect(stream: Stream) -> list[Event]:
    events = [await stream.next()]
    while isinstance(events[-1], Delta):
        events.append(await stream.next())
    return events


class Gate:
    """Holds the decodes (of `rows` rows, when given) until the test opens it."""

    def __init__(self, backend: ToyBackend, rows: int = 0) -> None:
        self._reached, self._open, self._rows = threading.Event(), threading.Event(), rows
        backend.on_decode = self._wait

    def _wait(self, batch: Batch) -> None:
        if self._rows in (0, len(batch)):
            self._reached.set()
            assert self._open.wait(10)

    async def reached(self) -> None:
        """Wait until a decode is held."""
        assert await asyncio.to_thread(self._reached.wait, 10)

    def open(self) -> None:
        self._open.set()


def text(events: list[Event]) -> str:
    return "".join(event.content for event in events if isinstance(event, Delta | Finish))


# ---- loading


async def test_it_loads_serves_and_frees_the_model() -> None:
    async with running() as (engine, backend):
        assert engine.snapshot.state == "ready"
        assert engine.info is backend.info
        events = await collect(engine.submit(request(engine, tokens(20))))
        params = GenerationParams(n_predict=8, sampling=GREEDY)
        assert text(events) == solo(tuple(tokens(20)), params, slot_ctx=128)[0]
        assert [type(event) for event in events[:-1]] == [Delta] * (len(events) - 1)
    assert engine.snapshot.state == "stopped"


@pytest.mark.parametrize("error", [ModelLoadError("no such file"), ValueError("a defect")])
async def test_a_model_that_does_not_load_says_why(error: Exception) -> None:
    def fail(progress: Callable[[float], bool]) -> ToyBackend:
        raise error

    engine = Engine(fail, SETTINGS)
    engine.start()
    with pytest.raises(ModelLoadError, match=str(error)):
        await engine.loaded()
    assert engine.snapshot.state == "failed"
    assert str(error) in engine.snapshot.error
    with pytest.raises(Unavailable):
        engine.submit(Request(Prompt.of([1]), GenerationParams()))
    await engine.stop()


async def test_loading_is_reported_and_can_be_stopped() -> None:
    going, wanted = threading.Event(), []

    def load(progress: Callable[[float], bool]) -> ToyBackend:
        progress(0.25)
        going.set()
        while progress(0.5):
            pass
        wanted.append(False)
        raise ModelLoadError("given up")

    engine = Engine(load, SETTINGS)
    engine.start()
    await asyncio.to_thread(going.wait, 10)
    assert engine.snapshot.state == "loading"
    assert engine.snapshot.load_progress >= 0.25
    with pytest.raises(Unavailable, match="Loading"):
        engine.submit(Request(Prompt.of([1]), GenerationParams()))
    with pytest.raises(Unavailable, match="Loading"):
        await engine.erase_slot(0)
    await engine.stop()
    assert wanted == [False]


async def test_self_extend_is_refused_for_a_cache_that_cannot_shift() -> None:
    engine = Engine(Toy(can_shift=False), engine_settings(n_slots=2, grp_attn_n=4))
    engine.start()
    with pytest.raises(ModelLoadError, match="grp-attn"):
        await engine.loaded()
    await engine.stop()


async def test_a_slot_takes_its_size_from_the_model_when_none_is_given() -> None:
    async with running(engine_settings(n_slots=2, slot_ctx=0)) as (engine, _):
        assert engine.settings.slot_ctx == 128
    async with running(engine_settings(n_slots=2, slot_ctx=0), unified=True) as (engine, _):
        assert engine.settings.slot_ctx == 256


# ---- what is refused at the door


async def test_a_request_that_can_never_run_is_refused_at_once() -> None:
    async with running() as (engine, _):
        for bad, error in (
            (request(engine, []), InvalidRequest),
            (request(engine, tokens(5), id_slot=2), InvalidRequest),
            (Request(Prompt.of([]), GenerationParams(), kind="embedding"), InvalidRequest),
            (Request(Prompt.of(tokens(33)), GenerationParams(), kind="embedding"), InvalidRequest),
        ):
            with pytest.raises(error):
                engine.submit(bad)
        with pytest.raises(InvalidRequest):
            engine.set_lora((1.0,))
        for index in (-1, 2):
            with pytest.raises(InvalidRequest):
                await engine.erase_slot(index)
        await engine.drain()  # nothing is left of them


async def test_an_embedding_must_fit_its_slot() -> None:
    settings = engine_settings(n_slots=8, slot_ctx=8)
    async with running(settings, n_ctx=64, n_seq_max=8) as (engine, _):
        params = GenerationParams()
        assert isinstance(await engine.submit(Request(Prompt.of(tokens(8)), params, kind="embedding")).next(), Embedded)
        with pytest.raises(InvalidRequest):
            engine.submit(Request(Prompt.of(tokens(9)), params, kind="embedding"))


async def test_an_encoder_generates_nothing() -> None:
    async with running(causal=False) as (engine, _):
        with pytest.raises(NotSupported):
            engine.submit(request(engine, tokens(5)))


async def test_a_prompt_that_is_too_long_is_cut_or_refused() -> None:
    async with running() as (engine, _):
        end = (await collect(engine.submit(request(engine, tokens(500), n_predict=2))))[-1]
        assert end.truncated
        assert end.n_prompt < 128
    async with running(engine_settings(n_slots=2, slot_ctx=128, context_shift=False)) as (engine, _):
        with pytest.raises(ContextExceeded) as caught:
            engine.submit(request(engine, tokens(128)))
        assert caught.value.extra == {"n_prompt_tokens": 128, "n_ctx": 128}
        end = (await collect(engine.submit(request(engine, tokens(127), n_predict=50))))[-1]
        assert (end.reason, end.truncated, end.n_decoded) == ("limit", True, 2)


@pytest.mark.parametrize(("limit", "words"), [(1, "1 request is waiting"), (2, "2 requests are waiting")])
async def test_the_queue_is_bounded(limit: int, words: str) -> None:
    async with running(engine_settings(n_slots=1, slot_ctx=128, max_queue=limit)) as (engine, backend):
        gate = Gate(backend)
        streams = [engine.submit(request(engine, tokens(5, seed))) for seed in range(1 + limit)]
        with pytest.raises(Unavailable, match=words) as caught:
            engine.submit(request(engine, tokens(5)))
        assert caught.value.retry_after == 1
        gate.open()
        await eventually(
            lambda: engine.snapshot.requests_deferred == limit or engine.snapshot.counters.requests_total == 1 + limit,
            "the engine to get there",
        )
        answers = [await collect(stream) for stream in streams]
        assert all(isinstance(events[-1], Finish) for events in answers)
        engine.submit(request(engine, tokens(5))).cancel()


async def test_a_key_that_fills_the_queue_does_not_shut_out_another() -> None:
    async with running(engine_settings(n_slots=1, slot_ctx=128, max_queue=5)) as (engine, backend):
        gate = Gate(backend)
        heavy, light = Tenant("heavy"), Tenant("light")
        streams = [engine.submit(replace(request(engine, tokens(5)), tenant=heavy)) for _ in range(6)]
        with pytest.raises(Unavailable):
            engine.submit(replace(request(engine, tokens(5)), tenant=heavy))
        streams += [engine.submit(replace(request(engine, tokens(5)), tenant=light)) for _ in range(3)]
        with pytest.raises(Unavailable):  # half of the queue is its share
            engine.submit(replace(request(engine, tokens(5)), tenant=light))
        gate.open()
        answers = [await collect(stream) for stream in streams]
        assert all(isinstance(events[-1], Finish) for events in answers)


@pytest.mark.parametrize(
    ("cap", "wanted", "got"), [(-1, 5, 5), (3, 5, 3), (7, 5, 5), (6, -1, 6), (0, 5, 0), (-1, 0, 0)]
)
async def test_the_server_caps_n_predict(cap: int, wanted: int, got: int) -> None:
    async with running(engine_settings(n_slots=1, slot_ctx=128, n_predict=cap)) as (engine, _):
        end = (await collect(engine.submit(request(engine, tokens(5), n_predict=wanted))))[-1]
        assert end.n_decoded == got


# ---- going away


async def test_leaving_the_stream_ends_the_request() -> None:
    async with running() as (engine, _):
        with engine.submit(request(engine, tokens(9), n_predict=-1)) as stream:  # would never end by itself
            assert isinstance(await stream.next(), Delta)
        await engine.drain()
        await eventually(lambda: engine.snapshot.requests_processing == 0, "the engine to get there")
        assert engine.snapshot.counters.requests_cancelled_total == 1
        assert isinstance((await collect(engine.submit(request(engine, tokens(9)))))[-1], Finish)


async def test_a_decode_whose_clients_have_all_gone_is_aborted() -> None:
    async with running() as (engine, backend):
        gate = Gate(backend)
        stream = engine.submit(request(engine, tokens(60), n_predict=100))
        await gate.reached()
        stream.cancel()
        stream.cancel()
        gate.open()
        await eventually(lambda: bool(backend.history), "the engine to get there")
        assert backend.history[0].status is Status.ABORTED
        assert backend.aborts == 1
        end = (await collect(engine.submit(request(engine, tokens(60), n_predict=3))))[-1]
        assert end.n_decoded == 3
        assert backend.history[-1].status is Status.OK


async def test_a_decode_that_others_need_is_not_aborted() -> None:
    async with running() as (engine, backend):
        gate = Gate(backend, rows=2)  # both generate
        first = engine.submit(request(engine, tokens(5), n_predict=100))
        second = engine.submit(request(engine, tokens(5, 1), n_predict=100))
        await gate.reached()
        first.cancel()
        gate.open()
        events = await collect(second)
        assert isinstance(events[-1], Finish)
        assert backend.aborts == 0


@pytest.mark.parametrize("partial_reuse", [True, False])
async def test_a_cut_off_does_not_wait_for_a_long_decode(partial_reuse: bool) -> None:
    async with running(partial_reuse=partial_reuse) as (engine, backend):
        gate = Gate(backend)
        stream = engine.submit(request(engine, tokens(60), n_predict=100))
        await gate.reached()
        done = engine.cut_off(Unavailable("the end"))
        assert not done.done()
        gate.open()
        await done
        assert isinstance((await collect(stream))[-1], Failed)
        # A recurrent state does not survive an abort.
        assert [one.status for one in backend.history] == [Status.ABORTED if partial_reuse else Status.OK]
        end = (await collect(engine.submit(request(engine, tokens(60), n_predict=3))))[-1]
        assert end.n_decoded == 3


async def test_many_requests_come_and_go() -> None:
    async with running(engine_settings(n_slots=2, slot_ctx=128, cont_batching=True), unified=True, n_seq_max=4) as (
        engine,
        _,
    ):

        async def one(i: int) -> None:
            with engine.submit(request(engine, tokens(3 + i % 40, i), n_predict=20)) as stream:
                if i % 3 == 0:
                    await stream.next()
                    return
                params = GenerationParams(n_predict=20, sampling=GREEDY)
                expected = solo(tuple(tokens(3 + i % 40, i)), params, slot_ctx=128)[0]
                assert text(await collect(stream)) == expected

        await asyncio.gather(*(one(i) for i in range(60)))
        await engine.drain()
        await eventually(
            lambda: engine.snapshot.requests_processing == engine.snapshot.requests_deferred == 0,
            "the engine to get there",
        )
        assert engine.snapshot.counters.requests_total == 60


# ---- clients that do not read


async def test_a_client_that_does_not_read_has_a_bounded_backlog_and_gets_everything_later() -> None:
    async with running(engine_settings(n_slots=2, slot_ctx=2048), n_ctx=4096, n_seq_max=2) as (engine, backend):
        stream = engine.submit(request(engine, tokens(5), n_predict=MAX_BACKLOG + 200))
        await eventually(lambda: len(backend.history) >= MAX_BACKLOG, "the engine to get there")
        other = await collect(engine.submit(request(engine, tokens(5, 1), n_predict=20)))
        assert isinstance(other[-1], Finish)
        rows = [one.rows for one in backend.history]
        assert not any(0 in row for row in rows[-15:])  # it rests
        events = await collect(stream)
        assert events[-1].n_decoded == MAX_BACKLOG + 200


@settings(deadline=None)
@given(st.lists(st.sampled_from(["deliver", "take", "take all", "plan"]), max_size=12), st.integers(0, 2))
def test_a_request_that_rests_is_always_woken(actions: list[str], ahead: int) -> None:
    """Whatever the order in which engine and client look at each other's counts."""
    client = ClientFlow()
    woken = []
    stream = Stream(1, client, lambda: None, lambda: woken.append(True))
    waiting = MAX_BACKLOG + ahead
    client.emitted = waiting
    for _ in range(MAX_BACKLOG - 2):
        stream.put(Delta("x"))
        waiting -= 1
    asleep = False
    for action in [*actions, "deliver", "deliver", "deliver", "deliver", "take all"]:
        if action == "deliver" and waiting:
            waiting -= 1
            stream.put(Delta("x"))
        elif action == "plan" and not asleep:
            woken.clear()
            asleep = client.rest()
        elif action == "take" and stream.ready():
            stream.take()
        elif action == "take all":
            while stream.ready():
                stream.take()
        asleep = asleep and not woken
    assert not asleep
    assert not client.rest()


# ---- slots


async def test_a_slot_is_saved_erased_and_restored() -> None:
    async with running() as (engine, _):
        await collect(engine.submit(request(engine, tokens(40), n_predict=3, id_slot=1)))
        state = await engine.save_slot(1)
        assert state.tokens[:40] == tuple(tokens(40))
        assert await engine.erase_slot(1) == 42
        assert engine.snapshot.kv_cells_used == 0
        assert await engine.restore_slot(0, state) == 42
        assert engine.snapshot.slots[0].n_past == 42
        end = (await collect(engine.submit(request(engine, tokens(40), n_predict=3))))[-1]
        assert (end.id_slot, end.n_cached) == (0, 38)
        with pytest.raises(InvalidRequest):
            await engine.restore_slot(0, SlotState((1, 2), b"junk"))


async def test_a_slot_call_waits_until_the_slot_is_idle() -> None:
    async with running(engine_settings(n_slots=1, slot_ctx=128)) as (engine, backend):
        gate = Gate(backend)
        stream = engine.submit(request(engine, tokens(9), n_predict=30))
        await gate.reached()
        later = engine.submit(request(engine, tokens(9, 1), n_predict=1))
        saving = asyncio.create_task(engine.save_slot(0))
        hasty = asyncio.create_task(engine.save_slot(0, wait=False))
        await asyncio.sleep(0)
        gate.open()
        await collect(stream)
        with pytest.raises(Unavailable, match="slot 0 is busy"):
            await hasty
        assert len((await saving).tokens) == 9 + 29  # before the next request took the slot
        await collect(later)


# ---- defects and the end


async def test_a_defect_ends_what_runs_and_the_engine_goes_on() -> None:
    async with running(engine_settings(n_slots=1, slot_ctx=128)) as (engine, backend):

        def defect(batch: Batch) -> None:
            backend.on_decode = lambda batch: None
            raise RuntimeError("defect")

        gate = Gate(backend)
        streams = [engine.submit(request(engine, tokens(9, seed), n_predict=30)) for seed in range(2)]
        await gate.reached()
        saving = asyncio.create_task(engine.save_slot(0))
        await asyncio.sleep(0)
        backend.on_decode = defect
        gate.open()
        for stream in streams:
            event = (await collect(stream))[-1]
            assert isinstance(event, Failed)
            assert isinstance(event.error, EngineFailure)
        assert (await saving).tokens == ()
        assert isinstance((await collect(engine.submit(request(engine, tokens(9)))))[-1], Finish)


async def test_stopping_answers_every_request_even_those_still_in_the_inbox() -> None:
    async with running(engine_settings(n_slots=1, slot_ctx=128)) as (engine, backend):
        gate = Gate(backend)
        streams = [engine.submit(request(engine, tokens(40), n_predict=30))]
        await gate.reached()
        streams += [engine.submit(request(engine, tokens(9, seed))) for seed in range(3)]
        erasing = asyncio.create_task(engine.erase_slot(0))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            engine.submit(request(engine, tokens(5)))
        with pytest.raises(Unavailable):
            await engine.erase_slot(0)
        gate.open()
        for stream in streams:
            event = (await collect(stream))[-1]
            assert isinstance(event, Failed)
            assert isinstance(event.error, Unavailable)
        with pytest.raises(Unavailable):
            await erasing
        await stopping
        await engine.drain()
        assert backend.history[0].status is Status.ABORTED


async def test_a_thread_that_dies_leaves_no_request_waiting() -> None:
    async with running(engine_settings(n_slots=1, slot_ctx=128)) as (engine, backend):
        gate = Gate(backend)
        stream = engine.submit(request(engine, tokens(9), n_predict=100))
        await gate.reached()
        engine._thread.send(lambda core: 1 // 0)
        gate.open()
        assert isinstance((await collect(stream))[-1], Failed)
        assert engine.snapshot.state == "failed"
        assert "ZeroDivisionError" in engine.snapshot.error
