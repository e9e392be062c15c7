"""The status of an object and its Events, made from its view. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from . import names
from .conditions import Condition, accepted, available, conditions, stalled
from .crashes import End, last_end, restarts
from .manifests import Manifest
from .observed import Observed
from .problems import Problem
from .reasons import LOOPING, ON_THE_WAY
from .remedies import ended
from .resources.services import endpoint
from .running import current, ready_servers, service_port
from .text import one_line
from .view import View

_LONGEST = 32768  # characters; the API server refuses a longer message of a condition


def status_of(view: View) -> Manifest:
    """The complete status."""
    observed = view.observed
    made: Manifest = _counts(observed) | {
        "selector": names.selector_text(names.selector(observed.owner["metadata"]["name"])),
    }
    made |= _capacity(observed) | _endpoint(view) | _model(view) | _download(view)
    made |= _known(view) if view.unreported else _kv_cache(view) | _accelerator(view)
    return _finish(made, observed, conditions(view), view.now)


def rejected(observed: Observed, problem: Problem, now: datetime) -> Manifest:
    """The status of an object with a blocking problem. Other fields keep their values, and pods continue to serve."""
    before = {key: value for key, value in observed.owner.get("status", {}).items() if key != "conditions"}
    ready = Condition("Ready", "False", problem.reason, problem.message)
    heads = [ready, available(observed, ready), *stalled(ready, ())]
    return _finish(before | _counts(observed), observed, [*heads, accepted([problem])], now)


def unseen(owner: Manifest, problem: Problem, now: datetime) -> Manifest:
    """The status of an object whose pods were not read. Other fields keep their values."""
    before = {key: value for key, value in owner.get("status", {}).items() if key != "conditions"}
    ready = Condition("Ready", "False", problem.reason, problem.message)
    unknown = Condition("Available", "Unknown", problem.reason, problem.message)
    return _finish(before, Observed(owner), [ready, unknown, *stalled(ready, ()), accepted([problem])], now)


def _counts(observed: Observed) -> Manifest:
    """Numbers of pods and restarts, and the last end of a server."""
    counts = (observed.deployment or {}).get("status", {})
    made: Manifest = {
        "replicas": counts.get("replicas", 0),
        "readyReplicas": counts.get("readyReplicas", 0),
        "updatedReplicas": counts.get("updatedReplicas", 0),
        "restarts": restarts(observed.own_pods()),
    }
    last = _last_termination(observed)
    return made | ({"lastTermination": last} if last else {})


def _last_termination(observed: Observed) -> Manifest:
    """The last end of a server. It stays in the status when the pod is deleted."""
    known: Manifest = observed.owner.get("status", {}).get("lastTermination", {})
    found = [(end, pod) for pod in observed.own_pods() if (end := last_end(pod)) and end.finished]
    if not found:
        return known
    end, pod = max(found, key=lambda item: _time(item[0]))
    if _time(end) < known.get("time", "") or _about(known) == (_time(end), end.pod):
        return known
    message = ended(pod, end, observed).message
    return {"time": _time(end), "pod": end.pod, "reason": end.reason, "message": one_line(message)}


def _about(termination: Mapping[str, str]) -> tuple[str | None, str | None]:
    return termination.get("time"), termination.get("pod")


def _time(end: End) -> str:
    return _text_of(end.finished) if end.finished else ""


def _text_of(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _finish(made: Manifest, observed: Observed, found: Iterable[Condition], now: datetime) -> Manifest:
    generation = observed.owner["metadata"].get("generation", 0)
    before = {item["type"]: item for item in observed.owner.get("status", {}).get("conditions", [])}
    made["observedGeneration"] = generation
    made["conditions"] = [_condition(item, before.get(item.type), generation, _text_of(now)) for item in found]
    return made


def _condition(condition: Condition, before: Mapping[str, Any] | None, generation: int, now: str) -> Manifest:
    same = before and before["status"] == condition.status
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": one_line(condition.message)[:_LONGEST],  # pods and the API server wrote parts of it
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before and same else now,
    }


def _capacity(observed: Observed) -> Manifest:
    """Slots and context of the pods. During a rollout they may differ from the spec."""
    total, server = sum(pod.slots for pod in ready_servers(observed)), current(observed)
    if server is None:
        return {"slots": {"total": total}}
    return {"slots": {"total": total, "perReplica": server.slots}, "context": {"totalTokens": server.context}}


def _endpoint(view: View) -> Manifest:
    server, port = current(view.observed), service_port(view.observed)
    if port is None and view.blocked:
        return {}  # the Service does not exist
    tls = server.tls if server else view.spec.security.tls is not None
    return {"endpoint": endpoint(view.observed.owner, tls=tls, port=port or view.spec.serving.port)}


def _model(view: View) -> Manifest:
    for report in view.serving:
        if about := report.get("model"):
            known = {
                "file": PurePosixPath(about.get("path", "")).name,
                "architecture": about.get("architecture"),
                "quantization": about.get("quantization"),
                "sizeBytes": about.get("size_bytes"),
                "trainedContext": about.get("trained_context"),
                "sha256": about.get("sha256"),
            }
            return {"model": {key: value for key, value in known.items() if value}}
    before = view.observed.owner.get("status", {}).get("model")
    return {"model": before} if before else {}


def _download(view: View) -> Manifest:
    for report in view.reports:
        about = report.get("download") or {}
        if report.get("state") == "downloading" and about.get("total_bytes"):
            return {"download": {"bytes": about.get("bytes", 0), "totalBytes": about["total_bytes"]}}
    return {}


def _known(view: View) -> Manifest:
    """The values of the last reports, as far as the spec still asks for them."""
    spec = view.spec
    asked = {"kvCache": spec.kv_cache and spec.kv_cache.stores, "accelerator": spec.accelerator}
    before = view.observed.owner.get("status", {})
    return {key: before[key] for key, wanted in asked.items() if wanted and key in before}


def _kv_cache(view: View) -> Manifest:
    stores = view.stores
    if not stores:
        return {}
    # Pods on one volume count the same files, at different times.
    entries = max(store.get("entries", 0) for store in stores)
    return {"kvCache": {"entries": entries, "bytes": max(store.get("bytes", 0) for store in stores)}}


def _accelerator(view: View) -> Manifest:
    worst = view.worst_accelerator
    if not view.spec.accelerator or worst is None:
        return {}
    known = {
        "device": worst.get("device"),
        "layersOffloaded": worst.get("layers_offloaded"),
        "layersTotal": worst.get("layers_total"),
    }
    return {"accelerator": {key: value for key, value in known.items() if value is not None}}


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Events to write, as (type, reason, message): each change of Ready, and other conditions that become bad.

    Each reason has at most one Event, and so has the end of a server.
    """
    old = {item["type"]: item for item in before.get("conditions", [])}
    past, last = before.get("lastTermination", {}), after.get("lastTermination", {})
    news = _about(last) != _about(past)
    known = {old["Ready"]["reason"]} & LOOPING if "Ready" in old else set()
    if not news and past.get("reason") in _ENDS:
        known = known | {past["reason"]}
    events: dict[str, tuple[str, str, str]] = {}
    for item in after["conditions"]:
        was = old.get(item["type"], {})
        if (was.get("status"), was.get("reason")) == (item["status"], item["reason"]):
            continue
        bad = item["status"] == _BAD.get(item["type"], "False") and item["reason"] not in ON_THE_WAY
        if item["reason"] not in known if bad else item["type"] == "Ready":
            text = f"{item['type']} is {item['status']}: {item['message']}".removesuffix(": ")
            events.setdefault(item["reason"], ("Warning" if bad else "Normal", item["reason"], text))
    # A condition already shows an end with a reason of its own, and a server that ends again and again.
    if (
        news
        and last["reason"] in _ENDS
        and not known
        and not any(last["message"] in text for _, _, text in events.values())
    ):
        events.setdefault(last["reason"], ("Warning", last["reason"], last["message"]))
    return list(events.values())


_BAD = {"Stalled": "True"}
_ENDS = {"Crashed", "CrashedNatively", "OOMKilled", "Restarted"}
