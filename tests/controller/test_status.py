"""The status as written, and the Events that its changes are worth."""

from dataclasses import replace
from typing import Any

import pytest
from llamaserver_operator.observed import Observed
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.rollout import Problem
from llamaserver_operator.spec import Spec
from llamaserver_operator.status import rejected, status_of, transitions

from tests.support.schema import CRD
from tests.support.worlds import CONFIG, Manifest, counts, deployment, owner, pod, rolled_out, world

IMAGE = {"image": {"reference": "registry.example/model:1", "path": "model.gguf"}}
STORE: Manifest = {"persistence": "Continuous", "volume": {"emptyDir": {}}}
RAW: Manifest = {
    "model": {"source": IMAGE}, "replicas": 2, "context": {"tokensPerSlot": 1000, "slots": 3}, "kvCache": STORE,
}  # fmt: skip
SPEC = parse(RAW)
NEW = [pod("new-0", ready=True), pod("new-1", ready=True)]
T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"
REPORT: Manifest = {
    "state": "ready",
    "model": {
        "path": "/sources/0/model.gguf", "architecture": "llama", "quantization": "Q4_K_M", "size_bytes": 100,
        "trained_context": 2048, "sha256": "",
    },
    "accelerator": {"device": "NVIDIA L4", "layers_offloaded": 31, "layers_total": 31},
    "kv_store": {"entries": 5, "bytes": 500, "restored_tokens": 0},
}  # fmt: skip


def around(spec: Spec, pods: list[Manifest], status: Manifest, before: Manifest | None = None, **more: Any) -> Observed:
    about = owner(generation=7, status=before or {})
    return rolled_out(spec, make_plan(spec, world(spec), CONFIG), pods, status, owner=about, **more)


def condition(status: Manifest, kind: str = "Ready") -> Manifest:
    return next(item for item in status["conditions"] if item["type"] == kind)


def test_a_serving_object():
    status = status_of(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1)
    del status["conditions"]
    assert status == {
        "observedGeneration": 7,
        "replicas": 2,
        "readyReplicas": 2,
        "updatedReplicas": 2,
        "selector": "app.kubernetes.io/name=llamaserver,llamaserver.dev/name=demo",
        "endpoint": "http://demo.models.svc:8080",
        "slots": {"total": 6, "perReplica": 3},
        "context": {"totalTokens": 3000},
        "model": {
            "file": "model.gguf", "architecture": "llama", "quantization": "Q4_K_M", "sizeBytes": 100,
            "trainedContext": 2048,
        },
        "kvCache": {"entries": 5, "bytes": 500},
    }  # fmt: skip


def test_every_field_of_the_schema_is_written_by_some_status():
    raw = {**RAW, "accelerator": {"vendor": "NVIDIA"}}
    spec = parse(raw)
    report = {**REPORT, "model": {**REPORT["model"], "sha256": "a" * 64}}
    loading = {"state": "downloading", "download": {"file": "f", "bytes": 1, "total_bytes": 2}}
    observed = around(spec, NEW, counts(2, 2, 1), reports={"new-0": report, "new-1": loading})
    status = status_of(spec, observed, (), T1)
    schema = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert set(status) == set(schema)
    for name, node in schema.items():
        if "properties" in node:
            assert set(status[name]) == set(node["properties"]), name
    for item in status["conditions"]:
        assert set(item) == set(schema["conditions"]["items"]["properties"])


def test_https_and_port_in_the_endpoint():
    spec = parse({**RAW, "serving": {"port": 443}, "security": {"tls": {"secretName": "c"}}})
    assert status_of(spec, world(spec), (), T1)["endpoint"] == "https://demo.models.svc:443"


def old_pod(name: str, raw: Manifest, *, ready: bool = True) -> Manifest:
    """A pod of an earlier spec."""
    made = parse(raw)
    template = deployment(make_plan(made, world(made), CONFIG))["spec"]["template"]["spec"]
    return {**(found := pod(name, "old", ready=ready)), "spec": {**template, **found["spec"]}}


ONE_SLOT: Manifest = {**RAW, "context": {"tokensPerSlot": 500, "slots": 1}}


