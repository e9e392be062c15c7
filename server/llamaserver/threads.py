"""The number of threads to compute with: the CPUs that the container may use, not those of the host."""

import math
import os
from pathlib import Path


def default_threads(root: Path = Path("/"), affinity: frozenset[int] | None = None) -> int:
    """Physical cores in the CPU affinity, but not more than the cgroup quota rounded up, and at least 1.

    Tests set `root`, the folder of /proc and /sys, and `affinity`, the CPUs that the kernel would return.
    """
    cpus = affinity if affinity is not None else frozenset(os.sched_getaffinity(0))
    quota = cgroup_quota(root)
    cores = physical_cores(root, cpus)
    return max(1, min(cores, math.ceil(quota)) if quota is not None else cores)


def physical_cores(root: Path, cpus: frozenset[int]) -> int:
    """The number of cores of these CPUs. Every CPU counts if the topology cannot be read."""
    cores: set[str] = set()
    for cpu in cpus:
        try:
            topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            cores.add((topology / "thread_siblings_list").read_text().strip())
        except OSError:
            return len(cpus)
    return len(cores)


def cgroup_quota(root: Path) -> float | None:
    """The CPU limit of the cgroup (v2 or v1) and its parents. None if there is no limit."""
    limits = [limit for folder in _folders(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _folders(root: Path) -> list[Path]:
    """The folders of the process's CPU cgroups and their parents."""
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
