"""Order and outcomes of all tests: the fast ones first, the compatibility table last."""

from collections.abc import Generator

import pytest

OUTCOMES = pytest.StashKey[dict[str, bool]]()
HEAVY = ("model", "browser", "slow", "cluster")
LAST = "tests/compat/"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A stable sort, so that tests of a module stay together."""
    items.sort(key=lambda item: (item.nodeid.startswith(LAST), any(item.get_closest_marker(m) for m in HEAVY)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note for every test function whether all of its cases passed."""
    report = yield
    name, outcomes = item.nodeid.partition("[")[0], item.config.stash[OUTCOMES]
    if report.when == "call" or report.outcome != "passed":
        outcomes[name] = outcomes.get(name, True) and report.outcome == "passed"
    return report
