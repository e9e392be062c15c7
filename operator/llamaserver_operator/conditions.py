"""The conditions of an object, made from its view. Pure. Each condition has a function."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .observed import Observed, is_ready
from .pods import Trouble, lacks_accelerator
from .problems import Problem
from .reasons import MOVING, STALLING
from .remedies import quota
from .reports import Report
from .rollout import surges
from .view import View

Truth = Literal["True", "False", "Unknown"]
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, without the time of its transition."""

    type: str
    status: Truth
    reason: str
    message: str = ""


def conditions(view: View) -> list[Condition]:
    """All conditions of the object."""
    model = model_available(view)
    parts = [accepted(view.problems), model, scheduled(view), progressing(view)]
    head = ready(view, parts)
    late = view.deployment_conditions.get("Progressing", {}).get("status") == "False" and model.reason not in MOVING
    heads = [head, available(view.observed, head), *stalled(head, parts, in_vain=late or view.looping is not None)]
    if view.spec.accelerator:
        parts.append(accelerated(view))
    if view.spec.kv_cache and view.spec.kv_cache.stores:
        parts.append(cache_restored(view))
    return [*heads, *parts]


def accepted(problems: Iterable[Problem]) -> Condition:
    """Accepted: whether the operator can act on the spec."""
    for problem in sorted(problems, key=lambda item: not item.blocking):
        return Condition("Accepted", "False", problem.reason, problem.message)
    return Condition("Accepted", "True", "Valid")


def _by_pods(view: View, name: str, otherwise: Callable[[], Condition]) -> Condition:
    """Unknown without pods, False with a trouble of a pod, else the result of `otherwise`."""
    if view.spec.replicas == 0:
        return Condition(name, "Unknown", "ScaledToZero", "spec.replicas is 0")
    if not view.observed.new_pods():
        return Condition(name, "Unknown", "NoPods", "no pod has been created yet")
    if found := view.trouble(name):
        return Condition(name, "False", found.reason, found.message)
    return otherwise()


def _known(view: View, type_: str) -> Condition | None:
    """The condition as it was, while all pods are ready and none has sent a report."""
    before = view.observed.owner.get("status", {}).get("conditions", []) if view.unreported else []
    found = (item for item in before if item["type"] == type_ and item["status"] != "Unknown")
    item = next(found, None)
    return Condition(type_, item["status"], item["reason"], item["message"]) if item else None


def model_available(view: View) -> Condition:
    """ModelAvailable: whether a server has loaded the model."""

    def otherwise() -> Condition:
        downloading = [report for report in view.reports if report.get("state") == "downloading"]
        if downloading:  # prefer a pod that downloads to one that waits for it
            return _downloading(min(downloading, key=lambda report: bool(report.get("waiting_for_lock"))))
        if view.serving:
            return Condition("ModelAvailable", "True", "Loaded")
        if any(report.get("state") == "loading" for report in view.reports):
            return Condition("ModelAvailable", "False", "Loading", "the server is loading the model")
        if view.complete:
            return Condition("ModelAvailable", "True", "Loaded")  # the pods are ready, but did not answer in time
        return Condition("ModelAvailable", "Unknown", "Pending", "no pod has reported on the model yet")

    return _by_pods(view, "ModelAvailable", otherwise)


def _downloading(report: Report) -> Condition:
    about = report.get("download") or {}
    if report.get("waiting_for_lock"):
        return Condition(
            "ModelAvailable", "False", "WaitingForDownload", "another pod is downloading the model to the same volume"
        )
    have, total = about.get("bytes", 0), about.get("total_bytes", 0)
    text = f"{about.get('file') or 'the model'}: {_sizes(have, total)}" if total else ""
    shown = [part for part in (text, str(report.get("error") or "")) if part]
    return Condition("ModelAvailable", "False", "Downloading", "; ".join(shown) or "the download is starting")


def _sizes(have: int, total: int) -> str:
    return f"{have >> 20} of {total >> 20} MiB" if total < _GIB else f"{have / _GIB:.2f} of {total / _GIB:.2f} GiB"


def scheduled(view: View) -> Condition:
    """Scheduled: whether every pod has a node."""

    def otherwise() -> Condition:
        assigned = all(pod["spec"].get("nodeName") for pod in view.observed.new_pods())
        return Condition("Scheduled", "True" if assigned else "Unknown", "Scheduled" if assigned else "Pending")

    return _by_pods(view, "Scheduled", otherwise)


def progressing(view: View) -> Condition:
    """Progressing: whether the rollout makes progress or is complete."""
    deployment = view.observed.deployment
    paused = bool((deployment or {}).get("spec", {}).get("paused"))
    if view.complete and not view.looping and not paused:
        return Condition("Progressing", "True", "Complete")
    if failure := _failure(view):
        return Condition("Progressing", "False", *failure)
    if deployment is None:
        return Condition("Progressing", "Unknown", "NoDeployment")
    name, status = deployment["metadata"]["name"], deployment.get("status", {})
    if paused:
        text = f"Deployment {name} is paused. Resume it with kubectl rollout resume deployment/{name}"
        return Condition("Progressing", "Unknown" if view.complete else "False", "Paused", text)
    have, wanted = status.get("updatedReplicas", 0), view.spec.replicas
    text = f"{have} of {wanted} pods updated, {status.get('availableReplicas', 0)} available"
    if not wanted:
        text = f"{status.get('replicas', 0)} old pods are still being stopped"
    return Condition("Progressing", "True", "RollingOut", text)


