"""Whom a draining server waits for, and how long. Time is the test's."""

import pytest
from llamaserver.api.drain import Drain

PATIENCE = 3.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drain(clock: Clock) -> Drain:
    """One that begins now; the last request was long ago."""
    made = Drain(clock)
    clock.now += 60
    made.begin()
    return made


def over(drain: Drain, *connections: str) -> bool:
    return drain.is_over(connections, PATIENCE)


def test_an_idle_server_waits_for_clients_that_do_not_know_yet(drain: Drain, clock: Clock) -> None:
    assert not over(drain)
    clock.now += PATIENCE - 0.01
    assert not over(drain)
    clock.now += 0.01
    assert over(drain)
    assert over(drain, "a connection that idles")


def test_each_request_starts_the_wait_anew(drain: Drain, clock: Clock) -> None:
    clock.now += 2
    with drain.running("one"):
        clock.now += 60
        assert not over(drain)
    clock.now += 2
    assert not over(drain)
    clock.now += 1
    assert over(drain)


def test_without_a_delay_only_what_runs_is_waited_for(drain: Drain) -> None:
    assert drain.is_over(["idle"], 0)
    with drain.running("one"):
        assert not drain.is_over(["idle"], 0)


def test_a_refusing_drain_waits_only_for_older_connections(drain: Drain, clock: Clock) -> None:
    with drain.running("one"):
        clock.now += 60
        drain.refuse(spared=["one", "two"])
        assert not over(drain, "one", "two")
    assert not over(drain, "one", "two", "new"), "a last request may come"
    assert not over(drain, "two", "new")
    assert over(drain, "new"), "nobody of before is left"
    assert over(drain)
    clock.now += PATIENCE
    assert over(drain, "one", "two", "new")


def test_a_refused_request_does_not_prolong_the_drain(drain: Drain, clock: Clock) -> None:
    drain.refuse(spared=["idle"])
    assert not drain.refuses("idle")
    assert drain.refuses("new")
    clock.now += PATIENCE
    assert over(drain, "idle", "new")


def test_at_the_deadline_all_are_refused(drain: Drain) -> None:
    drain.refuse(spared=["one"])
    drain.refuse()
    assert drain.refuses("one")
    assert over(drain, "one")
