"""The name of this machine's CPU."""

import platform
from functools import cache
from pathlib import Path


@cache
def model() -> str:
    """The kernel's name of the CPU. Where it has none, as on arm64, the architecture."""
    try:
        with Path("/proc/cpuinfo").open(errors="replace") as lines:  # it has a part for each CPU; the first is enough
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.machine()
