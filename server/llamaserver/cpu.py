"""What this machine's CPU is called."""

import platform
from pathlib import Path


def model() -> str:
    """As the kernel names it; the architecture where it names none, as on arm64."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.machine()
