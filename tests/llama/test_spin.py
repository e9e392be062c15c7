"""The spin governor: when it throttles, when it lets go, and that it survives what is not there."""

import threading

from llamaserver.llama import spin
from llamaserver.llama.spin import CALM, SpinGovernor


def governor(calls: list[int]) -> SpinGovernor:
    made = SpinGovernor(2)
    made._parallel = lambda function, data, threads, flags: calls.append(threads)  # type: ignore[assignment]
    return made


def test_contention_throttles_once_and_calm_lets_go() -> None:
    calls: list[int] = []
    one = governor(calls)
    one.look(0.05)
    assert not one.throttled
    one.look(0.5)
    one.look(0.5)
    assert one.throttled
    for _ in range(CALM - 1):
        one.look(0.0)
    assert one.throttled
    one.look(0.0)
    assert not one.throttled
    assert len(calls) == 1


def test_a_short_calm_does_not_count() -> None:
    one = governor([])
    one.look(0.5)
    for _ in range(3):
        for _ in range(CALM - 1):
            one.look(0.0)
        one.look(0.5)
    assert one.throttled
    one._spin_long()


def test_the_kernel_tells_how_long_this_thread_has_waited() -> None:
    waited = spin._waited(threading.get_native_id())
    assert waited is None or waited >= 0
    assert spin._waited(0) is None
