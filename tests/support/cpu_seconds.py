"""CPU seconds of tests: of pytest itself, and of all processes that it started, whether they still run or not.

Wall time says little on a busy machine. On a quiet one, a test whose wall time is far longer than its CPU time waits.
A shared server counts where it works. Its start counts for the first test that asks for it.
"""

import os
import time
from collections import defaultdict
from collections.abc import Generator
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
import pytest


class Seconds(NamedTuple):
    """What a test took."""

    cpu: float = 0.0
    wall: float = 0.0


class CpuSeconds:
    """Prints the files and the tests that took most."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._files: dict[str, Seconds] = defaultdict(Seconds)
        self._tests: dict[str, Seconds] = defaultdict(Seconds)
        self._before = _now()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Count for the test what was spent since the last one ended."""
        result = yield
        now = _now()
        name = item.nodeid.partition("[")[0]
        for taken, key in ((self._files, name.partition("::")[0]), (self._tests, name)):
            cpu, wall = taken[key]
            taken[key] = Seconds(cpu + now.cpu - self._before.cpu, wall + now.wall - self._before.wall)
        self._before = now
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Cases of a parametrized test count together."""
        for title, taken in (("files", self._files), ("tests", self._tests)):
            whole = sum(seconds.cpu for seconds in taken.values())
            terminalreporter.section(f"{title} by CPU seconds (all: {whole:.1f}), and their wall time")
            for name, seconds in sorted(taken.items(), key=lambda pair: -pair[1].cpu)[: self._count]:
                terminalreporter.write_line(f"{seconds.cpu:8.1f} {seconds.wall:8.1f}  {name}")


def _now() -> Seconds:
    """CPU seconds of this process, of those that it has waited for, and of those that run. And the clock."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return Seconds(total, time.monotonic())
