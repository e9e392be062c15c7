"""Waiting in tests: until something is true, within a deadline."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T], what: str, deadline: float = 30.0, pause: float = 0.02) -> T:
    """The first true result of `probe`; AssertionError naming `what` after the deadline (seconds)."""
    end = time.monotonic() + deadline
    while not (result := probe()):
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        time.sleep(pause)
    return result


def tried(probe: Callable[[], T], error: type[Exception] = OSError) -> Callable[[], T | None]:
    """The probe, for which such an error (OSError: also those of urllib) is no answer yet."""

    def once() -> T | None:
        try:
            return probe()
        except error:
            return None

    return once


async def eventually(probe: Callable[[], T], what: str, deadline: float = 30.0, pause: float = 0.005) -> T:
    """As `until`, where the event loop must go on."""
    end = time.monotonic() + deadline
    while not (result := probe()):
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        await asyncio.sleep(pause)
    return result