@pytest.mark.parametrize(
    ("pods", "slots", "context"),
    [
        # A rollout of one slot to three that fails, or has only begun.
        ([old_pod("old-0", ONE_SLOT)], {"total": 1, "perReplica": 1}, 500),
        ([old_pod("old-0", ONE_SLOT), pod("new-0")], {"total": 1, "perReplica": 1}, 500),
        # Half way: both serve.
        ([old_pod("old-0", ONE_SLOT), NEW[0]], {"total": 4, "perReplica": 3}, 3000),
        ([NEW[0], old_pod("old-0", ONE_SLOT, ready=False)], {"total": 3, "perReplica": 3}, 3000),
        (NEW, {"total": 6, "perReplica": 3}, 3000),
        # Nothing serves: what the Deployment starts.
        ([pod("new-0")], {"total": 0, "perReplica": 3}, 3000),
        ([], {"total": 0, "perReplica": 3}, 3000),
        # A pod that ends gets no requests.
        (
            [{**NEW[0], "metadata": {**NEW[0]["metadata"], "deletionTimestamp": T1}}, NEW[1]],
            {"total": 3, "perReplica": 3}, 3000,
        ),
        # Another container of the same pod, or a foreign image's arguments, say nothing.
        ([{**NEW[0], "spec": {"containers": [{"name": "server", "args": ["--parallel"]}]}}],
         {"total": 0, "perReplica": 3}, 3000),
    ],
)  # fmt: skip
def test_slots_and_context_are_those_of_the_pods(pods: list[Manifest], slots: Manifest, context: int):
    status = status_of(SPEC, around(SPEC, pods, counts(2)), (), T1)
    assert status["slots"] == slots
    assert status["context"] == {"totalTokens": context}


def test_a_refused_edit_changes_nothing_that_pods_have():
    """The Deployment is of the spec before, and so is what it starts."""
    before = around(SPEC, NEW, counts(2))
    wish: Manifest = {"context": {"tokensPerSlot": 9999, "slots": 9}, "serving": {"port": 9000}}
    wished = parse({**RAW, **wish, "security": {"tls": {"secretName": "c"}}})
    problem = Problem("NeedsReadWriteMany", "spec.model.cache: needs ReadWriteMany")
    status = status_of(wished, before, (problem,), T1)
    assert status["slots"] == {"total": 6, "perReplica": 3}
    assert status["context"] == {"totalTokens": 3000}
    assert status["endpoint"] == "http://demo.models.svc:8080"


def test_the_endpoint_is_https_when_a_pod_serves_it():
    plain = old_pod("old-0", RAW)
    spec = parse({**RAW, "security": {"tls": {"secretName": "c"}}})
    for pods, scheme in (([plain, pod("new-0")], "http"), ([plain, NEW[0]], "https"), ([], "https")):
        status = status_of(spec, around(spec, pods, counts(2)), (), T1)
        assert status["endpoint"] == f"{scheme}://demo.models.svc:8080"


def test_no_service_has_no_endpoint():
    problem = Problem("NeedsReadWriteMany", "spec.model.cache: needs ReadWriteMany")
    assert "endpoint" not in status_of(SPEC, world(SPEC), (problem,), T1)


def test_before_there_is_anything():
    status = status_of(SPEC, world(SPEC), (), T1)
    assert (status["replicas"], status["readyReplicas"], status["slots"]["total"]) == (0, 0, 0)
    assert not {"model", "download", "kvCache", "accelerator"} & set(status)


def test_what_is_known_of_the_model_stays_when_no_pod_answers():
    before = status_of(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1)
    after = status_of(SPEC, around(SPEC, NEW, counts(2), before), (), T2)
    assert after["model"] == before["model"]


def test_ready_pods_that_do_not_answer_are_as_they_were():
    spec = parse({**RAW, "accelerator": {"vendor": "NVIDIA"}})
    before = status_of(spec, around(spec, NEW, counts(2), reports={"new-0": REPORT}), (), T1)
    assert {"kvCache", "accelerator"} <= set(before)
    assert status_of(spec, around(spec, NEW, counts(2), before), (), T2) == before


def test_pods_that_are_not_ready_are_not_as_others_were():
    spec = parse({**RAW, "accelerator": {"vendor": "NVIDIA"}})
    before = status_of(spec, around(spec, NEW, counts(2), reports={"new-0": REPORT}), (), T1)
    after = status_of(spec, around(spec, [pod("new-0")], counts(2, 2, 0), before), (), T2)
    assert not {"kvCache", "accelerator"} & set(after)
    assert condition(after, "Accelerated")["reason"] == condition(after, "CacheRestored")["reason"] == "Pending"


def test_no_pods_are_not_as_others_were():
    before = status_of(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1)
    zero = parse({**RAW, "replicas": 0})
    assert "kvCache" not in status_of(zero, around(zero, [], counts(0), before), (), T2)


def test_what_is_not_asked_for_any_more_goes_though_nobody_answers():
    spec = parse({**RAW, "accelerator": {"vendor": "NVIDIA"}})
    before = status_of(spec, around(spec, NEW, counts(2), reports={"new-0": REPORT}), (), T1)
    plain = parse({**RAW, "kvCache": None})
    assert not {"kvCache", "accelerator"} & set(status_of(plain, around(plain, NEW, counts(2), before), (), T2))


