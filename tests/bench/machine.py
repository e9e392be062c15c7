"""The machine: what it is, whether it is quiet, and how much others compute while we measure.

Time that the hypervisor steals counts as others' use: it is taken from both sides alike, but not evenly.
"""

import os
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WATCH = 2.0  # seconds
QUIET = 0.1  # cores that others may use
_TICK = os.sysconf("SC_CLK_TCK")


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """CPU seconds that all processes together have used since boot, stolen time included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


def process_seconds(pid: int) -> float:
    """CPU seconds of one process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def anonymous_bytes(pid: int) -> int:
    """RssAnon: memory that belongs to the process alone; the mapped model does not count."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no RssAnon")


@dataclass(slots=True)
class Others:
    """Cores that processes other than the measured ones used, once measured."""

    cores: float = 0.0


@contextmanager
def watching(pids: Sequence[int]) -> Iterator[Others]:
    """Measure others' use while the block runs; ours are `pids`, this process and the clients it waited for."""
    result = Others()
    began, all_before, own_before = time.monotonic(), busy_seconds(), _own(pids)
    yield result
    wall = time.monotonic() - began
    result.cores = max(0.0, busy_seconds() - all_before - (_own(pids) - own_before)) / wall


def _own(pids: Sequence[int]) -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(map(process_seconds, pids)) + time.process_time() + children.ru_utime + children.ru_stime


def others_now() -> float:
    """Cores in use by others over the next two seconds."""
    with watching(()) as others:
        time.sleep(WATCH)
    return others.cores


def describe() -> dict[str, object]:
    """What a reader of the figures wants to know of the machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }
