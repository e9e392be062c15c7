"""How the C library gives memory back to the system."""

import contextlib
import ctypes

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE = 2 << 20  # bytes: more than a row of logits, less than what a large body needs


def give_back_large_blocks() -> None:
    """Let each large block be a mapping of its own, which goes back to the system when it is freed.

    glibc does so only at first: each freed block raises the size from which it does, up to 32 MiB. Then large bodies
    leave holes in the heap, and the process keeps growing. Without glibc, nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
