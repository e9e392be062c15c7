"""The server, with the names of its threads where /proc shows them. Python does that itself from 3.14 on."""

import ctypes
import threading

from llamaserver.__main__ import main

_SET_NAME = 15  # PR_SET_NAME of prctl
_libc = ctypes.CDLL(None)
_begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]


def _named(thread: threading.Thread) -> None:
    _libc.prctl(_SET_NAME, thread.name.encode()[:15], 0, 0, 0)
    _begin(thread)


if __name__ == "__main__":
    threading.Thread._bootstrap_inner = _named  # type: ignore[attr-defined]
    main()
