"""What this machine's CPU is called."""

import platform
from functools import cache
from pathlib import Path


@cache
def model() -> str:
    """As the kernel names it; the architecture where it names none, as on arm64."""
    try:
        with Path("/proc/cpuinfo").open(errors="replace") as lines:  # a part for each CPU: only the first is read
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.machine()
