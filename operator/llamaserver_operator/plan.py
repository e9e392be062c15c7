"""Decides what to apply and what to delete, from the spec and what was observed. Pure. reconcile.py carries it out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import kinds, names
from .config import Config
from .manifests import Manifest, PodSpec
from .observed import Observed, is_of_earlier, owner_uid
from .pods import lacks_accelerator
from .problems import Problem
from .quantity import bytes_of
from .reports import Report
from .resources import policies, services
from .resources.claims import claims
from .resources.deployment import deployment
from .resources.template import current_template, recorded
from .rollout import claim_conflicts, shared_claim_problem, surges
from .sources import private_sources
from .spec import Spec

_UNKNOWN = 1_000_000  # cost of a pod that does not answer: more than any number of requests


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order: write deletion costs, apply, delete."""

    apply: tuple[Manifest, ...] = ()
    delete: tuple[Manifest, ...] = ()
    costs: Mapping[str, int] | None = None  # deletion cost by pod, set before a scale-down
    problems: tuple[Problem, ...] = ()
    replacing: bool = False  # no accelerator is free: stop old pods first
    waits: bool = False  # children of an earlier object still exist


def make_plan(spec: Spec, observed: Observed, config: Config) -> Plan:
    """The plan. With a blocking problem it changes nothing."""
    claims_in_the_way = (*shared_claim_problem(spec, observed), *claim_conflicts(spec, observed))
    sources = () if config.allow_private_sources else private_sources(spec)
    problems = [*sources, *_texts_missing(spec, observed), *claims_in_the_way, *_conflicts(observed.strangers)]
    if problems:
        return Plan(problems=tuple(problems))
    surge = surges(spec, observed)
    texts = _texts(spec, observed)
    template = current_template(spec, observed.owner, texts, recorded(observed.deployment), config)
    wanted = [
        *(_at_least_as_large(claim, observed) for claim in claims(observed.owner, spec)),
        *_children(spec, observed, config),
        deployment(observed.owner, spec, template, surge=surge),
    ]
    leftovers, strangers = _in_the_way(observed, wanted)
    if strangers:
        return Plan(problems=tuple(_conflicts(strangers)))
    if leftovers:
        named = ", ".join(f"{child['kind']} {child['metadata']['name']}" for child in leftovers)
        text = f"waiting for the deletion of what an earlier LlamaServer of this name owns: {named}"
        return Plan(waits=True, problems=(Problem("WaitingForDeletion", text),))
    return Plan(
        apply=tuple(wanted),
        delete=tuple(_unwanted(observed, wanted)),
        costs=_costs(spec, observed),
        problems=tuple(_monitor_missing(spec, observed)),
        replacing=not surge and lacks_accelerator(spec, observed),
    )


def _at_least_as_large(claim: Manifest, observed: Observed) -> Manifest:
    """Keep the size of a claim that is larger than the spec asks for, because claims cannot shrink."""
    wanted, name = claim["spec"]["resources"]["requests"], claim["metadata"]["name"]
    for live in observed.own_claims:
        have = live["spec"]["resources"]["requests"]["storage"]
        if live["metadata"]["name"] == name and bytes_of(have) > bytes_of(wanted["storage"]):
            return {**claim, "spec": {**claim["spec"], "resources": {"requests": {"storage": have}}}}
    return claim


def _children(spec: Spec, observed: Observed, config: Config) -> Iterable[Manifest]:
    owner = observed.owner
    yield policies.service_account(owner)
    if spec.inline_texts:
        yield policies.config_map(owner, spec.inline_texts)
    if spec.security.network_policy.mode == "Managed":
        yield policies.network_policy(owner, spec, config)
    yield services.service(owner, spec)
    yield services.management_service(owner)
    if spec.replicas > 1:
        yield policies.disruption_budget(owner)
    if spec.observability.service_monitor != "Never" and observed.has_service_monitors:
        yield policies.service_monitor(owner, spec)


def _texts(spec: Spec, observed: Observed) -> dict[str, str]:
    """The texts by file name, from the spec and from the ConfigMaps that it names."""
    found = {}
    for key, text in spec.texts.items():
        if reference := text.config_map_key_ref:
            found[key] = _config_text(observed, reference.name, reference.key) or ""
        else:
            found[key] = text.inline or ""
    return found


