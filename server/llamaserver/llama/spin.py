"""How long idle compute threads spin: long on CPUs of our own, briefly on shared CPUs.

OpenMP's threads spin at barriers before they sleep. On CPUs of their own this is the fastest way to wait. On
CPUs that another busy process shares, each process spins while the other one needs the CPU to reach its
barrier, and both nearly stop. libgomp spins 300,000 times. It spins only 100 times "when there are more OpenMP
threads than available CPUs" (its manual, GOMP_SPINCOUNT), and it checks that at each wait. So under contention
we make a second team of threads that sleeps. We end it when the CPUs are free again.
"""

import ctypes
import logging
import os
import threading
from pathlib import Path

_log = logging.getLogger(__name__)
LOOK_EVERY = 0.25  # seconds
CONTENDED = 0.30  # share of the time in which a thread is ready to run but has no CPU
FREE = 0.10
CALM = 20  # intervals without contention before the threads spin long again


class SpinGovernor:
    """Watches one compute thread: the thread that calls `start`."""

    def __init__(self, threads: int) -> None:
        self._tid = threading.get_native_id()
        self._extra = max(2, len(os.sched_getaffinity(0)) - threads + 2)
        self._parallel = _gomp_parallel()
        self._stop = threading.Event()
        self._release: threading.Event | None = None
        self._calm = 0

    def start(self) -> None:
        """Start to watch. This needs libgomp, the kernel's numbers, and an environment that sets no spinning."""
        chosen = any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"))
        if not chosen and self._parallel is not None and _waited(self._tid) is not None:
            threading.Thread(target=self._watch, name="spin-governor", daemon=True).start()

    def stop(self) -> None:
        """End the watch and the second team of threads."""
        self._stop.set()

    @property
    def throttled(self) -> bool:
        """Whether threads spin only briefly at present."""
        return self._release is not None

    def _watch(self) -> None:
        before = _waited(self._tid)
        while not self._stop.wait(LOOK_EVERY):
            now = _waited(self._tid)
            if now is None or before is None:
                break
            self.look((now - before) / LOOK_EVERY)
            before = now
        self._spin_long()

    def look(self, share: float) -> None:
        """Decide by the last interval. `share` is the part of it in which the thread waited for a CPU."""
        if share > CONTENDED:
            self._calm = 0
            self._spin_shortly()
        elif share < FREE:
            self._calm += 1
            if self._calm >= CALM:
                self._spin_long()

    def _spin_shortly(self) -> None:
        if self._release is None:
            _log.info("the CPUs are shared: compute threads spin briefly")
            self._release = threading.Event()
            threading.Thread(target=self._hold, args=(self._release,), name="spin-throttle", daemon=True).start()

    def _spin_long(self) -> None:
        if self._release is not None:
            _log.info("the CPUs are free again: compute threads spin longer")
            self._release.set()
            self._release = None

    def _hold(self, release: threading.Event) -> None:
        """Hold a team of threads that does nothing. libgomp ends the team with this thread."""
        assert self._parallel is not None
        self._parallel(
            ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p), None, self._extra, 0
        )  # free(NULL): a function that does nothing
        release.wait()


def _gomp_parallel() -> "ctypes._NamedFuncPointer | None":
    """The function GOMP_parallel of the libgomp in this process. None without libgomp."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        if "libgomp" in path:
            call = ctypes.CDLL(f"/{path}").GOMP_parallel
            call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            call.restype = None
            return call
    return None


def _waited(tid: int) -> float | None:
    """Seconds in which a thread of this process was ready to run but had no CPU. None if the kernel does not say."""
    try:
        return int(Path(f"/proc/self/task/{tid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None
