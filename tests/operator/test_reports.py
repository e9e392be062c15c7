"""The pods whose reports a reconcile reads. To wait for others would delay the next change of the object."""

import json
from collections.abc import Iterable

import pytest
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.reconcile import Reconciler
from llamaserver_operator.reports import parse_report

from tests.support.operator.worlds import CONFIG, Manifest, counts, pod, rolled_out, world


class Reader:
    """Stands in for the management ports of the pods."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def reports(self, pods: Iterable[Manifest], *, exact: bool) -> dict[str, Manifest]:
        assert not exact
        self.asked += [pod["metadata"]["name"] for pod in pods]
        return {}


@pytest.mark.parametrize("gone", [{"phase": "Failed"}, {"phase": "Succeeded"}], ids=str)
async def test_only_own_pods_that_can_answer_are_asked(gone: dict[str, str]) -> None:
    """A pod of somebody else may have the label, too."""
    spec = parse({"model": {"source": {"http": {"url": "http://models.example/m.gguf"}}}, "replicas": 3})
    plan = make_plan(spec, world(spec), CONFIG)
    ending = pod("ending")
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pods = [pod("new"), pod("old", "old"), pod("theirs", "another"), pod("gone", **gone), ending]
    reader = Reader()
    reconciler = Reconciler(None, CONFIG, reader)  # type: ignore[arg-type]  # no cluster is asked
    await reconciler._reports(spec, rolled_out(spec, plan, pods, counts(3)))
    assert reader.asked == ["new", "old"]


def test_long_texts_are_cut() -> None:
    """They get into the status. Of a path, the end is shown."""
    long = "x" * 1000
    data = {"state": "ready", "error": long, "model": {"path": f"/{long}/model.gguf", "architecture": long}}
    report = parse_report(json.dumps(data).encode())
    assert report["error"] == "x" * 256
    assert report["model"] == {"path": "x" * 245 + "/model.gguf", "architecture": "x" * 256}


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
