"""Finds what keeps pods from serving: condition, reason and message. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from . import names
from .crashes import LONGEST, End, end_of
from .manifests import ContainerStatus, Manifest, Pod
from .observed import Observed, container_statuses
from .spec import Accelerator, Spec

_MISSING = re.compile(r'(secret|configmap)s? "([^"]+)" not found')
_MISSING_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)")
_MISSING_ENTRY = re.compile(r"references non-existent (secret|config) key: \S+")  # of a volume
_PULLING = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_MODEL = {
    "ModelNotFound", "Unauthorized", "SourceNotAllowed", "NotGGUF", "ChecksumMismatch", "DiskFull", "DownloadFailed",
    "BadSpec", "ModelLoadFailed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a pod, and the condition that shows it."""

    condition: str
    reason: str
    message: str


def trouble(pod: Pod, warnings: Sequence[Manifest] = ()) -> Trouble | None:
    """The most specific trouble of a pod. None when nothing is wrong."""
    status = pod.get("status", {})
    if text := unscheduled(pod):
        return Trouble("Scheduled", "Unschedulable", text)
    for container in container_statuses(pod):
        if found := _container(pod, container):
            return found
    if status.get("reason") in ("Evicted", "UnexpectedAdmissionError"):
        return Trouble("Progressing", status["reason"], status.get("message", ""))
    return _mount(pod, warnings)


def _hint(reason: str, pod: Pod) -> str:
    """What to change in the object after a failed download. The container does not know the object."""
    containers = pod["spec"].get("initContainers", [])
    fetch = next((item for item in containers if item["name"] == names.FETCH_CONTAINER), None)
    if fetch is None:
        return ""
    if reason == "Unauthorized":
        secrets = [item["secretRef"]["name"] for item in fetch.get("envFrom", []) if "secretRef" in item]
        if not secrets:
            return ". Name a Secret with the key HF_TOKEN or BEARER_TOKEN in spec.model.credentialsSecretRef"
        where = f'Secret "{secrets[0]}" (spec.model.credentialsSecretRef)'
        return f". Tokens are read from the keys HF_TOKEN and BEARER_TOKEN of {where}"
    if reason == "ModelLoadFailed":
        return ". Each new pod starts with the download"
    return ""


def unscheduled(pod: Pod) -> str:
    """The scheduler's message about a pod without a node. Empty when it has none."""
    for item in pod.get("status", {}).get("conditions", []):
        if item["type"] == "PodScheduled" and item["status"] == "False" and item.get("reason") == "Unschedulable":
            return str(item.get("message", "no node fits"))
    return ""


def _container(pod: Pod, container: ContainerStatus) -> Trouble | None:
    state, name = container.get("state", {}), container["name"]
    condition = "ModelAvailable" if name == names.FETCH_CONTAINER else "Progressing"
    waiting = state.get("waiting", {})
    reason, text = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _PULLING:
        return Trouble("Progressing", "ImagePullFailed", f"container {name}: {text or reason}")
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return Trouble(condition, _missing(text) or reason, f"container {name}: {text}")
    end = end_of(pod, container)
    if end is None or end.past or not end.code:
        return None
    # From the second early end on it is a loop, also while the container runs again.
    if waiting or (end.times > 1 and end.early):
        return trouble_of(pod, end)
    # Otherwise it was one crash, and the container runs again.
    return trouble_of(pod, end) if end.stated or end.reason == "OOMKilled" else None


def trouble_of(pod: Pod, end: End) -> Trouble:
    """The trouble that the end of a container means."""
    condition = "ModelAvailable" if end.container == names.FETCH_CONTAINER else "Progressing"
    if end.stated:
        reason, message = end.stated
        return Trouble("ModelAvailable" if reason in _MODEL else condition, reason, message + _hint(reason, pod))
    if end.reason == "OOMKilled":
        text = f"container {end.container} was OOM-killed. Raise spec.resources.limits.memory"
        return Trouble("Progressing", "OOMKilled", text)
    return Trouble(condition, "CrashedNatively" if end.native else "CrashLoopBackOff", end.text)


def _mount(pod: Pod, warnings: Sequence[Manifest]) -> Trouble | None:
    """A volume that cannot be mounted. Only Events show it."""
    if any("running" in item.get("state", {}) or item.get("ready") for item in container_statuses(pod)):
        return None
    uid = pod["metadata"]["uid"]
    mine = [item for item in warnings if item.get("involvedObject", {}).get("uid") == uid]
    for event in sorted(mine, key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime")), reverse=True):
        if event.get("reason") in ("FailedMount", "FailedAttachVolume"):
            text = str(event.get("message", ""))
            return Trouble("Progressing", _missing(text) or str(event["reason"]), text[-LONGEST:])
    return None


def _missing(text: str) -> str:
    if found := _MISSING.search(text):
        return "SecretNotFound" if found[1] == "secret" else "ConfigMapNotFound"
    if found := _MISSING_KEY.search(text):
        return f"{found[2]}KeyNotFound"
    if found := _MISSING_ENTRY.search(text):
        return "SecretKeyNotFound" if found[1] == "secret" else "ConfigMapKeyNotFound"
    return ""


def lacks_accelerator(spec: Spec, observed: Observed) -> bool:
    """Whether a new pod waits for an accelerator and an old pod holds one.

    If no old pod holds one, to stop an old pod would not help, and its model would no longer be served.
    """
    gpu = spec.accelerator
    if gpu is None:
        return False
    wanted = f"Insufficient {gpu.resource}" if gpu.resource else "allocate all claims"
    new = observed.new_pods()
    if not any(wanted in unscheduled(pod) for pod in new):
        return False
    names_ = {pod["metadata"]["name"] for pod in new}
    return any(_holds(pod, gpu) for pod in observed.pods if pod["metadata"]["name"] not in names_)


def _holds(pod: Pod, gpu: Accelerator) -> bool:
    limits = [container.get("resources", {}).get("limits", {}) for container in pod["spec"].get("containers", [])]
    held = any(gpu.resource in limit for limit in limits) if gpu.resource else bool(pod["spec"].get("resourceClaims"))
    return held and bool(pod["spec"].get("nodeName"))
