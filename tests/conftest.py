"""The order of all tests, and their outcomes.

Fast tests come first. Tests on the cluster come near the end, because the cluster keeps the CPUs busy while it runs.
The compatibility table comes last, because it looks at the outcomes of the others.
"""

from collections.abc import Generator

import pytest

from tests.support.cpu_seconds import CpuSeconds

OUTCOMES = pytest.StashKey[dict[str, bool]]()
HEAVY = ("model", "browser", "slow", "cluster")
LAST = "tests/compat/"


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "print the N files and the N tests that took most CPU time, with that of the servers they start"
    parser.addoption("--cpu-durations", type=int, default=0, metavar="N", help=help_text)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}
    if count := config.getoption("--cpu-durations"):
        config.pluginmanager.register(CpuSeconds(count))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests. The sort is stable, so the tests of a module stay together."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, bool, bool]:
    on_cluster = item.get_closest_marker("cluster") is not None
    heavy = any(item.get_closest_marker(mark) for mark in HEAVY)
    return item.nodeid.startswith(LAST), on_cluster, heavy


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note for every test function whether all of its cases passed."""
    report = yield
    name, outcomes = item.nodeid.partition("[")[0], item.config.stash[OUTCOMES]
    if report.when == "call" or report.outcome != "passed":
        outcomes[name] = outcomes.get(name, True) and report.outcome == "passed"
    return report
