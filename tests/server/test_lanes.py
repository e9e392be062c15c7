"""Worker threads are shared fairly by clients, and work that nobody waits for is not done."""

import asyncio
import threading

import pytest
from llamaserver.api.lanes import Lane, cancelled

from tests.support.polling import eventually


class Gate:
    """A call that blocks its thread until it is opened."""

    def __init__(self):
        self.began, self._open = threading.Event(), threading.Event()
        self.saw_cancel = False

    def __call__(self):
        self.began.set()
        assert self._open.wait(30)
        self.saw_cancel = cancelled()

    def open(self):
        self._open.set()


@pytest.fixture
def lane(request):
    made = Lane("test", getattr(request, "param", 1))
    yield made
    made.close()


async def blocked(lane, client):
    """A thread of the lane, held by this client."""
    gate = Gate()
    task = asyncio.create_task(lane.run(gate, client))
    await eventually(gate.began.is_set, "it runs")
    return gate, task


async def test_results_and_errors_come_back(lane):
    assert await lane.run(lambda: threading.current_thread().name) == "test_0"
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda: 1 / 0)
    assert await lane.run(cancelled) is False
    assert not cancelled()


async def test_clients_take_turns(lane):
    gate, holder = await blocked(lane, "z")
    done = []
    tasks = [
        asyncio.create_task(lane.run(lambda name=name: done.append(name), name[0]))
        for name in ("a1", "a2", "a3", "b1", "c1", "c2")
    ]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(holder, *tasks)
    assert done == ["a1", "b1", "c1", "a2", "c2", "a3"]


@pytest.mark.parametrize("lane", [2], indirect=True)
async def test_one_client_cannot_hold_all_threads(lane):
    gate, first = await blocked(lane, "greedy")
    second = asyncio.create_task(lane.run(lambda: "later", "greedy"))
    assert await lane.run(lambda: "other", "modest") == "other"
    assert not second.done()
    gate.open()
    assert (await first, await second) == (None, "later")


async def test_a_call_that_has_not_begun_is_dropped_when_its_client_leaves(lane):
    gate, holder = await blocked(lane, "a")
    ran = []
    task = asyncio.create_task(lane.run(lambda: ran.append(1), "b"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lane._waiting  # nor is kept what it refers to
    gate.open()
    await holder
    assert await lane.run(lambda: ran) == []


async def test_a_running_call_learns_that_its_client_has_left(lane):
    gate, task = await blocked(lane, "a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    assert await lane.run(lambda: "free", "a") == "free"
    assert gate.saw_cancel
    assert not lane._held


async def test_what_waits_at_the_end_is_cancelled(lane):
    gate, holder = await blocked(lane, "a")
    task = asyncio.create_task(lane.run(lambda: None, "b"))
    await asyncio.sleep(0)
    lane.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    await holder
