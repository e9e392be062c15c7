"""Many requests at once, from threads with a connection each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def at_once(call: Callable[[A], B], items: Sequence[A], width: int = 16) -> list[B]:
    """Results in the order of the items; at most `width` calls run together."""
    with ThreadPoolExecutor(min(width, len(items))) as pool:
        return list(pool.map(call, items))
