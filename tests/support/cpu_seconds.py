"""CPU seconds of tests: of pytest itself, and of all processes that it started, whether they still run or not.

Wall time says little on a busy machine. A shared server counts where it works. Its start counts for the
first test that asks for it.
"""

import os
from collections import defaultdict
from collections.abc import Generator

import psutil  # type: ignore[import-untyped]
import pytest


class CpuSeconds:
    """Prints the files and the tests that took most."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._files: dict[str, float] = defaultdict(float)
        self._tests: dict[str, float] = defaultdict(float)
        self._before = _spent()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Count for the test what was spent since the last one ended."""
        result = yield
        now = _spent()
        name = item.nodeid.partition("[")[0]
        for seconds, key in ((self._files, name.partition("::")[0]), (self._tests, name)):
            seconds[key] += now - self._before
        self._before = now
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Cases of a parametrized test count together."""
        for title, counter in (("files", self._files), ("tests", self._tests)):
            terminalreporter.section(f"{title} that took most CPU time, of {sum(counter.values()):.1f} s")
            for name, seconds in sorted(counter.items(), key=lambda pair: -pair[1])[: self._count]:
                terminalreporter.write_line(f"{seconds:8.1f} s  {name}")


def _spent() -> float:
    """Seconds of this process, of those that it has waited for, and of those that run."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
