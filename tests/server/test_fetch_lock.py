"""The lock between downloaders: held by one, given back, and taken from the dead but never from the living."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import pytest
from llamaserver.models import lock as fetch_lock
from llamaserver.models.lock import LockLostError, held

from tests.support.polling import eventually, until

FOREIGN = '{"kernel": "another-node", "host": "pod-1", "pid": 1}'
HOLDER = """
import asyncio, sys
from pathlib import Path
from llamaserver.models.lock import held

async def main():
    async with held(Path(sys.argv[1]), lambda waiting: None):
        print("held", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf.lock"


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(fetch_lock, "_FIRST_LOOK", 0.005)
    monkeypatch.setattr(fetch_lock, "_LONGEST_LOOK", 0.02)


def ignore(waiting):
    """Nobody asks whether it waits."""


def foreign(path, silent):
    """A lock of another node, last touched so many seconds ago by the file system's clock."""
    path.write_text(FOREIGN)
    now = path.stat().st_mtime
    os.utime(path, (now - silent, now - silent))


async def test_the_lock_file_exists_only_while_it_is_held(path):
    async with held(path, ignore):
        assert path.exists()
    assert list(path.parent.iterdir()) == []


async def test_a_failure_releases_the_lock(path):
    with pytest.raises(RuntimeError):
        async with held(path, ignore):
            raise RuntimeError
    assert not path.exists()


async def test_many_take_turns(path):
    inside, most, turns = 0, 0, 0

    async def one():
        nonlocal inside, most, turns
        async with held(path, ignore):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1
            turns += 1

    await asyncio.gather(*[one() for _ in range(20)])
    assert (most, turns) == (1, 20)
    assert list(path.parent.iterdir()) == []


async def test_a_waiter_says_so_and_says_when_it_is_over(path):
    heard = []
    async with AsyncExitStack() as first:
        await first.enter_async_context(held(path, heard.append))
        assert heard == []

        async def second():
            async with held(path, heard.append):
                heard.append("in")

        waiting = asyncio.create_task(second())
        await eventually(lambda: heard == [True], "the second waits")
        await first.aclose()
        await waiting
    assert heard == [True, False, "in"]


async def test_a_waiter_that_is_cancelled_leaves_nothing(path):
    foreign(path, 0)
    heard = []
    waiting = asyncio.create_task(held(path, heard.append).__aenter__())
    await eventually(lambda: len(list(path.parent.iterdir())) == 2, "the waiter's clock")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert heard == [True, False]
    assert list(path.parent.iterdir()) == [path]


async def test_a_silent_lock_of_another_node_is_taken_over(path):
    foreign(path, 61)
    async with held(path, ignore):
        assert "another-node" not in path.read_text()
    assert list(path.parent.iterdir()) == []


async def test_a_lock_of_another_node_that_is_touched_stays(path, monkeypatch):
    """Whatever the node's own clock says: only the file system's counts."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    foreign(path, 30)
    looks = []
    monkeypatch.setattr(fetch_lock, "_taken_from_the_dead", counted(fetch_lock._taken_from_the_dead, looks))
    waiting = asyncio.create_task(held(path, ignore).__aenter__())
    await eventually(lambda: len(looks) >= 5, "five looks")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not any(looks)
    assert path.read_text() == FOREIGN


def counted(call, results):
    def wrapped(*args):
        results.append(call(*args))
        return results[-1]

    return wrapped


def holder(path):
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


async def test_a_process_that_was_killed_is_not_waited_for(path):
    process = holder(path)
    process.kill()
    process.wait()
    assert path.exists()
    async with asyncio.timeout(30):  # half the time after which a lock is stale
        async with held(path, ignore):
            pass


async def test_a_process_that_is_stopped_keeps_it_until_it_was_silent_for_long(path, monkeypatch):
    process = holder(path)
    try:
        process.send_signal(signal.SIGSTOP)
        looks = []
        monkeypatch.setattr(fetch_lock, "_taken_from_the_dead", counted(fetch_lock._taken_from_the_dead, looks))
        lock = held(path, ignore)
        waiting = asyncio.create_task(lock.__aenter__())
        await eventually(lambda: len(looks) >= 5, "five looks")
        assert not any(looks)
        before = path.stat().st_mtime
        os.utime(path, (before - 61, before - 61))
        await asyncio.wait_for(waiting, 30)
        assert str(process.pid) not in path.read_text()
        await lock.__aexit__(None, None, None)
    finally:
        process.kill()
        process.wait()


async def test_a_holder_that_was_taken_for_dead_notices(path, monkeypatch):
    monkeypatch.setattr(fetch_lock, "_BEAT", 0.005)
    async with held(path, ignore) as lock:
        lock.check()
        path.unlink()
        path.write_text(FOREIGN)
        await eventually(lambda: lock.lost, "it notices")
        with pytest.raises(LockLostError):
            lock.check()
    assert path.read_text() == FOREIGN  # not its own to remove


async def test_a_holder_goes_on_touching(path, monkeypatch):
    monkeypatch.setattr(fetch_lock, "_BEAT", 0.005)
    async with held(path, ignore):
        os.utime(path, (1, 1))
        await eventually(lambda: path.stat().st_mtime > 1, "a touch")


def test_a_fresh_lock_that_was_renamed_by_mistake_goes_back(path):
    """Two waiters judge a dead lock; one took it over before the other renames."""
    path.write_text("dead")
    with path.open() as judged:
        path.unlink()
        path.write_text("fresh")
        assert not fetch_lock._set_aside(judged.fileno(), path)
    assert path.read_text() == "fresh"
    assert list(path.parent.iterdir()) == [path]


def test_where_flock_does_not_work_touches_alone_decide(path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = fetch_lock._create(path)
    clock = path.with_name("clock")
    assert not fetch_lock._taken_from_the_dead(path, clock)
    os.utime(path, (1, 1))
    assert fetch_lock._taken_from_the_dead(path, clock)
    assert not path.exists()
    lock.release()


def test_two_processes_of_one_kernel_never_hold_it_together(path):
    """Each takes the lock over from a dead one; both write to the same file in turns."""
    script = HOLDER.replace(
        'print("held", flush=True)\n        await asyncio.sleep(3600)',
        'inside = Path(sys.argv[1] + "-inside"); inside.touch(exist_ok=False); '
        "await asyncio.sleep(0.01); inside.unlink()",
    )
    assert script != HOLDER
    for _ in range(5):
        dead = holder(path)
        dead.kill()
        dead.wait()
        both = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(3)]
        until(lambda both=both: all(process.poll() is not None for process in both), "all end", 60)
        assert [process.returncode for process in both] == [0, 0, 0]
