"""The status, and the Events for its changes."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from llamaserver_operator.observed import Observed
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.problems import Problem
from llamaserver_operator.spec import Spec
from llamaserver_operator.status import rejected, status_of, transitions, unseen
from llamaserver_operator.view import View

from tests.support.operator.schema import CRD
from tests.support.operator.worlds import (
    CONFIG,
    OTHER_UID,
    Manifest,
    counts,
    deployment,
    owner,
    pod,
    rolled_out,
    world,
)

IMAGE = {"image": {"reference": "registry.example/model:1", "path": "model.gguf"}}
STORE: Manifest = {"persistence": "Continuous", "volume": {"emptyDir": {}}}
RAW: Manifest = {
    "model": {"source": IMAGE}, "replicas": 2, "context": {"tokensPerSlot": 1000, "slots": 3}, "kvCache": STORE,
}  # fmt: skip
SPEC = parse(RAW)
NEW = [pod("new-0", ready=True), pod("new-1", ready=True)]
T1, T2 = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)
TEXT1, TEXT2 = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"
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
    return rolled_out(spec, make_plan(spec, world(spec), CONFIG), pods, status, owner=about(7, before or {}), **more)


def condition(status: Manifest, kind: str = "Ready") -> Manifest:
    return next(item for item in status["conditions"] if item["type"] == kind)


def test_a_serving_object():
    status = status_of(View(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    del status["conditions"]
    assert status == {
        "observedGeneration": 7,
        "replicas": 2,
        "readyReplicas": 2,
        "updatedReplicas": 2,
        "restarts": 0,
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
    pods = [crashed("new-0", 1, TEXT1), NEW[1]]
    observed = around(spec, pods, counts(2, 2, 1), reports={"new-0": report, "new-1": loading})
    status = status_of(View(spec, observed, (), T1))
    schema = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert set(status) == set(schema)
    for name, node in schema.items():
        if "properties" in node:
            assert set(status[name]) == set(node["properties"]), name
    for item in status["conditions"]:
        assert set(item) == set(schema["conditions"]["items"]["properties"])


def test_https_and_port_in_the_endpoint():
    spec = parse({**RAW, "serving": {"port": 443}, "security": {"tls": {"secretName": "c"}}})
    assert status_of(View(spec, world(spec), (), T1))["endpoint"] == "https://demo.models.svc:443"


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
    status = status_of(View(SPEC, around(SPEC, pods, counts(2)), (), T1))
    assert status["slots"] == slots
    assert status["context"] == {"totalTokens": context}


def test_a_refused_edit_changes_nothing_that_pods_have():
    """The Deployment and its pods still have the earlier spec."""
    before = around(SPEC, NEW, counts(2))
    wish: Manifest = {"context": {"tokensPerSlot": 9999, "slots": 9}, "serving": {"port": 9000}}
    wished = parse({**RAW, **wish, "security": {"tls": {"secretName": "c"}}})
    problem = Problem("NeedsReadWriteMany", "spec.model.cache: needs ReadWriteMany")
    status = status_of(View(wished, before, (problem,), T1))
    assert status["slots"] == {"total": 6, "perReplica": 3}
    assert status["context"] == {"totalTokens": 3000}
    assert status["endpoint"] == "http://demo.models.svc:8080"


def test_the_endpoint_is_https_when_a_pod_serves_it():
    plain = old_pod("old-0", RAW)
    spec = parse({**RAW, "security": {"tls": {"secretName": "c"}}})
    for pods, scheme in (([plain, pod("new-0")], "http"), ([plain, NEW[0]], "https"), ([], "https")):
        status = status_of(View(spec, around(spec, pods, counts(2)), (), T1))
        assert status["endpoint"] == f"{scheme}://demo.models.svc:8080"


def test_no_service_has_no_endpoint():
    problem = Problem("NeedsReadWriteMany", "spec.model.cache: needs ReadWriteMany")
    assert "endpoint" not in status_of(View(SPEC, world(SPEC), (problem,), T1))


def test_before_there_is_anything():
    status = status_of(View(SPEC, world(SPEC), (), T1))
    assert (status["replicas"], status["readyReplicas"], status["slots"]["total"]) == (0, 0, 0)
    assert not {"model", "download", "kvCache", "accelerator"} & set(status)


def test_what_is_known_of_the_model_stays_when_no_pod_answers():
    before = status_of(View(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    after = status_of(View(SPEC, around(SPEC, NEW, counts(2), before), (), T2))
    assert after["model"] == before["model"]


def test_ready_pods_that_do_not_answer_keep_their_values():
    spec = parse({**RAW, "accelerator": {"vendor": "NVIDIA"}})
    before = status_of(View(spec, around(spec, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    assert {"kvCache", "accelerator"} <= set(before)
    assert status_of(View(spec, around(spec, NEW, counts(2), before), (), T2)) == before


def test_pods_that_are_not_ready_do_not_keep_old_values():
    spec = parse({**RAW, "accelerator": {"vendor": "NVIDIA"}})
    before = status_of(View(spec, around(spec, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    after = status_of(View(spec, around(spec, [pod("new-0")], counts(2, 2, 0), before), (), T2))
    assert not {"kvCache", "accelerator"} & set(after)
    assert condition(after, "Accelerated")["reason"] == condition(after, "CacheRestored")["reason"] == "Pending"


def test_without_pods_no_old_values_are_kept():
    before = status_of(View(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    zero = parse({**RAW, "replicas": 0})
    assert "kvCache" not in status_of(View(zero, around(zero, [], counts(0), before), (), T2))


def test_values_are_removed_when_the_spec_no_longer_asks_for_them():
    spec = parse({**RAW, "accelerator": {"vendor": "NVIDIA"}})
    before = status_of(View(spec, around(spec, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    plain = parse({**RAW, "kvCache": None})
    assert not {"kvCache", "accelerator"} & set(status_of(View(plain, around(plain, NEW, counts(2), before), (), T2)))


@pytest.mark.parametrize("cache", [None, {"hostMemory": "1Gi"}, {**STORE, "persistence": "None"}])
def test_without_a_store_there_are_no_entries(cache: Manifest | None):
    """A server with host memory only reports an empty store."""
    spec = parse({**RAW, "kvCache": cache})
    assert "kvCache" not in status_of(View(spec, around(spec, NEW, counts(2), reports={"new-0": REPORT}), (), T1))


def test_a_transition_is_timed_by_the_change_of_the_status_alone():
    first = status_of(View(SPEC, around(SPEC, [], counts(0)), (), T1))
    assert {item["lastTransitionTime"] for item in first["conditions"]} == {TEXT1}
    second = status_of(View(SPEC, around(SPEC, [pod("new-0")], counts(1, 1, 0), first), (), T2))
    assert condition(second)["lastTransitionTime"] == TEXT1, "False as before, whatever the message"
    assert condition(second, "Scheduled")["lastTransitionTime"] == TEXT2, "Unknown, now True"
    third = status_of(View(SPEC, around(SPEC, NEW, counts(2), second), (), T2))
    assert condition(third)["lastTransitionTime"] == TEXT2
    assert condition(third, "Accepted")["lastTransitionTime"] == TEXT1


def test_conditions_are_about_the_generation():
    status = status_of(View(SPEC, around(SPEC, NEW, counts(2)), (), T1))
    assert {item["observedGeneration"] for item in status["conditions"]} == {status["observedGeneration"]} == {7}


def test_a_spec_that_cannot_be_read_keeps_what_was_known():
    before = status_of(View(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    problem = Problem("InvalidSpec", "spec.context.slots: Expected `int`")
    observed = replace(around(SPEC, [crashed("new-0", 1, TEXT1), NEW[1]], counts(2, 2, 1)), owner=about(8, before))
    status = rejected(observed, problem, T2)
    assert status["model"] == before["model"]
    assert (status["replicas"], status["readyReplicas"], status["restarts"]) == (2, 1, 1)
    assert status["observedGeneration"] == 8
    assert summary(status) == [
        ("Ready", "False", "InvalidSpec"),
        ("Available", "True", "Serving"),
        ("Stalled", "True", "InvalidSpec"),
        ("Accepted", "False", "InvalidSpec"),
    ]
    later = datetime(2026, 2, 1, tzinfo=UTC)
    assert rejected(replace(observed, owner=about(8, status)), problem, later) == status


def about(generation: int, status: Manifest) -> Manifest:
    return owner(generation=generation, status=status)


def summary(status: Manifest) -> list[tuple[str, str, str]]:
    return [(item["type"], item["status"], item["reason"]) for item in status["conditions"]]


def test_pods_of_an_earlier_object_do_not_count_as_serving():
    observed = around(SPEC, NEW, counts(2))
    observed.deployment["metadata"]["ownerReferences"][0]["uid"] = OTHER_UID
    status = rejected(observed, Problem("WaitingForDeletion", "it has to go first"), T1)
    assert summary(status)[:3] == [
        ("Ready", "False", "WaitingForDeletion"),
        ("Available", "False", "WaitingForDeletion"),
        ("Accepted", "False", "WaitingForDeletion"),
    ]


@pytest.mark.parametrize("reason", ["Deleting", "Forbidden"])
def test_pods_that_were_not_read_make_available_unknown(reason: str):
    before = status_of(View(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    status = unseen(about(8, before), Problem(reason, "why"), T2)
    assert summary(status) == [
        ("Ready", "False", reason), ("Available", "Unknown", reason), ("Accepted", "False", reason),
    ]  # fmt: skip
    assert {**status, "conditions": 0, "observedGeneration": 0} == {**before, "conditions": 0, "observedGeneration": 0}


# ---- restarts and how servers ended


def crashed(name: str, times: int, at: str, template: str = "new", **last: Any) -> Manifest:
    """A pod whose server crashed at this time and is starting again."""
    ended = {"exitCode": 137, "startedAt": "2025-12-31T23:58:00Z", "finishedAt": at, **last}
    state = {"running": {"startedAt": at}}
    server = {"name": "server", "restartCount": times, "state": state, "lastState": {"terminated": ended}}
    return pod(name, template, containerStatuses=[server])


KILLED = "container server was killed by signal 9 (SIGKILL), restart 1, up 2 min"


def test_restarts_are_those_of_the_pods_that_are_there():
    pods = [crashed("new-0", 1, TEXT1), crashed("old-0", 4, TEXT1, "old"), NEW[1]]
    gone = crashed("old-1", 8, TEXT1, "old")
    gone["metadata"]["deletionTimestamp"] = TEXT1
    status = status_of(
        View(SPEC, around(SPEC, [*pods, gone, crashed("other-0", 16, TEXT1, "other")], counts(3)), (), T1)
    )
    assert status["restarts"] == 5


def test_slots_are_those_of_the_objects_own_pods():
    pods = [NEW[0], pod("other-0", "other", ready=True)]
    assert status_of(View(SPEC, around(SPEC, pods, counts(1)), (), T1))["slots"] == {"total": 3, "perReplica": 3}


def test_the_last_termination_is_kept():
    first = status_of(View(SPEC, around(SPEC, [crashed("new-0", 1, TEXT1), NEW[1]], counts(2, 2, 1)), (), T1))
    assert first["lastTermination"] == {"time": TEXT1, "pod": "new-0", "reason": "Crashed", "message": KILLED}
    after = status_of(View(SPEC, around(SPEC, NEW, counts(2), first), (), T1))
    assert (after["restarts"], after["lastTermination"]) == (0, first["lastTermination"])
    pods = [crashed("new-0", 1, TEXT1), crashed("new-1", 2, TEXT2, exitCode=139)]
    later = status_of(View(SPEC, around(SPEC, pods, counts(2, 2, 0), first), (), T2))["lastTermination"]
    assert (later["time"], later["pod"], later["reason"]) == (TEXT2, "new-1", "CrashedNatively")


def test_a_pod_that_failed_as_a_whole_did_not_crash():
    evicted = crashed("new-0", 1, TEXT1)
    evicted["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "disk"}
    assert "lastTermination" not in status_of(View(SPEC, around(SPEC, [evicted], counts(1, 1, 0)), (), T1))


# ---- Events


def told(before: list[tuple[str, str, str]], after: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    def made(items: list[tuple[str, str, str]]) -> Manifest:
        names = ("type", "status", "reason", "message")
        return {"conditions": [dict(zip(names, (*item, f"{item[2]}."), strict=True)) for item in items]}

    return [(kind, reason) for kind, reason, _ in transitions(made(before) if before else {}, made(after))]


STARTS = [("Ready", "False", "RollingOut"), ("ModelAvailable", "Unknown", "Pending")]
SERVES = [("Ready", "True", "Serving"), ("ModelAvailable", "True", "Loaded")]
UP, ZERO = ("Available", "True", "Serving"), ("Normal", "ScaledToZero")
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
            [*SERVES, UP],
            [("Ready", "False", "ImagePullFailed"), UP, ("Progressing", "False", "ImagePullFailed")],
            [("Warning", "ImagePullFailed")],
        ),
        (SERVES, [("Ready", "True", "ScaledToZero"), ("Available", "False", "ScaledToZero")], [ZERO]),
        ([], [*STARTS, ("Available", "False", "RollingOut")], [("Normal", "RollingOut")]),
        (
            [*SERVES, UP], [*FAILS, ("Available", "False", "ModelNotFound"), ("Stalled", "True", "ModelNotFound")],
            [("Warning", "ModelNotFound")],
        ),
        ([*FAILS, UP], [*FAILS, ("Available", "False", "ModelNotFound")], [("Warning", "ModelNotFound")]),
        (FAILS, [*FAILS, ("Stalled", "True", "ModelNotFound")], [("Warning", "ModelNotFound")]),
        ([*FAILS, ("Stalled", "True", "ModelNotFound")], [*FAILS, ("Stalled", "True", "ModelNotFound")], []),
        ([*FAILS, ("Stalled", "True", "ModelNotFound")], SERVES, [("Normal", "Serving")]),
        (SERVES, [("Ready", "False", "Paused"), ("Progressing", "False", "Paused")], [("Warning", "Paused")]),
        (SERVES, [*SERVES, ("Progressing", "Unknown", "Paused")], []),
    ],
)  # fmt: skip
def test_events_are_written_on_transitions_only(
    before: list[tuple[str, str, str]], after: list[tuple[str, str, str]], events: list[tuple[str, str]]
):
    assert told(before, after) == events


def test_an_event_says_what_changed():
    after = {"conditions": [{"type": "Ready", "status": "False", "reason": "DiskFull", "message": "no space"}]}
    assert transitions({}, after) == [("Warning", "DiskFull", "Ready is False: no space")]


def up_again(item: Manifest) -> Manifest:
    """The same pod when it is ready."""
    (server,) = item["status"]["containerStatuses"]
    return pod(item["metadata"]["name"], ready=True, containerStatuses=[{**server, "ready": True}])


def test_each_crash_has_one_event_also_when_the_server_was_not_seen_down():
    serving = status_of(View(SPEC, around(SPEC, NEW, counts(2), reports={"new-0": REPORT}), (), T1))
    down = around(SPEC, [crashed("new-0", 1, TEXT2), NEW[1]], counts(2, 2, 1), serving)
    seen = status_of(View(SPEC, down, (), T2))
    assert condition(seen)["reason"] == "Crashed"
    told = transitions(serving, seen)
    assert [(kind, reason) for kind, reason, _ in told] == [("Warning", "Crashed")]
    assert told[0][2].startswith("Ready is False: container server was killed by signal 9 (SIGKILL), restart 1, up ")

    up = [up_again(crashed("new-0", 1, TEXT2)), NEW[1]]
    missed = status_of(View(SPEC, around(SPEC, up, counts(2), serving), (), T2))
    assert [reason for _, reason, _ in transitions(serving, missed)] == ["Crashed"]
    assert [
        item[:2] for item in transitions(seen, status_of(View(SPEC, around(SPEC, up, counts(2), seen), (), T2)))
    ] == [("Normal", "Serving")]
    # The list of pods may tell that the container ended before it tells that the pod is not ready.
    late = status_of(View(SPEC, replace(down, owner=about(7, missed)), (), T2))
    assert condition(late)["reason"] == "Crashed"
    assert transitions(missed, late) == []


def test_a_crash_loop_has_one_event():
    events, status = [], status_of(View(SPEC, around(SPEC, NEW, counts(2)), (), T1))
    for times in range(1, 8):
        at = f"2026-01-01T00:0{times}:00Z"
        bad = crashed("new-0", times, at, startedAt=TEXT1)
        good = up_again(crashed("new-0", times, at, startedAt=TEXT1))
        for pods, ready in (([bad, NEW[1]], 1), ([good, NEW[1]], 2)):
            now = datetime(2026, 1, 1, 0, times, 5, tzinfo=UTC)
            after = status_of(View(SPEC, around(SPEC, pods, counts(2, 2, ready), status), (), now))
            events += [(times, *item[:2]) for item in transitions(status, after)]
            status = after
    assert [item for item in events if item[1] == "Warning"] == [
        (1, "Warning", "Crashed"), (2, "Warning", "CrashLoopBackOff"), (3, "Warning", "CrashLoopBackOff"),
    ]  # fmt: skip
    assert (status["restarts"], condition(status)["status"]) == (7, "False")


def test_a_reason_of_the_server_is_shown_by_a_condition_only():
    text = '{"reason": "BadArguments", "message": "--port: no"}'
    bad = crashed("new-0", 1, TEXT1, exitCode=1, message=text)
    after = status_of(View(SPEC, around(SPEC, [bad], counts(1, 1, 0)), (), T1))
    assert after["lastTermination"]["reason"] == "BadArguments"
    assert transitions({}, after) == [("Warning", "BadArguments", "Ready is False: --port: no")]


def test_foreign_text_cannot_forge_a_line() -> None:
    """Terminals show messages of conditions and Events. Pods and the API server write parts of them."""
    said = "no\r2026-01-01T00:00:00Z ERROR forged\n\x1b[2K\u202e"
    problem = Problem("InvalidSpec", said)
    status = unseen(owner(), problem, T1)
    assert condition(status)["message"] == "no\\r2026-01-01T00:00:00Z ERROR forged\\n\\u001b[2K\\u202e"
    assert all(text.isprintable() for _, _, text in transitions({}, status))
