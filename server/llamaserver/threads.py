"""How many threads this process should compute with: what its container may use, not what the host has."""

import math
import os
from pathlib import Path


def default_threads(root: Path = Path("/"), affinity: frozenset[int] | None = None) -> int:
    """Physical cores within the CPU affinity, at most the cgroup quota rounded up; at least 1.

    `root` is where /proc and /sys are looked up, `affinity` the CPUs in place of the kernel's
    answer; both for tests.
    """
    cpus = affinity if affinity is not None else frozenset(os.sched_getaffinity(0))
    quota = cgroup_quota(root)
    cores = physical_cores(root, cpus)
    return max(1, min(cores, math.ceil(quota)) if quota is not None else cores)


def physical_cores(root: Path, cpus: frozenset[int]) -> int:
    """Distinct cores behind these CPUs; every CPU counts where the topology cannot be read."""
    cores: set[str] = set()
    for cpu in cpus:
        try:
            topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            cores.add((topology / "thread_siblings_list").read_text().strip())
        except OSError:
            return len(cpus)
    return len(cores)


def cgroup_quota(root: Path) -> float | None:
    """CPUs that the cgroup (v2 or v1) or any of its parents grants; None when none limits."""
    limits = [limit for folder in _folders(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _folders(root: Path) -> list[Path]:
    """The process's cgroup folders for CPU and their parents, as mounted here."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            bases = [root / "sys/fs/cgroup/cpu", root / f"sys/fs/cgroup/{controllers}"]
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        folders += [base.joinpath(*parts[:n]) for base in bases for n in range(len(parts) + 1)]
    return folders


def _limit(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        return quota_us / int((folder / "cpu.cfs_period_us").read_text()) if quota_us > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
