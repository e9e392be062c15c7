"""The common parts of every native build: flags, cache keys, the compiler check, and running it."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from . import system_packages
from .cache import say
from .progress import Meter


class BuildError(SystemExit):
    """A build failed. The text has the end of its output and the path of the whole log."""


def _hardening() -> tuple[str, ...]:
    """Flags against memory faults in native code that parses files and texts of strangers.

    Stack protector, checked libc calls, protected jumps, and relocations that are read-only before the first call.
    tests/tools/test_hardening.py finds each of them in the built libraries.
    """
    jumps = "-fcf-protection" if platform.machine() in ("x86_64", "AMD64") else "-mbranch-protection=standard"
    compiler = f"-fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 {jumps}"
    linker = "-Wl,-z,relro,-z,now"
    return (
        f"-DCMAKE_C_FLAGS={compiler}",
        f"-DCMAKE_CXX_FLAGS={compiler}",
        f"-DCMAKE_SHARED_LINKER_FLAGS={linker}",
        f"-DCMAKE_MODULE_LINKER_FLAGS={linker}",
        f"-DCMAKE_EXE_LINKER_FLAGS={linker}",
    )


# One build of llama.cpp for all x86-64 or arm64 processors. `make serve`, tests, images and benchmarks use it.
# The server chooses the best of several CPU modules when it starts. All libraries go into one folder of the package,
# where the server tells ggml to look for them. Each has one name.
FLAGS = (
    "-DGGML_NATIVE=OFF",
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib",
    *_hardening(),
)

_NINJA_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")
_running: set["subprocess.Popen[str]"] = set()


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
    """Exit with a hint when there is no C++ compiler."""
    if not os.environ.get("CXX") and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        system_packages.ensure({"g++": "g++"})


def ninja_steps(line: str) -> tuple[int, int] | None:
    """The steps done and all steps, from a line of ninja. None when the line has no such numbers."""
    found = _NINJA_STEP.match(line)
    return (int(found[1]), int(found[2])) if found else None


def run_build(
    command: list[str],
    title: str,
    log: Path,
    *,
    env: dict[str, str] | None = None,
    folder: Path | None = None,
    steps: Callable[[str], tuple[int, int] | None] = ninja_steps,
) -> None:
    """Run a build in `folder` and show its progress.

    `steps` finds the steps done, and all steps, in a line of the build's output. Raises BuildError with the
    end of the output when the build fails.
    """
    say(f"{title} (log: {log})")
    tail: deque[str] = deque(maxlen=40)
    meter = Meter(title)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    _running.add(process)
    try:
        assert process.stdout is not None
        with log.open("w") as out:
            for line in process.stdout:
                out.write(line)
                tail.append(line)
                if found := steps(line):
                    meter.show(*found)
        status = process.wait()
    finally:
        _running.discard(process)
        meter.end()
    if status != 0:
        raise BuildError(f"{''.join(tail)}\n{title}: failed with status {status}; the whole output is in {log}")


def stop_builds() -> None:
    """End all builds of this process, in any thread."""
    for process in list(_running):
        process.terminate()