def _failure(view: View) -> tuple[str, str] | None:
    """Reason and message of a failed rollout. The most specific reason wins."""
    if refused := view.refused:
        return refused.reason, refused.message
    failed = view.deployment_conditions.get("ReplicaFailure", {})
    deadline = view.deployment_conditions.get("Progressing", {})
    if failed.get("status") == "True":
        return failed.get("reason", "FailedCreate"), quota(failed.get("message", ""), view.observed)
    if found := _stopper(view):
        return found.reason, found.message
    if deadline.get("status") == "False":
        return deadline.get("reason", "ProgressDeadlineExceeded"), deadline.get("message", "")
    return None


def _stopper(view: View) -> Trouble | None:
    """A trouble that stops the rollout. To wait for a GPU that an old pod holds is none, if that pod is replaced."""
    if view.looping:
        return view.ended(view.looping)
    passes = lacks_accelerator(view.spec, view.observed) and not surges(view.spec, view.observed)
    for found in view.troubles:
        if not (found.condition == "Scheduled" and passes and _old_pods(view)):
            return found
    if view.spec.accelerator and view.spec.accelerator.on_fallback == "Fail":
        offload = accelerated(view)
        if offload.reason == "RunningOnCPU":  # the pod will never be ready
            return Trouble("Progressing", offload.reason, offload.message)
    return None


def _old_pods(view: View) -> bool:
    new = {pod["metadata"]["name"] for pod in view.observed.new_pods()}
    return any(pod["metadata"]["name"] not in new for pod in view.observed.pods)


def accelerated(view: View) -> Condition:
    """Accelerated: whether the model is on the GPU."""

    def otherwise() -> Condition:
        worst = view.worst_accelerator
        if worst is None:
            pending = Condition("Accelerated", "Unknown", "Pending", "no pod has loaded the model yet")
            return _known(view, "Accelerated") or pending
        layers, total = worst.get("layers_offloaded", 0), worst.get("layers_total", 0)
        if layers:
            return Condition("Accelerated", "True", "Offloaded", f"{layers} of {total} layers on {worst.get('device')}")
        if view.spec.engine.gpu_layers == 0:
            return Condition("Accelerated", "False", "NotWanted", "spec.engine.gpuLayers is 0")
        text = f"the server found no usable GPU and computes on {worst.get('device') or 'the CPU'}"
        return Condition("Accelerated", "False", "RunningOnCPU", text)

    return _by_pods(view, "Accelerated", otherwise)


def cache_restored(view: View) -> Condition:
    """CacheRestored: whether the KV store has conversations."""

    def otherwise() -> Condition:
        stores = view.stores
        if not stores:
            pending = Condition("CacheRestored", "Unknown", "Pending", "no pod has opened the KV store yet")
            return _known(view, "CacheRestored") or pending
        entries = max(int(store.get("entries", 0)) for store in stores)
        reused = sum(int(store.get("restored_tokens", 0)) for store in stores)
        if not entries:
            return Condition("CacheRestored", "False", "Empty", "no conversation has been stored yet")
        return Condition("CacheRestored", "True", "Restored" if reused else "Available")

    return _by_pods(view, "CacheRestored", otherwise)


def ready(view: View, parts: Iterable[Condition]) -> Condition:
    """Ready: whether all pods run this spec, are available and do not crash again and again."""
    if found := _amiss(view, {part.type: part for part in parts}):
        return Condition("Ready", "False", *found)
    if not view.spec.replicas:
        return Condition("Ready", "True", "ScaledToZero", "spec.replicas is 0")
    return Condition("Ready", "True", "Serving", f"{view.spec.replicas} of {view.spec.replicas} pods are ready")


def _amiss(view: View, parts: Mapping[str, Condition]) -> tuple[str, str] | None:
    """Reason and message of Ready=False. None when Ready is True."""
    if view.blocked:
        return parts["Accepted"].reason, parts["Accepted"].message
    if view.complete and not view.looping:
        return None
    # A server that crashes again and again also loads its model again and again. Show the crash first.
    later = ("Progressing", "ModelAvailable") if view.looping else ("ModelAvailable", "Progressing")
    for part in (parts[name] for name in ("Scheduled", *later)):
        if part.status == "False":
            return part.reason, part.message
    if view.crashed:
        return view.crashed.reason, view.ended(view.crashed).message
    return "RollingOut", parts["Progressing"].message


def available(observed: Observed, ready: Condition) -> Condition:
    """Available: whether any pod serves, of this spec or of an earlier one."""
    serving = [pod for pod in observed.own_pods() if is_ready(pod)]
    if not serving and ready.reason != "Serving":  # the Deployment may count a pod that was not listed yet
        return Condition("Available", "False", ready.reason, ready.message)
    old = sum(is_ready(pod) for pod in observed.old_pods())
    text = f"{len(serving) or 'all'} {'pod serves' if len(serving) == 1 else 'pods serve'}"
    return Condition("Available", "True", "Serving", f"{text}, {old} of an earlier spec" if old else text)


def stalled(ready: Condition, parts: Iterable[Condition], *, in_vain: bool = False) -> list[Condition]:
    """Stalled=True when only a change by the user can help, as in kstatus. Otherwise no condition.

    `in_vain` means that the deadline of the rollout is over, or that a server crashes again and again.
    """
    if ready.status == "True":
        return []
    parts = (ready, *parts)
    found = next((part for part in parts if part.status == "False" and part.reason in STALLING), None)
    if in_vain and found is None:
        found = ready
    return [Condition("Stalled", "True", found.reason, found.message)] if found else []
