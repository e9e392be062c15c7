"""Conditions as a table of situations: Ready exactly as the design has it, the others with their reasons."""

from dataclasses import replace
from typing import Any

import pytest
from llamaserver_operator.conditions import Condition, conditions
from llamaserver_operator.observed import Observed
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.rollout import Problem
from llamaserver_operator.spec import Spec

from tests.support.worlds import CONFIG, Manifest, counts, pod, rolled_out, world

IMAGE = {"image": {"reference": "registry.example/model:1", "path": "model.gguf"}}
PLAIN: Manifest = {"model": {"source": IMAGE}, "replicas": 2}
GPU: Manifest = {**PLAIN, "replicas": 1, "accelerator": {"vendor": "NVIDIA"}}
STORE: Manifest = {**PLAIN, "kvCache": {"persistence": "Continuous", "volume": {"emptyDir": {}}}}
TYPES = ["Ready", "Accepted", "ModelAvailable", "Scheduled", "Progressing"]

NEW = [pod("new-0", ready=True), pod("new-1", ready=True)]
OLD = [pod("old-0", "old", ready=True), pod("old-1", "old", ready=True)]
STARTING = pod("new-0")
CRASHING = pod(
    "new-0",
    containerStatuses=[
        {
            "name": "server",
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": '{"reason": "ModelLoadFailed", "message": "bad"}'}},
        }
    ],
)
EVICTED = pod("new-2", phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage.")
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
UNSCHEDULABLE = pod(
    "new-0",
    node="",
    conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_GPU}],
)
LATE = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}]
QUOTA = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]
BLOCKED = Problem("NeedsReadWriteMany", "spec.model.cache: needs ReadWriteMany")
REFUSED = Problem("Forbidden", "Service demo: forbidden", blocking=False)
MINOR = Problem("ServiceMonitorUnavailable", "no CRD", blocking=False)


def situation(
    raw: Manifest, pods: list[Manifest], status: Manifest, problems: tuple[Problem, ...] = (), **more: Any
) -> dict[str, Condition]:
    spec: Spec = parse(raw)
    observed: Observed = rolled_out(spec, make_plan(spec, world(spec), CONFIG), pods, status, **more)
    return {item.type: item for item in conditions(spec, observed, problems)}


# name: (spec, pods, Deployment's status, problems, Ready, Progressing)
READY: dict[str, tuple[Manifest, list[Manifest], Manifest, tuple[Problem, ...], tuple[str, str], tuple[str, str]]] = {
    "all updated and available": (PLAIN, NEW, counts(2), (), ("True", "Serving"), ("True", "Complete")),
    "one of two available": (PLAIN, NEW[:1], counts(2, 2, 1), (), ("False", "RollingOut"), ("True", "RollingOut")),
    "none yet": (PLAIN, [], counts(0), (), ("False", "RollingOut"), ("True", "RollingOut")),
    "updated, an old one still ends": (
        PLAIN, [*NEW, OLD[0]], counts(3, 2, 3), (), ("False", "RollingOut"), ("True", "RollingOut"),
    ),
    "available, none updated": (
        PLAIN, OLD, counts(2, 0, 2), (), ("False", "RollingOut"), ("True", "RollingOut"),
    ),
    "the Deployment is not looked at yet": (
        PLAIN, NEW, {**counts(2), "observedGeneration": 0}, (), ("False", "RollingOut"), ("True", "RollingOut"),
    ),
    "a pod was evicted, the next one starts": (
        PLAIN, [EVICTED, STARTING], counts(1, 1, 0), (), ("False", "Evicted"), ("False", "Evicted"),
    ),
    "a pod was evicted long ago": (
        PLAIN, [EVICTED, STARTING, NEW[1]], counts(2, 2, 1), (), ("False", "RollingOut"), ("True", "RollingOut"),
    ),
    "scaled to zero": ({**PLAIN, "replicas": 0}, [], counts(0), (), ("False", "ScaledToZero"), ("True", "Complete")),
    "scaled to zero, pods still end": (
        {**PLAIN, "replicas": 0}, NEW, counts(2), (), ("False", "ScaledToZero"), ("True", "RollingOut"),
    ),
    "scaled to zero, and the API server refuses": (
        {**PLAIN, "replicas": 0}, [], counts(0), (REFUSED, MINOR), ("False", "Forbidden"), ("False", "Forbidden"),
    ),
    "a rollout fails while old pods serve": (
        PLAIN, [*OLD, CRASHING], counts(3, 1, 2), (), ("True", "RolloutFailing"), ("False", "ModelLoadFailed"),
    ),
    "a rollout is late while old pods serve": (
        PLAIN, [*OLD, STARTING], {**counts(3, 1, 2), "conditions": LATE}, (),
        ("True", "RolloutFailing"), ("False", "ProgressDeadlineExceeded"),
    ),
    "a quota stands against it while old pods serve": (
        PLAIN, OLD, {**counts(2, 0, 2), "conditions": QUOTA}, (), ("True", "RolloutFailing"), ("False", "FailedCreate"),
    ),
    "a rollout fails and too few old pods serve": (
        PLAIN, [OLD[0], CRASHING], counts(2, 1, 1), (), ("False", "ModelLoadFailed"), ("False", "ModelLoadFailed"),
    ),
    "the first rollout fails": (
        PLAIN, [CRASHING], counts(1, 1, 0), (), ("False", "ModelLoadFailed"), ("False", "ModelLoadFailed"),
    ),
    "no node": (
        PLAIN, [UNSCHEDULABLE], counts(1, 1, 0), (), ("False", "Unschedulable"), ("False", "Unschedulable"),
    ),
    "the spec cannot be acted on": (
        PLAIN, NEW, counts(2), (BLOCKED,), ("False", "NeedsReadWriteMany"), ("True", "Complete"),
    ),
    "a small problem": (PLAIN, NEW, counts(2), (MINOR,), ("True", "Serving"), ("True", "Complete")),
}  # fmt: skip


