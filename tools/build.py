"""What every native build shares: flags, cache keys, the compiler check, and progress on the terminal."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from . import system_packages
from .cache import say

# One build of llama.cpp for any x86-64 or arm64 processor, the same for `make serve`, the tests, the images
# and the benchmarks: the server chooses the best of several CPU modules when it starts. All libraries go
# into one folder of the package, where the server tells ggml to look for them, each under one name.
FLAGS = (
    "-DGGML_NATIVE=OFF",
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib",
)

_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")
_QUIET_SECONDS = 15.0


def build_key(*parts: str) -> str:
    """A short name for one build: its inputs, the machine's kind and its C library."""
    everything = [*parts, platform.system(), platform.machine(), "-".join(platform.libc_ver())]
    return hashlib.sha256("\n".join(everything).encode()).hexdigest()[:16]


def processors() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_compiler() -> None:
    """Make sure that a C++ compiler is there, or say how to get one."""
    if not os.environ.get("CXX") and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        system_packages.ensure({"g++": "g++"})


def run_build(command: list[str], title: str, log: Path, env: dict[str, str] | None = None) -> None:
    """Run a ninja build, relaying its [n/N]; on failure show the end of its output and exit."""
    say(f"{title} (log: {log})")
    tail: deque[str] = deque(maxlen=40)
    meter = _Meter(title)
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        for line in process.stdout:
            out.write(line)
            tail.append(line)
            if step := _STEP.match(line):
                meter.show(int(step[1]), int(step[2]))
    meter.end()
    if process.wait() != 0:
        say("".join(tail))
        sys.exit(f"{title}: failed with status {process.returncode}; the whole output is in {log}")


class _Meter:
    """One rewritten line on a terminal, a line now and then elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._live and now - self._shown < _QUIET_SECONDS and done != total:
            return
        self._shown = now
        text = f"[{done}/{total}] {self._title}, {now - self._started:.0f} s"
        sys.stderr.write(f"\r\033[K{text}" if self._live else f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._live:
            sys.stderr.write("\r\033[K")
        say(f"{self._title}: {time.monotonic() - self._started:.0f} s")
