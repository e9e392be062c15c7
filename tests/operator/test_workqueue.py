"""The work queue on a virtual clock: never two runs of a key at once, and no run lost."""

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable

import pytest
from llamaserver_operator import logs
from llamaserver_operator.errors import Unreachable
from llamaserver_operator.metrics import Metrics
from llamaserver_operator.workqueue import Key, WorkQueue, pause

from tests.support.virtual_time import now, run

A, B, C = ("ns", "a"), ("ns", "b"), ("other", "a")


class Recorder:
    """A reconcile that records when it ran, and how many ran at once."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.started: dict[Key, list[float]] = defaultdict(list)
        self.running: dict[Key, int] = defaultdict(int)
        self.most = 0
        self.then: dict[Key, Callable[[], float | None]] = {}

    async def __call__(self, key: Key) -> float | None:
        self.started[key].append(now())
        self.running[key] += 1
        self.most = max(self.most, sum(self.running.values()))
        assert self.running[key] == 1, "two runs of one key"
        try:
            await asyncio.sleep(self.seconds)
            return self.then[key]() if key in self.then else None
        finally:
            self.running[key] -= 1

    def count(self, key: Key) -> int:
        return len(self.started[key])


def with_queue(
    test: Callable[[WorkQueue, Recorder], Awaitable[None]],
    recorder: Recorder,
    metrics: Metrics | None = None,
    **options: float,
) -> None:
    async def main() -> None:
        queue = WorkQueue(recorder, metrics or Metrics(), **options)  # type: ignore[arg-type]
        running = asyncio.create_task(queue.run())
        try:
            await test(queue, recorder)
        finally:
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled() or running.exception() is None, running.exception()

    run(main())


def test_many_events_before_a_run_are_one_run() -> None:
    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        for _ in range(50):
            queue.add(A)
        assert queue.depth == 1
        await asyncio.sleep(100)
        assert recorder.count(A) == 1

    with_queue(test, Recorder())


def test_events_during_a_run_are_one_more_run() -> None:
    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        queue.add(A)
        await asyncio.sleep(0.5)
        for _ in range(50):
            queue.add(A)
        await asyncio.sleep(100)
        first, second = recorder.started[A]
        assert second == first + recorder.seconds, "right after the run that may not have seen them"

    with_queue(test, Recorder())


def test_as_many_keys_at_once_as_workers() -> None:
    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        keys = [(f"ns-{number % 2}", str(number)) for number in range(10)]
        for key in keys:
            queue.add(key)
        await asyncio.sleep(100)
        assert recorder.most == 3
        assert all(recorder.count(key) == 1 for key in keys)

    with_queue(test, Recorder(), workers=3)


def test_namespaces_take_turns_and_leave_each_other_a_worker() -> None:
    """A thousand objects of one namespace, whose runs are slow, hold up no other namespace."""
    recorder = Recorder(seconds=2)

    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        for number in range(1000):
            queue.add(("many", str(number)))
        await asyncio.sleep(1)
        assert recorder.most == 3, "one worker is free"
        began = now()
        for key in (B, C):
            queue.add(key)
        await asyncio.sleep(100)
        assert recorder.started[B] == [began]
        assert recorder.started[C][0] - began <= 2, "at the next turn"

    with_queue(test, recorder, workers=4)


def test_a_key_that_is_added_again_and_again_runs_once_a_second() -> None:
    """An object that is edited in a loop is no reconcile in a loop. The last edit is seen."""
    recorder = Recorder(seconds=0)

    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        last = 0.0
        for _ in range(1000):
            queue.add(A)
            last = now()
            await asyncio.sleep(0.1)
        await asyncio.sleep(10)
        assert 100 <= recorder.count(A) <= 111
        assert recorder.started[A][-1] >= last
        assert recorder.started[A][9] - recorder.started[A][0] < 1, "a few edits are seen at once"
        queue.add(B)
        await asyncio.sleep(0.01)
        assert recorder.count(B) == 1

    with_queue(test, recorder)


def test_one_slow_key_does_not_hold_up_the_others() -> None:
    recorder = Recorder()

    async def reconcile(key: Key) -> float | None:
        if key == A:
            await asyncio.sleep(60)
        return await recorder(key)

    async def main() -> None:
        queue = WorkQueue(reconcile, Metrics(), workers=2)
        running = asyncio.create_task(queue.run())
        queue.add(A)
        await asyncio.sleep(0)
        queue.add(B)
        queue.add(C)
        await asyncio.sleep(5)
        assert recorder.count(B) == recorder.count(C) == 1
        running.cancel()
        await asyncio.wait({running})

    run(main())


def test_the_earliest_next_run_wins_and_is_one_run() -> None:
    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        began = now()
        queue.add_after(A, 50)
        queue.add_after(A, 10)
        queue.add_after(A, 30)
        await asyncio.sleep(200)
        assert recorder.started[A] == [began + 10]

    with_queue(test, Recorder())


def test_a_run_may_ask_for_the_next_one() -> None:
    recorder = Recorder(seconds=1)
    answers = iter([7.0, 20.0, None])
    recorder.then[A] = lambda: next(answers)

    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        began = now()
        queue.add(A)
        await asyncio.sleep(200)
        assert recorder.started[A] == [began, began + 8, began + 29]

    with_queue(test, recorder)


def test_an_event_does_not_wait_for_the_next_run_that_was_asked_for_and_replaces_it() -> None:
    recorder = Recorder(seconds=1)
    answers = iter([100.0, None])
    recorder.then[A] = lambda: next(answers)

    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        began = now()
        queue.add(A)
        await asyncio.sleep(5)
        queue.add(A)
        await asyncio.sleep(500)
        assert recorder.started[A] == [began, began + 5]

    with_queue(test, recorder)


def test_failures_pause_longer_and_longer_and_a_success_begins_anew() -> None:
    recorder = Recorder(seconds=0)
    failing = True

    def outcome() -> None:
        if failing:
            raise Unreachable("no answer")

    recorder.then[A] = outcome

    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        nonlocal failing
        queue.add(A)
        await asyncio.sleep(3600)
        pauses = [b - a for a, b in zip(recorder.started[A], recorder.started[A][1:], strict=False)]
        for number, seconds in enumerate(pauses):
            middle = min(120.0, 0.5 * 2**number)
            assert 0.75 * middle <= seconds <= 1.25 * middle + 1e-6, (number, seconds)
        assert len(pauses) > 20, "an hour of two-minute pauses"
        failing = False
        await asyncio.sleep(300)
        failing = True
        before = recorder.count(A)
        queue.add(A)
        await asyncio.sleep(1.0)
        assert recorder.count(A) >= before + 2, "the first pause after a success is the short one"

    with_queue(test, recorder)


def test_an_event_does_not_wait_for_the_pause_and_does_not_shorten_the_next_one() -> None:
    recorder = Recorder(seconds=0)

    def fail() -> None:
        raise Unreachable("no answer")

    recorder.then[A] = fail

    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        queue.add(A)
        await asyncio.sleep(60)
        before = recorder.count(A)
        queue.add(A)
        await asyncio.sleep(0.1)
        assert recorder.count(A) == before + 1
        await asyncio.sleep(40)
        assert recorder.count(A) == before + 1, "a pause of a minute goes on"

    with_queue(test, recorder)


def test_pauses_differ_so_that_objects_do_not_come_back_in_step() -> None:
    assert len({pause(5) for _ in range(100)}) > 90
    assert max(pause(10_000) for _ in range(100)) <= 150


def test_an_error_of_one_key_is_logged_and_does_not_stop_others(caplog: pytest.LogCaptureFixture) -> None:
    recorder, metrics = Recorder(seconds=0), Metrics()

    def fail() -> None:
        raise ZeroDivisionError("a bug")

    recorder.then[A] = fail
    seen: list[Key | None] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.ERROR:
                seen.append(logs.current.get())

    logger, handler = logging.getLogger("llamaserver_operator.workqueue"), Handler()
    logger.addHandler(handler)
    try:

        async def test(queue: WorkQueue, recorder: Recorder) -> None:
            queue.add(A)
            queue.add(B)
            await asyncio.sleep(0.1)
            assert recorder.count(B) == 1
            await asyncio.sleep(5)

        with_queue(test, recorder, metrics)
    finally:
        logger.removeHandler(handler)
    assert set(seen) == {A}
    assert logs.current.get() is None
    assert "ZeroDivisionError: a bug" in caplog.text
    value = metrics.registry.get_sample_value
    failed = value("llamaserver_operator_reconciles_total", {"result": "error"})
    assert failed == value("llamaserver_operator_errors_total", {"kind": "ZeroDivisionError"}) == recorder.count(A)
    assert value("llamaserver_operator_reconciles_total", {"result": "ok"}) == 1
    assert value("llamaserver_operator_reconcile_duration_seconds_count") == recorder.count(A) + 1


def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder, down = Recorder(seconds=0), True

    def outcome() -> None:
        if down:
            raise Unreachable("no answer")

    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        nonlocal down
        for number in range(50):
            recorder.then["ns", str(number)] = outcome
            queue.add(("ns", str(number)))
        await asyncio.sleep(60)
        assert caplog.text.count("no answer") == 1
        down = False
        await asyncio.sleep(120)
        down = True
        queue.add(("ns", "1"))
        await asyncio.sleep(5)
        assert caplog.text.count("no answer") == 2

    with_queue(test, recorder)


def test_a_run_that_hangs_is_cut_off_and_tried_again() -> None:
    recorder = Recorder(seconds=10_000)

    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        queue.add(A)
        await asyncio.sleep(35)
        assert recorder.count(A) >= 2
        assert queue.stuck_for() == 0

    with_queue(test, recorder, run_limit=10)


def test_a_run_that_cannot_be_cancelled_is_reported() -> None:
    released = False

    async def reconcile(_: Key) -> None:
        while not released:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    async def main() -> None:
        nonlocal released
        queue = WorkQueue(reconcile, Metrics(), run_limit=10)
        running = asyncio.create_task(queue.run())
        queue.add(A)
        await asyncio.sleep(15)
        assert queue.stuck_for() == 0
        await asyncio.sleep(15)
        assert queue.stuck_for() > 0
        released = True
        await asyncio.sleep(2)
        assert queue.stuck_for() == 0
        running.cancel()
        await asyncio.wait({running})

    run(main())


def test_draining_lets_runs_end_and_starts_none() -> None:
    async def test(queue: WorkQueue, recorder: Recorder) -> None:
        for key in (A, B, C):
            queue.add(key)
        queue.add_after(("ns", "later"), 2)
        await asyncio.sleep(0.5)
        queue.add(A)  # would be one more run
        assert await queue.drain(100)
        assert recorder.running == {A: 0, C: 0}, "the namespaces take turns"
        queue.add(B)
        await asyncio.sleep(100)
        assert (recorder.count(A), recorder.count(B), recorder.count(C), recorder.count(("ns", "later"))) == (
            1,
            0,
            1,
            0,
        )

    with_queue(test, Recorder(), workers=2)


def test_draining_gives_up_after_its_time_and_the_rest_is_cancelled() -> None:
    metrics = Metrics()

    async def test(queue: WorkQueue, _: Recorder) -> None:
        queue.add(A)
        await asyncio.sleep(0.5)
        assert not await queue.drain(5)

    with_queue(test, recorder := Recorder(seconds=100), metrics)
    assert recorder.running[A] == 0
    assert metrics.registry.get_sample_value("llamaserver_operator_reconciles_total", {"result": "cancelled"}) == 1


def test_the_depth_is_a_metric() -> None:
    metrics = Metrics()

    async def test(queue: WorkQueue, _: Recorder) -> None:
        for number in range(10):
            queue.add((f"ns-{number % 2}", str(number)))
        await asyncio.sleep(0.5)
        assert queue.depth == 6
        assert metrics.registry.get_sample_value("llamaserver_operator_queue_depth") == 6
        await asyncio.sleep(10)
        assert metrics.registry.get_sample_value("llamaserver_operator_queue_depth") == 0

    with_queue(test, Recorder(), metrics)


@pytest.mark.parametrize("seed", range(30))
def test_every_event_is_followed_by_a_run_that_began_after_it(seed: int) -> None:
    """In any order of events, failures and timers, no event is lost and no key runs twice at once."""
    chance = random.Random(seed)
    keys = [("ns", str(number)) for number in range(5)]
    recorder = Recorder()
    last: dict[Key, float] = {}

    async def reconcile(key: Key) -> float | None:
        recorder.seconds = chance.choice([0, 0.01, 0.5, 3])
        await recorder(key)
        if chance.random() < 0.2:
            raise Unreachable("no answer")
        return chance.choice([None, None, 0.1, 5])

    async def main() -> None:
        queue = WorkQueue(reconcile, Metrics(), workers=chance.choice([1, 2, 5]))
        running = asyncio.create_task(queue.run())
        for _ in range(300):
            key = chance.choice(keys)
            last[key] = now()
            queue.add(key)
            await asyncio.sleep(chance.choice([0, 0, 0.005, 0.3, 2]))
        await asyncio.sleep(600)
        for key, when in last.items():
            assert recorder.started[key][-1] >= when
        assert queue.depth == 0
        running.cancel()
        await asyncio.wait({running})

    run(main())