@pytest.mark.parametrize("name", READY)
def test_ready_and_progressing(name: str):
    raw, pods, status, problems, ready, progressing = READY[name]
    found = situation(raw, pods, status, problems)
    assert list(found) == TYPES
    assert (found["Ready"].status, found["Ready"].reason) == ready
    assert (found["Progressing"].status, found["Progressing"].reason) == progressing
    accepted = ("False", problems[0].reason) if problems else ("True", "Valid")
    assert (found["Accepted"].status, found["Accepted"].reason) == accepted


def test_ready_tells_what_is_the_matter_and_what_serves():
    found = situation(PLAIN, [*OLD, CRASHING], counts(3, 1, 2))["Ready"]
    assert found.message == "pods of an earlier template serve; the rollout fails: bad"
    assert situation(PLAIN, [UNSCHEDULABLE], counts(1, 1, 0))["Ready"].message == NO_GPU
    assert "1 of 2 pods updated, 1 available" in situation(PLAIN, NEW[:1], counts(1, 1, 1))["Ready"].message


def test_an_ending_pod_has_no_say():
    gone = pod("new-0")
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    gone["status"] = CRASHING["status"]
    assert situation(PLAIN, [gone, NEW[1]], counts(2, 2, 1))["Progressing"].reason == "RollingOut"


def test_blocking_problems_are_told_before_small_ones():
    assert situation(PLAIN, NEW, counts(2), (MINOR, BLOCKED))["Accepted"].reason == "NeedsReadWriteMany"


# ---- a GPU that an old pod still holds


