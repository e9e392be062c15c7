"""The status of an object, from its spec and what was observed. Pure."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from . import names
from .conditions import Condition, View, accepted, conditions
from .observed import Observed
from .resources.services import endpoint
from .rollout import Problem
from .running import current, ready_servers, service_port
from .spec import Spec

Manifest = dict[str, Any]


def status_of(spec: Spec, observed: Observed, problems: tuple[Problem, ...], now: str) -> Manifest:
    """The whole status; `now` is the time of transitions, RFC 3339."""
    view = View(spec, observed, problems)
    counts = (observed.deployment or {}).get("status", {})
    made: Manifest = {
        "replicas": int(counts.get("replicas", 0)),
        "readyReplicas": int(counts.get("readyReplicas", 0)),
        "updatedReplicas": int(counts.get("updatedReplicas", 0)),
        "selector": names.selector_text(names.selector(observed.owner["metadata"]["name"])),
    }
    made |= _capacity(observed) | _endpoint(spec, view)
    made |= _model(spec, view, observed) | _download(view)
    made |= _told_before(spec, view) if view.untold else _kv_cache(view) | _accelerator(spec, view)
    return _finish(made, observed, conditions(spec, observed, problems), now)


def rejected(observed: Observed, problem: Problem, now: str) -> Manifest:
    """The status of an object whose spec, or world, cannot be read: what was known stays, pods go on serving."""
    before = {key: value for key, value in observed.owner.get("status", {}).items() if key != "conditions"}
    ready = Condition("Ready", "False", problem.reason, problem.message)
    return _finish(before, observed, [ready, accepted([problem])], now)


def _finish(made: Manifest, observed: Observed, found: Iterable[Condition], now: str) -> Manifest:
    generation = observed.owner["metadata"].get("generation", 0)
    before = {item["type"]: item for item in observed.owner.get("status", {}).get("conditions", [])}
    made["observedGeneration"] = generation
    made["conditions"] = [_condition(item, before.get(item.type), generation, now) for item in found]
    return made


def _condition(condition: Condition, before: Mapping[str, Any] | None, generation: int, now: str) -> Manifest:
    same = before and before["status"] == condition.status
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message[:32768],
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before and same else now,
    }


def _capacity(observed: Observed) -> Manifest:
    """What the pods have. During a rollout, or when one fails, that is not what the spec asks for."""
    total, server = sum(pod.slots for pod in ready_servers(observed)), current(observed)
    if server is None:
        return {"slots": {"total": total}}
    return {"slots": {"total": total, "perReplica": server.slots}, "context": {"totalTokens": server.context}}


def _endpoint(spec: Spec, view: View) -> Manifest:
    server, port = current(view.observed), service_port(view.observed)
    if port is None and view.blocked:
        return {}  # there is no Service
    tls = server.tls if server else spec.security.tls is not None
    return {"endpoint": endpoint(view.observed.owner, tls=tls, port=port or spec.serving.port)}


def _model(spec: Spec, view: View, observed: Observed) -> Manifest:
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
    before = observed.owner.get("status", {}).get("model")
    return {"model": before} if before else {}


def _download(view: View) -> Manifest:
    for report in view.reports:
        about = report.get("download") or {}
        if report.get("state") == "downloading" and about.get("total_bytes"):
            return {"download": {"bytes": int(about["bytes"]), "totalBytes": int(about["total_bytes"])}}
    return {}


def _told_before(spec: Spec, view: View) -> Manifest:
    """What pods told before, as far as the spec still asks for it."""
    asked = {"kvCache": spec.kv_cache and spec.kv_cache.stores, "accelerator": spec.accelerator}
    before = view.observed.owner.get("status", {})
    return {key: before[key] for key, wanted in asked.items() if wanted and key in before}


def _kv_cache(view: View) -> Manifest:
    stores = view.stores
    if not stores:
        return {}
    # Pods on one volume see the same files; they only look at different times.
    return {"kvCache": {key: max(int(store.get(key, 0)) for store in stores) for key in ("entries", "bytes")}}


def _accelerator(spec: Spec, view: View) -> Manifest:
    worst = view.worst_accelerator
    if not spec.accelerator or worst is None:
        return {}
    known = {
        "device": worst.get("device"),
        "layersOffloaded": worst.get("layers_offloaded"),
        "layersTotal": worst.get("layers_total"),
    }
    return {"accelerator": {key: value for key, value in known.items() if value is not None}}


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Events to tell, as (type, reason, message): Ready whenever it changes, the others when they bring bad news."""
    old = {item["type"]: (item["status"], item["reason"]) for item in before.get("conditions", [])}
    told: dict[str, tuple[str, str, str]] = {}
    for item in after["conditions"]:
        if old.get(item["type"]) == (item["status"], item["reason"]):
            continue
        bad = item["reason"] not in _ON_THE_WAY and (item["status"] == "False" or item["reason"] == "RolloutFailing")
        if item["type"] == "Ready" or bad:
            text = f"{item['type']} is {item['status']}. {item['message']}".strip()
            told.setdefault(item["reason"], ("Warning" if bad else "Normal", item["reason"], text))
    return list(told.values())


_ON_THE_WAY = {
    "RollingOut", "Downloading", "WaitingForDownload", "Loading", "ScaledToZero", "Empty", "NotWanted",
    "WaitingForDeletion",
}  # fmt: skip
