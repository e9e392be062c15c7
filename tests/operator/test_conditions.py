"""Conditions as a table of situations: status and reason of each."""

import json
from datetime import timedelta
from typing import Any

import pytest
from llamaserver_operator.conditions import Condition, conditions
from llamaserver_operator.observed import Observed, is_ready
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.problems import Problem
from llamaserver_operator.spec import Spec
from llamaserver_operator.view import View

from tests.support.operator.worlds import CONFIG, NOW, Manifest, counts, pod, rolled_out, world

IMAGE = {"image": {"reference": "registry.example/model:1", "path": "model.gguf"}}
PLAIN: Manifest = {"model": {"source": IMAGE}, "replicas": 2}
GPU: Manifest = {**PLAIN, "replicas": 1, "accelerator": {"vendor": "NVIDIA"}}
STORE: Manifest = {**PLAIN, "kvCache": {"persistence": "Continuous", "volume": {"emptyDir": {}}}}
TYPES = ["Ready", "Available", "Accepted", "ModelAvailable", "Scheduled", "Progressing"]

NEW = [pod("new-0", ready=True), pod("new-1", ready=True)]
OLD = [pod("old-0", "old", ready=True), pod("old-1", "old", ready=True)]
FOREIGN = [pod("other-0", "other", ready=True), pod("other-1", "other", ready=True)]
NONE: Manifest = {**PLAIN, "replicas": 0}
STARTING = pod("new-0")


def crashing(reason: str) -> Manifest:
    """A pod whose server ends with this reason at each start."""
    last = {"terminated": {"exitCode": 1, "message": f'{{"reason": "{reason}", "message": "bad"}}'}}
    server = {"name": "server", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last}
    return pod("new-0", containerStatuses=[server])


CRASHING = crashing("ModelLoadFailed")
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


