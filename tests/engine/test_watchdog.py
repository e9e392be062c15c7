"""The watchdog: when a decode counts as hanging, what that ends, and that it can come back."""

import asyncio
import logging
import threading
from dataclasses import replace

import pytest
from llamaserver.engine.activity import Activities, Activity
from llamaserver.engine.watchdog import Watchdog, limit
from llamaserver.errors import EngineFailure, Unavailable
from llamaserver.interfaces.output import Delta, Failed
from llamaserver.standstill import TICK, Alarm, Standstill

from tests.engine.test_loop import SETTINGS, Gate, collect, request, running
from tests.support.engine.driver import tokens
from tests.support.polling import eventually


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A watchdog and what it watches, a second a look."""

    def __init__(self, timeout: float | None) -> None:
        self.clock, self.activities, self.ends = Clock(), Activities(), list[str]()
        self.alarm = Alarm(lambda: "here", self.ends.append, self.clock)
        self.faults = 0
        self.dog = Watchdog(timeout, lambda: self.activities.now, self.alarm, lambda: self.faults)

    def after(self, seconds: float) -> tuple[bool, bool]:
        """Whether it is unready, and dead."""
        for _ in range(round(seconds / TICK)):
            self.clock.now += TICK
            self.dog.look()
        return bool(self.alarm.reason), self.alarm.dead


@pytest.mark.parametrize(
    ("timeout", "usual", "seconds"),
    [(None, 0.0, 600.0), (None, 0.1, 60.0), (None, 3.0, 60.0), (None, 30.0, 600.0), (5.0, 30.0, 5.0), (7.5, 0.0, 7.5)],
)
def test_the_limit_is_given_or_twenty_times_the_usual_time(timeout: float | None, usual: float, seconds: float) -> None:
    assert limit(timeout, Activity("a decode", usual)) == seconds


def test_first_unready_then_dead_then_back(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(10)
    watched.activities.begin("a decode of 7 tokens", 0.1)
    watched.dog.look()
    assert watched.after(9) == (False, False)
    assert watched.after(1) == (True, False)
    assert watched.alarm.reason.startswith("a decode of 7 tokens hangs since 20")
    assert "It is at here" in caplog.text
    assert watched.after(9) == (True, False)
    assert not watched.ends
    assert watched.after(30) == (True, True)
    assert watched.ends == [watched.alarm.reason]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    watched.activities.begin("a decode of 7 tokens", 0.1)
    assert watched.after(1) == (False, False)
    assert "goes on after 49 seconds" in caplog.text


def test_rest_and_a_row_of_decodes_are_no_standstill() -> None:
    watched = Watched(2)
    for _ in range(9):
        watched.activities.begin("a decode", 1.0)
        assert watched.after(1) == (False, False)
    watched.activities.rest()
    assert watched.after(100) == (False, False)


def test_a_model_that_is_paged_in_again_is_no_standstill() -> None:
    watched = Watched(60)
    watched.activities.begin("a decode", 0.1)
    for _ in range(20):  # 200 seconds, and a page now and then
        watched.faults += 1
        assert watched.after(10) == (False, False)
    assert watched.after(61) == (True, False)
    watched.faults += 1
    assert watched.after(1) == (False, False)
    assert watched.after(120) == (True, True)
    watched.faults += 1
    assert watched.after(1) == (True, True), "its requests have ended, so a page of another thread changes nothing"


def test_time_in_which_the_observer_itself_stood_still_does_not_count() -> None:
    clock = Clock()
    still, what = Standstill(clock), object()
    still.look(what)
    clock.now += 1000  # suspended
    assert still.look(what) == 2 * TICK
    clock.now += TICK
    assert still.look(what) == 3 * TICK


async def test_a_hung_decode_ends_streams_with_an_error_and_the_engine_comes_back() -> None:
    async with running(replace(SETTINGS, decode_timeout=1.0)) as (engine, backend):
        await collect(engine.submit(request(engine, tokens(9))))
        gate = Gate(backend, rows=1)
        stream = engine.submit(request(engine, tokens(12), n_predict=50))
        await gate.reached()
        waiting = engine.submit(request(engine, tokens(5), n_predict=0))
        saving = asyncio.create_task(engine.erase_slot(0))
        await eventually(lambda: engine.alarm.dead, "the engine counts as dead")
        assert "a decode of 1 tokens hangs since" in engine.alarm.reason
        for hanging in (stream, waiting):
            end = (await collect(hanging))[-1]
            assert isinstance(end, Failed)
            assert isinstance(end.error, EngineFailure)
            assert "hangs" in str(end.error)
        with pytest.raises(EngineFailure, match="hangs"):
            await saving
        with pytest.raises(Unavailable, match="hangs"):
            engine.submit(request(engine, tokens(9)))
        gate.open()
        await eventually(lambda: not engine.alarm.reason, "the engine goes on")
        events = await collect(engine.submit(request(engine, tokens(9))))
        assert not isinstance(events[-1], Delta | Failed)
        await engine.drain()
        assert engine.snapshot.requests_processing == 0


async def test_it_can_be_switched_off() -> None:
    async with running(replace(SETTINGS, decode_timeout=0.0)) as (engine, _):
        assert engine._watching
        await engine._watching


async def test_a_state_that_is_never_saved_is_a_hang_too() -> None:
    async with running(replace(SETTINGS, decode_timeout=0.5)) as (engine, backend):
        await collect(engine.submit(request(engine, tokens(9))))
        reached, opened = threading.Event(), threading.Event()
        save = backend.state_get

        def hangs(seq: int) -> bytes:
            reached.set()
            opened.wait(20)
            return save(seq)

        backend.state_get = hangs  # type: ignore[method-assign]
        saving = asyncio.create_task(engine.save_slot(0))
        await eventually(reached.is_set, "it saves")
        await eventually(lambda: engine.alarm.dead, "the engine counts as dead")
        assert engine.alarm.reason.startswith("an engine step hangs since ")
        with pytest.raises(EngineFailure, match="hangs"):
            await saving
        opened.set()
        await eventually(lambda: not engine.alarm.reason, "it goes on")