@pytest.mark.parametrize("cache", [None, {"hostMemory": "1Gi"}, {**STORE, "persistence": "None"}])
def test_what_is_no_store_has_no_entries(cache: Manifest | None):
    """A server with host memory alone reports an empty one."""
    spec = parse({**RAW, "kvCache": cache})
    assert "kvCache" not in status_of(spec, around(spec, NEW, counts(2), reports={"new-0": REPORT}), (), T1)


def test_a_transition_is_timed_by_the_change_of_the_status_alone():
    first = status_of(SPEC, around(SPEC, [], counts(0)), (), T1)
    assert {item["lastTransitionTime"] for item in first["conditions"]} == {T1}
    second = status_of(SPEC, around(SPEC, [pod("new-0")], counts(1, 1, 0), first), (), T2)
    assert condition(second)["lastTransitionTime"] == T1, "False as before, whatever the message"
    assert condition(second, "Scheduled")["lastTransitionTime"] == T2, "Unknown, now True"
    third = status_of(SPEC, around(SPEC, NEW, counts(2), second), (), T2)
    assert condition(third)["lastTransitionTime"] == T2
    assert condition(third, "Accepted")["lastTransitionTime"] == T1


def test_conditions_are_about_the_generation():
    status = status_of(SPEC, around(SPEC, NEW, counts(2)), (), T1)
    assert {item["observedGeneration"] for item in status["conditions"]} == {status["observedGeneration"]} == {7}


def test_a_spec_that_cannot_be_read_keeps_what_was_known():
    before = status_of(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1)
    problem = Problem("InvalidSpec", "spec.context.slots: Expected `int`")
    observed = Observed(owner(generation=8, status=before))
    status = rejected(observed, problem, T2)
    assert status["model"] == before["model"]
    assert status["replicas"] == 2
    assert status["observedGeneration"] == 8
    assert [(item["type"], item["status"], item["reason"]) for item in status["conditions"]] == [
        ("Ready", "False", "InvalidSpec"),
        ("Accepted", "False", "InvalidSpec"),
    ]
    assert rejected(replace(observed, owner=owner(generation=8, status=status)), problem, "later") == status


# ---- Events


def told(before: list[tuple[str, str, str]], after: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    def made(items: list[tuple[str, str, str]]) -> Manifest:
        names = ("type", "status", "reason", "message")
        return {"conditions": [dict(zip(names, (*item, f"{item[2]}."), strict=True)) for item in items]}

    return [(kind, reason) for kind, reason, _ in transitions(made(before) if before else {}, made(after))]


STARTS = [("Ready", "False", "RollingOut"), ("ModelAvailable", "Unknown", "Pending")]
SERVES = [("Ready", "True", "Serving"), ("ModelAvailable", "True", "Loaded")]
FAILS = [("Ready", "False", "ModelNotFound"), ("ModelAvailable", "False", "ModelNotFound")]


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        ([], STARTS, [("Normal", "RollingOut")]),
        (STARTS, STARTS, []),
        (STARTS, SERVES, [("Normal", "Serving")]),
        (SERVES, SERVES, []),
        (STARTS, FAILS, [("Warning", "ModelNotFound")]),
        (FAILS, FAILS, []),
        (FAILS, SERVES, [("Normal", "Serving")]),
        (SERVES, STARTS, [("Normal", "RollingOut")]),
        (STARTS, [STARTS[0], ("ModelAvailable", "False", "Downloading")], []),
        (
            SERVES, [SERVES[0], ("Accelerated", "False", "RunningOnCPU")], [("Warning", "RunningOnCPU")],
        ),
        (
            SERVES,
            [("Ready", "True", "RolloutFailing"), ("Progressing", "False", "ImagePullFailed")],
            [("Warning", "RolloutFailing"), ("Warning", "ImagePullFailed")],
        ),
        (SERVES, [("Ready", "False", "ScaledToZero")], [("Normal", "ScaledToZero")]),
    ],
)  # fmt: skip
def test_events_are_told_on_transitions_only(
    before: list[tuple[str, str, str]], after: list[tuple[str, str, str]], events: list[tuple[str, str]]
):
    assert told(before, after) == events


def test_an_event_says_what_changed():
    after = {"conditions": [{"type": "Ready", "status": "False", "reason": "DiskFull", "message": "no space"}]}
    assert transitions({}, after) == [("Warning", "DiskFull", "Ready is False. no space")]