def test_an_old_pod_that_makes_room_is_waited_for():
    old = pod("old-0", "old", ready=True)
    old["spec"]["containers"] = [{"name": "server", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]
    found = situation(GPU, [old, UNSCHEDULABLE], counts(2, 1, 1))
    assert (found["Progressing"].status, found["Scheduled"].reason) == ("True", "Unschedulable")
    found = situation(GPU, [UNSCHEDULABLE], counts(1, 1, 0))
    assert (found["Progressing"].status, found["Progressing"].reason) == ("False", "Unschedulable")
    surge = {**GPU, "rollout": {"strategy": "Surge"}}
    found = situation(surge, [old, UNSCHEDULABLE], counts(2, 1, 1))
    assert (found["Progressing"].status, found["Ready"].status) == ("False", "True")


# ---- what pods report


def report(state: str, **more: Any) -> Manifest:
    return {"state": state, **more}


GIB = 2**30
DOWNLOAD = {"file": "k/m.gguf", "bytes": GIB, "total_bytes": 4 * GIB}
MODEL = {
    "nothing heard": ({}, ("Unknown", "Pending", "")),
    "downloading": (report("downloading", download=DOWNLOAD), ("False", "Downloading", "1.00 of 4.00 GiB")),
    "downloading, with trouble": (
        report("downloading", download=DOWNLOAD, error="timed out"), ("False", "Downloading", "timed out"),
    ),
    "download begins": (report("downloading", download={}), ("False", "Downloading", "starting")),
    "another downloads": (report("downloading", waiting_for_lock=True), ("False", "WaitingForDownload", "another pod")),
    "loading": (report("loading"), ("False", "Loading", "loads the model")),
    "loaded": (report("ready"), ("True", "Loaded", "")),
    "draining": (report("draining"), ("True", "Loaded", "")),
    "failed": (report("failed"), ("Unknown", "Pending", "")),
}  # fmt: skip


@pytest.mark.parametrize("name", MODEL)
def test_model_available(name: str):
    told, (status, reason, words) = MODEL[name]
    found = situation(PLAIN, [STARTING], counts(1, 1, 0), reports={"new-0": told} if told else {})["ModelAvailable"]
    assert (found.status, found.reason) == (status, reason)
    assert words in found.message


def test_a_download_that_fails_before_its_size_is_known_tells_why():
    told = report("downloading", download={}, error="http://h/m.gguf: the server answered 500, attempt 3 of 6")
    found = situation(PLAIN, [STARTING], counts(1, 1, 0), reports={"new-0": told})["ModelAvailable"]
    assert (found.reason, found.message) == ("Downloading", told["error"])


def test_reports_of_old_pods_do_not_count():
    found = situation(PLAIN, [*OLD, STARTING], counts(3, 1, 2), reports={"old-0": report("ready")})
    assert found["ModelAvailable"].reason == "Pending"


def test_complete_pods_that_do_not_answer_have_their_model():
    assert situation(PLAIN, NEW, counts(2))["ModelAvailable"].status == "True"


@pytest.mark.parametrize("name", ["ModelAvailable", "Scheduled"])
def test_without_pods_nothing_is_known(name: str):
    assert situation(PLAIN, [], counts(0))[name].status == "Unknown"
    assert situation({**PLAIN, "replicas": 0}, [], counts(0))[name].reason == "ScaledToZero"


def test_scheduled():
    assert situation(PLAIN, [STARTING], counts(1, 1, 0))["Scheduled"].status == "True"
    assert situation(PLAIN, [pod("new-0", node="")], counts(1, 1, 0))["Scheduled"].status == "Unknown"
    found = situation(PLAIN, [UNSCHEDULABLE], counts(1, 1, 0))["Scheduled"]
    assert (found.status, found.reason, found.message) == ("False", "Unschedulable", NO_GPU)


def device(layers: int, name: str = "NVIDIA L4") -> Manifest:
    return report("ready", accelerator={"device": name, "layers_offloaded": layers, "layers_total": 31})


ACCELERATED = [
    (GPU, {}, ("Unknown", "Pending")),
    (GPU, {"new-0": report("loading")}, ("Unknown", "Pending")),
    (GPU, {"new-0": device(31)}, ("True", "Offloaded")),
    (GPU, {"new-0": device(0, "CPU")}, ("False", "RunningOnCPU")),
    ({**GPU, "engine": {"gpuLayers": 0}}, {"new-0": device(0, "CPU")}, ("False", "NotWanted")),
]


@pytest.mark.parametrize(("raw", "reports", "expected"), ACCELERATED)
def test_accelerated(raw: Manifest, reports: Manifest, expected: tuple[str, str]):
    found = situation(raw, [pod("new-0", ready=True)], counts(1), reports=reports)["Accelerated"]
    assert (found.status, found.reason) == expected


def test_one_pod_on_the_cpu_is_enough_to_tell():
    reports = {"new-0": device(31), "new-1": device(0, "CPU")}
    found = situation({**GPU, "replicas": 2}, NEW, counts(2), reports=reports)["Accelerated"]
    assert (found.status, found.reason) == ("False", "RunningOnCPU")


def test_with_warn_the_cpu_is_told_and_serves():
    raw = {**GPU, "accelerator": {"vendor": "NVIDIA", "onFallback": "Warn"}}
    found = situation(raw, [pod("new-0", ready=True)], counts(1), reports={"new-0": device(0, "CPU")})
    assert (found["Ready"].status, found["Accelerated"].status) == ("True", "False")


def test_with_fail_the_cpu_fails_the_rollout_and_old_pods_serve():
    """The server itself stays unready (--require-offload)."""
    reports = {"new-0": device(0, "CPU")}
    first = situation(GPU, [pod("new-0")], counts(1, 1, 0), reports=reports)
    assert (first["Ready"].status, first["Ready"].reason) == ("False", "RunningOnCPU")
    later = situation(GPU, [pod("old-0", "old", ready=True), pod("new-0")], counts(2, 1, 1), reports=reports)
    assert (later["Ready"].status, later["Progressing"].status) == ("True", "False")


def stored(entries: int, restored: int = 0) -> Manifest:
    return report("ready", kv_store={"entries": entries, "bytes": 100 * entries, "restored_tokens": restored})


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ({}, ("Unknown", "Pending")),
        ({"new-0": stored(0)}, ("False", "Empty")),
        ({"new-0": stored(3)}, ("True", "Available")),
        ({"new-0": stored(3), "new-1": stored(3, 100)}, ("True", "Restored")),
    ],
)
def test_cache_restored(reports: Manifest, expected: tuple[str, str]):
    found = situation(STORE, NEW, counts(2), reports=reports)["CacheRestored"]
    assert (found.status, found.reason) == expected


def test_conditions_that_do_not_apply_are_not_there():
    for cache in ({"volume": {"emptyDir": {}}}, {"hostMemory": "1Gi"}):
        assert "CacheRestored" not in situation({**PLAIN, "kvCache": cache}, NEW, counts(2))
    assert "Accelerated" not in situation(PLAIN, NEW, counts(2))


def test_before_there_is_a_deployment():
    spec = parse(PLAIN)
    found = {item.type: item for item in conditions(spec, replace(world(spec)), ())}
    assert (found["Ready"].status, found["Progressing"].status) == ("False", "Unknown")