def ending(item: Manifest) -> Manifest:
    return {**item, "metadata": {**item["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}


def situation(
    raw: Manifest,
    pods: list[Manifest],
    status: Manifest,
    problems: tuple[Problem, ...] = (),
    paused: bool = False,
    **more: Any,
) -> dict[str, Condition]:
    spec: Spec = parse(raw)
    observed: Observed = rolled_out(spec, make_plan(spec, world(spec), CONFIG), pods, status, **more)
    if paused and observed.deployment:
        observed.deployment["spec"]["paused"] = True
    return {item.type: item for item in conditions(View(spec, observed, problems, NOW))}


Expected = tuple[str, str]  # status and reason
Row = tuple[Manifest, list[Manifest], Manifest, tuple[Problem, ...], Expected, Expected, str, str]
# name: (spec, pods, Deployment's status, problems, Ready, Progressing, Available, reason of Stalled if it is there)
READY: dict[str, Row] = {
    "all updated and available": (
        PLAIN, NEW, counts(2), (), ("True", "Serving"), ("True", "Complete"), "True", "",
    ),
    "one of two available": (
        PLAIN, NEW[:1], counts(2, 2, 1), (), ("False", "RollingOut"), ("True", "RollingOut"), "True", "",
    ),
    "none yet": (PLAIN, [], counts(0), (), ("False", "RollingOut"), ("True", "RollingOut"), "False", ""),
    "updated, an old one still ends": (
        PLAIN, [*NEW, OLD[0]], counts(3, 2, 3), (), ("False", "RollingOut"), ("True", "RollingOut"), "True", "",
    ),
    "available, none updated": (
        PLAIN, OLD, counts(2, 0, 2), (), ("False", "RollingOut"), ("True", "RollingOut"), "True", "",
    ),
    "the Deployment is not looked at yet": (
        PLAIN, NEW, {**counts(2), "observedGeneration": 0}, (),
        ("False", "RollingOut"), ("True", "RollingOut"), "True", "",
    ),
    "the Deployment is not looked at yet, and the rollout before was late": (
        PLAIN, OLD, {**counts(2), "observedGeneration": 0, "conditions": LATE}, (),
        ("False", "RollingOut"), ("True", "RollingOut"), "True", "",
    ),
    "the Deployment counts a pod that the list of pods does not have yet": (
        PLAIN, [], counts(2), (), ("True", "Serving"), ("True", "Complete"), "True", "",
    ),
    "a pod was evicted, the next one starts": (
        PLAIN, [EVICTED, STARTING], counts(1, 1, 0), (), ("False", "Evicted"), ("False", "Evicted"), "False", "",
    ),
    "a pod was evicted long ago": (
        PLAIN, [EVICTED, STARTING, NEW[1]], counts(2, 2, 1), (),
        ("False", "RollingOut"), ("True", "RollingOut"), "True", "",
    ),
    "scaled to zero": (NONE, [], counts(0), (), ("True", "ScaledToZero"), ("True", "Complete"), "False", ""),
    "scaled to zero, pods still end": (
        NONE, NEW, counts(2), (), ("False", "RollingOut"), ("True", "RollingOut"), "True", "",
    ),
    "scaled to zero, and the API server refuses": (
        NONE, [], counts(0), (REFUSED, MINOR), ("False", "Forbidden"), ("False", "Forbidden"), "False", "",
    ),
    "scaled to zero with a spec that cannot be acted on": (
        NONE, [], counts(0), (BLOCKED,), ("False", "NeedsReadWriteMany"), ("True", "Complete"),
        "False", "NeedsReadWriteMany",
    ),
    "a rollout fails while old pods serve": (
        PLAIN, [*OLD, CRASHING], counts(3, 1, 2), (),
        ("False", "ModelLoadFailed"), ("False", "ModelLoadFailed"), "True", "ModelLoadFailed",
    ),
    "an edit of the chat template breaks it": (
        PLAIN, [*OLD, crashing("TemplateInvalid")], counts(3, 1, 2), (),
        ("False", "TemplateInvalid"), ("False", "TemplateInvalid"), "True", "TemplateInvalid",
    ),
    "a rollout is late while old pods serve": (
        PLAIN, [*OLD, STARTING], {**counts(3, 1, 2), "conditions": LATE}, (),
        ("False", "ProgressDeadlineExceeded"), ("False", "ProgressDeadlineExceeded"),
        "True", "ProgressDeadlineExceeded",
    ),
    "a quota stands against it while old pods serve": (
        PLAIN, OLD, {**counts(2, 0, 2), "conditions": QUOTA}, (),
        ("False", "FailedCreate"), ("False", "FailedCreate"), "True", "",
    ),
    "a quota stands against it, and time is over": (
        PLAIN, OLD, {**counts(2, 0, 2), "conditions": [*QUOTA, *LATE]}, (),
        ("False", "FailedCreate"), ("False", "FailedCreate"), "True", "FailedCreate",
    ),
    "a rollout fails and too few old pods serve": (
        PLAIN, [OLD[0], CRASHING], counts(2, 1, 1), (),
        ("False", "ModelLoadFailed"), ("False", "ModelLoadFailed"), "True", "ModelLoadFailed",
    ),
    "the first rollout fails": (
        PLAIN, [CRASHING], counts(1, 1, 0), (),
        ("False", "ModelLoadFailed"), ("False", "ModelLoadFailed"), "False", "ModelLoadFailed",
    ),
    "no node for one pod, the other one fails": (
        PLAIN, [UNSCHEDULABLE, {**CRASHING, "metadata": NEW[1]["metadata"]}], counts(2, 2, 0), (),
        ("False", "Unschedulable"), ("False", "Unschedulable"), "False", "ModelLoadFailed",
    ),
    "no node": (
        PLAIN, [UNSCHEDULABLE], counts(1, 1, 0), (),
        ("False", "Unschedulable"), ("False", "Unschedulable"), "False", "",
    ),
    "no node until the end of the time": (
        PLAIN, [UNSCHEDULABLE], {**counts(1, 1, 0), "conditions": LATE}, (),
        ("False", "Unschedulable"), ("False", "Unschedulable"), "False", "Unschedulable",
    ),
    "the spec cannot be acted on": (
        PLAIN, NEW, counts(2), (BLOCKED,),
        ("False", "NeedsReadWriteMany"), ("True", "Complete"), "True", "NeedsReadWriteMany",
    ),
    "a small problem": (PLAIN, NEW, counts(2), (MINOR,), ("True", "Serving"), ("True", "Complete"), "True", ""),
    "only pods that end are ready": (
        PLAIN, [ending(item) for item in NEW], counts(0), (),
        ("False", "RollingOut"), ("True", "RollingOut"), "False", "",
    ),
    "only pods of somebody else are ready": (
        PLAIN, FOREIGN, counts(0), (), ("False", "RollingOut"), ("True", "RollingOut"), "False", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READY)
def test_ready_progressing_available_and_stalled(name: str):
    raw, pods, status, problems, ready, progressing, available, stalled = READY[name]
    found = situation(raw, pods, status, problems)
    assert list(found) == [*TYPES[:2], *(["Stalled"] if stalled else []), *TYPES[2:]]
    assert (found["Ready"].status, found["Ready"].reason) == ready
    assert (found["Progressing"].status, found["Progressing"].reason) == progressing
    assert found["Available"].status == available
    if stalled:
        assert (found["Stalled"].status, found["Stalled"].reason) == ("True", stalled)
        assert found["Stalled"].message
    accepted = ("False", problems[0].reason) if problems else ("True", "Valid")
    assert (found["Accepted"].status, found["Accepted"].reason) == accepted


def test_ready_has_the_reason_and_available_counts_the_pods():
    found = situation(PLAIN, [*OLD, CRASHING], counts(3, 1, 2))
    assert found["Ready"].message == found["Stalled"].message == "bad"
    assert found["Available"].message == "2 pods serve, 2 of an earlier spec"
    assert situation(PLAIN, NEW[:1], counts(1, 1, 1))["Available"].message == "1 pod serves"
    found = situation(PLAIN, [CRASHING], counts(1, 1, 0))
    assert (found["Available"].reason, found["Available"].message) == ("ModelLoadFailed", "bad")
    assert situation(PLAIN, [UNSCHEDULABLE], counts(1, 1, 0))["Ready"].message == NO_GPU
    assert "1 of 2 pods updated, 1 available" in situation(PLAIN, NEW[:1], counts(1, 1, 1))["Ready"].message


def test_a_pod_that_is_being_deleted_is_ignored():
    gone = ending({**pod("new-0"), "status": CRASHING["status"]})
    assert situation(PLAIN, [gone, NEW[1]], counts(2, 2, 1))["Progressing"].reason == "RollingOut"


def test_blocking_problems_come_before_others():
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
    assert (found["Progressing"].status, found["Ready"].status) == ("False", "False")
    assert found["Available"].status == "True"


# ---- a Deployment that somebody paused


def test_a_paused_deployment_is_shown():
    text = "Deployment demo is paused. Resume it with kubectl rollout resume deployment/demo"
    found = situation(PLAIN, OLD, counts(2, 0, 2), paused=True)
    for kind in ("Ready", "Progressing", "Stalled"):
        assert (found[kind].reason, found[kind].message) == ("Paused", text)
    assert (found["Ready"].status, found["Progressing"].status, found["Available"].status) == ("False", "False", "True")
    found = situation(PLAIN, NEW, counts(2), paused=True)
    assert (found["Progressing"].status, found["Progressing"].message) == ("Unknown", text)
    assert found["Ready"].status == "True", "what runs is the spec"
    assert "Stalled" not in found


def test_a_failure_of_a_paused_rollout_is_shown_first():
    found = situation(PLAIN, [*OLD, CRASHING], counts(3, 1, 2), paused=True)
    assert found["Progressing"].reason == "ModelLoadFailed"


# ---- servers that crash


def crashed(
    times: int,
    *,
    ago: int = 1,
    life: int = 60,
    ready: bool = False,
    code: int = 137,
    text: str = "",
    kind: str = "Error",
) -> Manifest:
    """A pod whose server runs again, this many seconds after it crashed."""
    at = NOW - timedelta(seconds=ago)
    last = {"exitCode": code, "reason": kind, "message": text, "finishedAt": at.isoformat()}
    last["startedAt"] = (at - timedelta(seconds=life)).isoformat()
    state = {"running": {"startedAt": at.isoformat()}}
    server = {"name": "server", "restartCount": times, "ready": ready, "state": state}
    return pod("new-0", ready=ready, containerStatuses=[{**server, "lastState": {"terminated": last}}])


def test_a_first_crash_is_shown_until_the_server_is_ready_again():
    found = situation(PLAIN, [crashed(1), NEW[1]], counts(2, 2, 1))
    text = "container server was killed by signal 9 (SIGKILL), restart 1, up 60 s"
    assert found["Ready"] == Condition("Ready", "False", "Crashed", text)
    assert found["Progressing"].status == "True", "it is started again"
    assert (found["Available"].status, "Stalled" in found) == ("True", False)
    found = situation(PLAIN, [crashed(1, ready=True), NEW[1]], counts(2))
    assert found["Ready"].status == "True"


def test_a_crash_of_long_ago_is_no_reason_for_a_pod_that_is_not_ready_today():
    old = crashed(1, ago=3600)
    old["status"]["conditions"][0]["lastTransitionTime"] = NOW.isoformat()
    assert situation(PLAIN, [old, NEW[1]], counts(2, 2, 1))["Ready"].reason == "RollingOut"
    old["status"]["conditions"][0]["lastTransitionTime"] = (NOW - timedelta(seconds=3601)).isoformat()
    assert situation(PLAIN, [old, NEW[1]], counts(2, 2, 1))["Ready"].reason == "Crashed"


AGAIN = {
    "three times, and serves": (crashed(3, ready=True), 2, True),
    "twice, and serves": (crashed(2, ready=True), 2, False),
    "three times, the last time after a long life": (crashed(3, ready=True, life=3600), 2, False),
    "three times, some time ago": (crashed(3, ready=True, ago=601), 2, False),
    "three times, just not long enough ago": (crashed(3, ready=True, ago=599), 2, True),
    "three times, and is not ready": (crashed(3), 1, True),
    "three times, and has not been ready for long": (crashed(3, ago=1200), 1, True),
    "three times, slowly, while it loaded": (crashed(3, life=3600, text='{"phase": "load", "cpu": "c"}'), 1, True),
    "often in a year, now after a long life": (crashed(20, life=86400), 1, False),
    "three times by itself, in good order": (crashed(3, ready=True, code=0), 2, True),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAIN)
def test_a_server_that_crashes_again_and_again_is_not_ready_between_restarts(name: str):
    bad, available, loops = AGAIN[name]
    found = situation(PLAIN, [bad, NEW[1]], counts(2, 2, available))
    if not loops:
        assert (found["Ready"].status == "True") == (available == 2)
        assert "Stalled" not in found
        return
    assert (found["Ready"].status, found["Ready"].reason) == ("False", "CrashLoopBackOff")
    assert "restart 3" in found["Ready"].message
    assert (found["Stalled"].reason, found["Stalled"].message) == ("CrashLoopBackOff", found["Ready"].message)
    assert found["Available"].status == "True", "the other pod serves"


@pytest.mark.parametrize("kind", ["Error", "OOMKilled"])
def test_a_crash_loop_has_one_message_in_each_of_its_states(kind: str):
    """Otherwise each state would cause an Event."""
    waits = crashed(2, kind=kind)
    (server,) = waits["status"]["containerStatuses"]
    server["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
    ended = crashed(2, kind=kind)
    (server,) = ended["status"]["containerStatuses"]
    server["state"] = server.pop("lastState")
    states = [waits, ended, crashed(3, kind=kind), crashed(3, kind=kind, ready=True)]
    found = [situation(PLAIN, [state], counts(1, 1, int(is_ready(state)))) for state in states]
    found.append(situation(PLAIN, [states[2]], counts(1, 1, 0), reports={"new-0": report("loading")}))
    assert len({item["Ready"] for item in found}) == 1
    assert len({item["Stalled"] for item in found}) == 1


@pytest.mark.parametrize(
    ("code", "reason"), [(139, "CrashedNatively"), (132, "CrashedNatively"), (137, "CrashLoopBackOff")]
)
def test_the_reason_of_a_crash_loop(code: int, reason: str):
    for state in (crashed(3, code=code), crashed(3, code=code, ready=True)):
        assert situation(PLAIN, [state], counts(1, 1, 1))["Ready"].reason == reason


def test_a_crash_loop_ends_at_a_known_time():
    def view(bad: Manifest) -> View:
        spec = parse(PLAIN)
        observed = rolled_out(spec, make_plan(spec, world(spec), CONFIG), [bad], counts(2))
        return View(spec, observed, (), NOW)

    assert view(crashed(3, ready=True, ago=400)).calm_in == 200
    assert view(crashed(2, ready=True)).calm_in == view(crashed(3, ready=True, ago=700)).calm_in == 0


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
    "loading": (report("loading"), ("False", "Loading", "is loading the model")),
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


def test_a_download_without_a_known_size_shows_its_error():
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


def test_one_pod_on_the_cpu_makes_accelerated_false():
    reports = {"new-0": device(31), "new-1": device(0, "CPU")}
    found = situation({**GPU, "replicas": 2}, NEW, counts(2), reports=reports)["Accelerated"]
    assert (found.status, found.reason) == ("False", "RunningOnCPU")


def test_with_warn_a_pod_on_the_cpu_serves():
    raw = {**GPU, "accelerator": {"vendor": "NVIDIA", "onFallback": "Warn"}}
    found = situation(raw, [pod("new-0", ready=True)], counts(1), reports={"new-0": device(0, "CPU")})
    assert (found["Ready"].status, found["Accelerated"].status) == ("True", "False")
    assert "Stalled" not in found
    two = {**raw, "replicas": 2}
    found = situation(two, [NEW[0], pod("new-1")], counts(2, 2, 1), reports={"new-0": device(0, "CPU")})
    assert (found["Accelerated"].reason, "Stalled" in found) == ("RunningOnCPU", False), "the other pod is on its way"


def test_with_fail_the_cpu_fails_the_rollout_and_old_pods_serve():
    """The server does not become ready (--require-offload)."""
    reports = {"new-0": device(0, "CPU")}
    first = situation(GPU, [pod("new-0")], counts(1, 1, 0), reports=reports)
    assert (first["Ready"].status, first["Ready"].reason) == ("False", "RunningOnCPU")
    later = situation(GPU, [pod("old-0", "old", ready=True), pod("new-0")], counts(2, 1, 1), reports=reports)
    assert (later["Ready"].status, later["Progressing"].status) == ("False", "False")
    assert (later["Available"].status, later["Stalled"].reason) == ("True", "RunningOnCPU")


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


@pytest.mark.parametrize(
    ("told", "stalls"),
    [
        (report("downloading", download=DOWNLOAD), False),
        (report("downloading", waiting_for_lock=True), False),
        (report("loading"), False),
        (report("failed"), True),
    ],
)
def test_a_deadline_stalls_unless_the_model_is_on_its_way(told: Manifest, stalls: bool):
    late = {**counts(1, 1, 0), "conditions": LATE}
    assert ("Stalled" in situation(PLAIN, [STARTING], late, reports={"new-0": told})) == stalls


@pytest.mark.parametrize("reason", ["DownloadFailed", "ModelNotFound", "Unauthorized"])
def test_a_failed_download_is_over_once_bytes_are_received(reason: str):
    text = json.dumps({"reason": reason, "message": "404"})
    last = {"terminated": {"exitCode": 1, "message": text}}
    fetch = {"name": "fetch", "restartCount": 1, "state": {"running": {}}, "lastState": last}
    waits = pod("new-0", initContainerStatuses=[fetch])
    assert situation(PLAIN, [waits], counts(1, 1, 0))["Ready"].reason == reason
    reports = {"new-0": report("downloading", download=DOWNLOAD)}
    assert situation(PLAIN, [waits], counts(1, 1, 0), reports=reports)["Ready"].reason == "Downloading"


def test_before_there_is_a_deployment():
    spec = parse(PLAIN)
    found = {item.type: item for item in conditions(View(spec, world(spec), (), NOW))}
    assert (found["Ready"].status, found["Progressing"].status) == ("False", "Unknown")