def _config_text(observed: Observed, name: str, key: str) -> str | None:
    data: dict[str, str] = (observed.config_maps.get(name) or {}).get("data", {})
    return data.get(key)


def _texts_missing(spec: Spec, observed: Observed) -> Iterable[Problem]:
    for key, text in spec.texts.items():
        reference = text.config_map_key_ref
        if reference and _config_text(observed, reference.name, reference.key) is None:
            field = {"chat-template": "chatTemplate", "system-prompt": "systemPrompt"}[key]
            what = f'ConfigMap "{reference.name}" has no key "{reference.key}", or does not exist'
            yield Problem("ConfigMapNotFound", f"spec.{field}.configMapKeyRef: {what}")


def _conflicts(strangers: Iterable[Manifest]) -> Iterable[Problem]:
    for item in strangers:
        what = f"{item['kind']} {item['metadata']['name']!r} exists and does not belong to this object"
        yield Problem("NameConflict", f"{what}. Rename or remove one of them")


def _monitor_missing(spec: Spec, observed: Observed) -> Iterable[Problem]:
    if spec.observability.service_monitor == "Always" and not observed.has_service_monitors:
        text = "spec.observability.serviceMonitor is Always, but the ServiceMonitor CRD is not installed"
        yield Problem("ServiceMonitorUnavailable", text, blocking=False)


def _in_the_way(observed: Observed, wanted: Iterable[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """The objects of other owners under the names of wanted children: those of an earlier LlamaServer, and strangers.

    Anybody may make an object with our label. Under another name it is in nobody's way.
    """
    ours = {(item["kind"], item["metadata"]["name"]) for item in wanted}
    theirs = [
        child
        for child in observed.all_children()
        if (child["kind"], child["metadata"]["name"]) in ours and owner_uid(child) not in ("", observed.uid)
    ]
    left = [child for child in theirs if is_of_earlier(child, observed.owner)]
    return left, [child for child in theirs if child not in left]


def _unwanted(observed: Observed, wanted: list[Manifest]) -> Iterable[Manifest]:
    keep = {(item["kind"], item["metadata"]["name"]) for item in wanted}
    # Keep what pods mount. Old pods continue to serve during a rollout and may have to restart on another node.
    keep |= set(_mounted(observed))
    for kind, items in observed.children.items():
        for child in items if kind != kinds.POD else ():
            if owner_uid(child) == observed.uid and (kind.kind, child["metadata"]["name"]) not in keep:
                yield child


def _mounted(observed: Observed) -> Iterable[tuple[str, str]]:
    """Kinds and names of what the present Deployment and the pods mount."""
    specs: list[PodSpec] = [observed.deployment["spec"]["template"]["spec"]] if observed.deployment else []
    specs += [pod["spec"] for pod in observed.pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
    for spec in specs:
        for volume in spec.get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                yield kinds.CLAIM.kind, claim["claimName"]
            for source in (volume, *volume.get("projected", {}).get("sources", [])):
                if texts := source.get("configMap"):
                    yield kinds.CONFIG_MAP.kind, texts.get("name", "")


def scales_down(spec: Spec, observed: Observed) -> bool:
    """Whether some of several pods end, so that it matters which are idle."""
    return 0 < spec.replicas < (observed.deployment or {}).get("spec", {}).get("replicas", 0)


def _costs(spec: Spec, observed: Observed) -> Mapping[str, int] | None:
    """Deletion costs by pod for a scale-down. Busy pods cost more, so that idle pods are deleted first."""
    if not scales_down(spec, observed):
        return None
    pods = (pod["metadata"]["name"] for pod in observed.own_pods())
    return {pod: _busy(observed.reports.get(pod)) for pod in pods}


def _busy(report: Report | None) -> int:
    # No answer: assume that the pod is the busiest. A pod that is not ready is deleted first, whatever its cost.
    if report is None:
        return _UNKNOWN
    slots = report.get("slots") or {}
    return slots.get("processing", 0) + report.get("requests_deferred", 0)


def cost_annotation(cost: int) -> dict[str, str]:
    """The annotation that the ReplicaSet controller reads."""
    return {names.DELETION_COST: str(cost)}
