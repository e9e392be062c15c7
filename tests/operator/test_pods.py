"""Pods that do not serve, in the form of the kubelet and the scheduler, and their troubles."""

import json
from typing import Any

import pytest
from llamaserver_operator.pods import Trouble, trouble, unscheduled

from tests.support.operator.worlds import pod

Manifest = dict[str, Any]
CRASH_LOOP = {
    "reason": "CrashLoopBackOff",
    "message": "back-off 40s restarting failed container=server pod=demo-5d4b9c_models(0c1f)",
}


def server(state: Manifest, **more: Any) -> Manifest:
    return {"name": "server", "ready": False, "restartCount": 0, "state": state, "lastState": {}, **more}


def fetch(state: Manifest, **more: Any) -> Manifest:
    return {**server(state), "name": "fetch", **more}


def waits(reason: str, message: str = "") -> Manifest:
    return {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}


def ended(code: int, reason: str = "Error", message: str = "") -> Manifest:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def last_word(reason: str, message: str = "why") -> str:
    return json.dumps({"reason": reason, "message": message})


RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
INITIALIZING = server(waits("PodInitializing"))
IN_INIT = {"containerStatuses": [INITIALIZING]}


def scheduling(reason: str, message: str) -> Manifest:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return pod(node="", conditions=[condition], phase="Pending")


NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."
SECRET = 'secret "hub-token" not found'

