"""The pods whose reports a reconcile reads. To wait for others would delay the next change of the object."""

from typing import Any

import pytest
from llamaserver_operator.reconcile import Reconciler
from llamaserver_operator.reports import parse_report

from tests.support.operator.worlds import CONFIG


class Reader:
    """Stands in for the management ports of the pods."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def status(self, pod: dict[str, Any]) -> dict[str, Any] | None:
        self.asked.append(pod["metadata"]["name"])
        return {"state": "ready"} if pod["metadata"]["name"] != "busy" else None


def pod(name: str, phase: str = "Running", **metadata: str) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "status": {"phase": phase, "podIP": "10.0.0.1"}}


ENDING = pod("ending", deletionTimestamp="2026-01-01T00:00:00Z")


@pytest.mark.parametrize("gone", [ENDING, pod("evicted", "Failed"), pod("done", "Succeeded")])
async def test_only_pods_that_can_answer_are_asked(gone: dict[str, Any]) -> None:
    reader = Reader()
    reconciler = Reconciler(None, CONFIG, reader)  # type: ignore[arg-type]  # no cluster is asked
    reports = await reconciler._reports([gone, pod("busy"), pod("new", "Pending"), pod("serving")])
    assert reader.asked == ["busy", "new", "serving"]
    assert set(reports) == {"new", "serving"}


@pytest.mark.parametrize(
    "data",
    [
        b'{"state": "ready", "x": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"kv_store": {"bytes": 100000000000000000000000000}}',
        b'{"model": {"size_bytes": -1}}',
        b'{"slots": {"processing": 9007199254740993}}',
        b"[]",
        b"\xff",
    ],
)
def test_a_report_that_is_none_is_a_value_error(data: bytes) -> None:
    """A pod may run any image. What the API server would refuse must not get into the status."""
    with pytest.raises(ValueError):
        parse_report(data)