# name: (pod, condition, reason, words of the message); None: nothing to tell
CASES: dict[str, tuple[Manifest, tuple[str, str, str] | None]] = {
    "no status at all": ({**pod(), "status": {}}, None),
    "created": (pod(phase="Pending", **IN_INIT), None),
    "unschedulable": (scheduling("Unschedulable", NO_GPU), ("Scheduled", "Unschedulable", NO_GPU)),
    "held back by a gate": (scheduling("SchedulingGated", "gated"), None),
    "downloading": (pod(initContainerStatuses=[fetch(RUNNING)], **IN_INIT), None),
    "loading": (pod(containerStatuses=[server(RUNNING)]), None),
    "serving": (pod(ready=True, containerStatuses=[server(RUNNING, ready=True)]), None),
    "downloaded": (pod(initContainerStatuses=[fetch(ended(0, "Completed"))], **IN_INIT), None),
    "image cannot be pulled": (
        pod(containerStatuses=[server(waits("ImagePullBackOff", 'Back-off pulling image "x:1": not found'))]),
        ("Progressing", "ImagePullFailed", 'container server: Back-off pulling image "x:1": not found'),
    ),
    "image of the download cannot be pulled": (
        pod(initContainerStatuses=[fetch(waits("ErrImagePull"))], **IN_INIT),
        ("Progressing", "ImagePullFailed", "container fetch: ErrImagePull"),
    ),
    "image is not here and must not be pulled": (
        pod(containerStatuses=[server(waits("ErrImageNeverPull", "image is not present with pull policy of Never"))]),
        ("Progressing", "ImagePullFailed", "not present"),
    ),
    "no Secret for the download": (
        pod(initContainerStatuses=[fetch(waits("CreateContainerConfigError", SECRET))], **IN_INIT),
        ("ModelAvailable", "SecretNotFound", SECRET),
    ),
    "no ConfigMap for a variable": (
        pod(containerStatuses=[server(waits("CreateContainerConfigError", 'configmap "settings" not found'))]),
        ("Progressing", "ConfigMapNotFound", 'configmap "settings" not found'),
    ),
    "no such key in a Secret": (
        pod(
            containerStatuses=[
                server(waits("CreateContainerConfigError", "couldn't find key HF_TOKEN in Secret models/hub-token"))
            ]
        ),
        ("Progressing", "SecretKeyNotFound", "HF_TOKEN"),
    ),
    "cannot be created": (
        pod(containerStatuses=[server(waits("CreateContainerError", "context deadline exceeded"))]),
        ("Progressing", "CreateContainerError", "context deadline exceeded"),
    ),
    "cannot be run": (
        pod(containerStatuses=[server(waits("RunContainerError", 'exec: "llamaserver": not found'))]),
        ("Progressing", "RunContainerError", "llamaserver"),
    ),
    "the download has failed": (
        pod(initContainerStatuses=[fetch(ended(1, message=last_word("ModelNotFound", "404")))], **IN_INIT),
        ("ModelAvailable", "ModelNotFound", "404"),
    ),
    "the download fails again and again": (
        pod(
            initContainerStatuses=[
                fetch({"waiting": CRASH_LOOP}, lastState=ended(1, message=last_word("DiskFull")), restartCount=4)
            ],
            **IN_INIT,
        ),
        ("ModelAvailable", "DiskFull", "why"),
    ),
    "the model cannot be loaded": (
        pod(
            containerStatuses=[
                server({"waiting": CRASH_LOOP}, lastState=ended(1, message=last_word("ModelLoadFailed", "bad magic")))
            ]
        ),
        ("ModelAvailable", "ModelLoadFailed", "bad magic"),
    ),
    "arguments are wrong": (
        pod(
            containerStatuses=[
                server({"waiting": CRASH_LOOP}, lastState=ended(2, message=last_word("BadArguments", "--numa: no")))
            ]
        ),
        ("Progressing", "BadArguments", "--numa: no"),
    ),
    "killed for want of memory": (
        pod(containerStatuses=[server({"waiting": CRASH_LOOP}, lastState=ended(137, "OOMKilled"))]),
        ("Progressing", "OOMKilled", "spec.resources.limits.memory"),
    ),
    "killed for want of memory and running again": (
        pod(containerStatuses=[server(RUNNING, lastState=ended(137, "OOMKilled"))]),
        ("Progressing", "OOMKilled", "spec.resources.limits.memory"),
    ),
    "killed for want of memory once, and ready since": (
        pod(ready=True, containerStatuses=[server(RUNNING, ready=True, lastState=ended(137, "OOMKilled"))]),
        None,
    ),
    "killed for want of memory once, ready since, and not ready now": (
        pod(
            conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:09Z"}],
            containerStatuses=[server(RUNNING, lastState=ended(137, "OOMKilled"))],
        ),
        None,
    ),
    "crashes again and again": (
        pod(containerStatuses=[server({"waiting": CRASH_LOOP}, lastState=ended(139, message="Segmentation\nfault\n"))]),
        (
            "Progressing",
            "CrashedNatively",
            "signal 11 (SIGSEGV), restart 1. Its last output: Segmentation fault. This is",
        ),
    ),
    "crashes without a word": (
        pod(containerStatuses=[server({"waiting": CRASH_LOOP}, lastState=ended(1, message=""))]),
        ("Progressing", "CrashLoopBackOff", "ended with exit code 1, restart 1"),
    ),
    "crashed once and is tried again": (pod(containerStatuses=[server(RUNNING, lastState=ended(139))]), None),
    "crashed twice and is tried again": (
        pod(containerStatuses=[server(RUNNING, lastState=ended(139), restartCount=2)]),
        ("Progressing", "CrashedNatively", "signal 11 (SIGSEGV), restart 2"),
    ),
    "JSON that is not ours": (
        pod(containerStatuses=[server({"waiting": CRASH_LOOP}, lastState=ended(1, message='{"level": "fatal"}'))]),
        ("Progressing", "CrashLoopBackOff", '{"level": "fatal"}'),
    ),
    "JSON that is no object": (
        pod(containerStatuses=[server({"waiting": CRASH_LOOP}, lastState=ended(1, message="[1]"))]),
        ("Progressing", "CrashLoopBackOff", "[1]"),
    ),
    "evicted": (
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        ("Progressing", "Evicted", "The node was low on resource: memory."),
    ),
    "refused by the kubelet": (
        pod(phase="Failed", reason="UnexpectedAdmissionError", message="Allocate failed: no healthy devices"),
        ("Progressing", "UnexpectedAdmissionError", "no healthy devices"),
    ),
    "the end of a long message counts": (
        pod(containerStatuses=[server({"waiting": CRASH_LOOP}, lastState=ended(1, message="x" * 4000 + " the cause"))]),
        ("Progressing", "CrashLoopBackOff", "xx the cause"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_trouble_of_a_pod(name: str):
    given, expected = CASES[name]
    found = trouble(given)
    if expected is None:
        assert found is None
        return
    condition, reason, words = expected
    assert found
    assert (found.condition, found.reason) == (condition, reason)
    assert words in found.message
    assert len(found.message) < 1500
    assert "\n" not in found.message


def failed(reason: str, **download: Any) -> Manifest:
    """A pod with a container that ended for this reason. `download` is added to the spec of its init container."""
    name = "server" if reason == "ModelLoadFailed" else "fetch"
    status = {**server({"waiting": CRASH_LOOP}), "name": name, "lastState": ended(1, message=last_word(reason))}
    made = pod(**{"containerStatuses" if name == "server" else "initContainerStatuses": [status]})
    made["spec"]["initContainers"] = [{"name": "fetch", **download}]
    return made


SOURCES = [{"configMapRef": {"name": "other"}}, {"secretRef": {"name": "tok"}}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            failed("Unauthorized"),
            "why. Name a Secret with the key HF_TOKEN or BEARER_TOKEN in spec.model.credentialsSecretRef",
        ),
        (
            failed("Unauthorized", envFrom=SOURCES),
            "why. Tokens are read from the keys HF_TOKEN and BEARER_TOKEN of "
            'Secret "tok" (spec.model.credentialsSecretRef)',
        ),
        (failed("ModelLoadFailed"), "why. Each new pod starts with the download"),
        (failed("NotGGUF", envFrom=SOURCES), "why"),
    ],
    ids=["no-secret", "secret", "load", "other"],
)
def test_a_failed_download_names_the_field_to_change(given: Manifest, message: str):
    found = trouble(given)
    assert found
    assert found.message == message


def test_a_model_that_is_not_downloaded_gets_no_such_advice():
    without = failed("ModelLoadFailed")
    del without["spec"]["initContainers"]
    found = trouble(without)
    assert found
    assert found.message == "why"


def event(reason: str, message: str, at: str = "2026-01-01T00:00:00Z", name: str = "new-0") -> Manifest:
    about = {"kind": "Pod", "name": name, "uid": f"uid-of-{name}"}
    return {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": at, "involvedObject": about}


MOUNT = 'MountVolume.SetUp failed for volume "tls" : secret "certificate" not found'
ATTACH = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) demo-1'
WAITING = pod(phase="Pending", **IN_INIT)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        ([event("FailedMount", MOUNT)], ("SecretNotFound", MOUNT)),
        ([event("FailedMount", 'configmap "texts" not found')], ("ConfigMapNotFound", 'configmap "texts" not found')),
        ([event("FailedAttachVolume", ATTACH)], ("FailedAttachVolume", ATTACH)),
        ([event("FailedMount", MOUNT, name="old-0")], None),
        ([event("Unhealthy", "Startup probe failed")], None),
        (
            [event("FailedAttachVolume", ATTACH), event("FailedMount", MOUNT, "2026-01-01T00:01:00Z")],
            ("SecretNotFound", MOUNT),
        ),
        (
            [event("FailedMount", MOUNT, "2026-01-01T00:01:00Z"), event("FailedAttachVolume", ATTACH)],
            ("SecretNotFound", MOUNT),
        ),
    ],
)
def test_a_failed_mount_is_found_by_its_event(events: list[Manifest], expected: tuple[str, str] | None):
    found = trouble(WAITING, events)
    assert found == (Trouble("Progressing", *expected) if expected else None)


def test_an_event_without_times_is_read():
    bare = event("FailedMount", MOUNT)
    bare |= {"lastTimestamp": None, "eventTime": None}
    found = trouble(WAITING, [bare])
    assert found
    assert found.reason == "SecretNotFound"


@pytest.mark.parametrize(
    "begun",
    [
        pod(initContainerStatuses=[fetch(RUNNING)], **IN_INIT),
        pod(containerStatuses=[server(RUNNING)]),
        pod(ready=True, containerStatuses=[server(RUNNING, ready=True)]),
    ],
)
def test_a_mount_that_failed_before_a_container_ran_is_over(begun: Manifest):
    assert trouble(begun, [event("FailedMount", MOUNT)]) is None


def test_the_message_of_the_scheduler():
    assert unscheduled(CASES["unschedulable"][0]) == NO_GPU
    assert unscheduled(CASES["serving"][0]) == ""
