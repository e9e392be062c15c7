"""Reconciles one object: read the cluster, decide (plan.py), carry it out, write the status (status.py).

It is level-based: the result depends on the state of the cluster, not on an event.
"""

import asyncio
import hashlib
import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

from . import kinds, names
from .cluster import Cluster
from .config import Config
from .errors import ClusterError, Conflict, Forbidden, Invalid, InvalidSpec, NotFound
from .kinds import Kind, kind_of
from .labelled import labelled
from .manifests import Claim, Manifest, Pod
from .observed import Observed, container_statuses, ending, is_ready, owner_uid
from .parsing import parse
from .plan import Plan, cost_annotation, make_plan, scales_down
from .podreader import PodReader
from .problems import Problem
from .remedies import mounts_images
from .reports import Report
from .rollout import claims_named, claims_of
from .spec import Spec
from .status import rejected, status_of, transitions, unseen
from .view import View

_log = logging.getLogger(__name__)
_CHILDREN = (
    kinds.DEPLOYMENT, kinds.SERVICE, kinds.CLAIM, kinds.SERVICE_ACCOUNT, kinds.CONFIG_MAP,
    kinds.DISRUPTION_BUDGET, kinds.NETWORK_POLICY,
)  # fmt: skip
_MOST_EVENTS = 500  # of one pod or claim; the names of later ones come later in a list
_LONGEST = 4096  # characters of the message of an Event
# Seconds until the next reconcile, where no event will cause one.
_COLLECTING = 1.0
_STARTING = 3.0
_BLOCKED = 15.0
_TEXTS = 30.0
_STORE = 60.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of a reconcile."""

    status: Manifest
    next_look: float | None = None  # seconds
    error: ClusterError | None = None  # raised after the status is written, so that the work queue tries again


class Reconciler:
    """Makes the cluster match the spec of objects. Calls for different objects may run at the same time."""

    def __init__(self, cluster: Cluster, config: Config, pods: PodReader) -> None:
        self._cluster = cluster
        self._config = config
        self._pods = pods
        # What was applied last, and how the API server stored it. While both are unchanged, nothing is written.
        self._applied: dict[tuple[str, str], dict[tuple[str, str], tuple[str, str]]] = {}

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Returns the seconds until the next reconcile. None when events are enough."""
        owner = await self._cluster.get(kinds.LLAMA_SERVER, namespace, name)
        if owner is None or ending(owner):
            self._applied.pop((namespace, name), None)
        if owner is None:
            return None
        outcome = await self._carry_out(owner)
        await self._tell(owner, outcome.status)
        if outcome.error is not None:
            raise outcome.error
        return outcome.next_look

    async def _carry_out(self, owner: Manifest) -> "_Outcome":
        """Read, decide and carry out."""
        if ending(owner):  # a finalizer holds the object: its conditions must not say that it serves
            return _Outcome(unseen(owner, Problem("Deleting", "the object is being deleted"), _now()))
        spec = _parsed(owner)
        try:
            observed = await self._observe(owner, None if isinstance(spec, Problem) else spec)
        except (Forbidden, Invalid) as error:  # no event follows when a permission is granted: try again
            problem = spec if isinstance(spec, Problem) else Problem(type(error).__name__, str(error))
            return _Outcome(unseen(owner, problem, _now()), error=error)
        if isinstance(spec, Problem):
            return _Outcome(rejected(observed, spec, _now()))
        plan = make_plan(spec, observed, self._config)
        if plan.waits:
            status = rejected(observed, plan.problems[0], _now())
            return _Outcome(status, _collecting(status, _now()))
        problems, refusal = plan.problems, None
        try:
            observed, plan = await self._with_unlabelled(spec, observed, plan)
            problems = plan.problems
            observed = await self._execute(observed, plan)
        except (Forbidden, Invalid) as error:
            problems = (Problem(type(error).__name__, str(error), blocking=False), *problems)
            refusal = error
        view = View(spec, observed, problems, _now())
        return _Outcome(status_of(view), _next_look(view), refusal)

    # ---- read

    async def _observe(self, owner: Manifest, spec: Spec | None) -> Observed:
        namespace = owner["metadata"]["namespace"]
        monitor = kinds.SERVICE_MONITOR
        has_monitors = await self._cluster.serves(monitor)
        listed = (*_CHILDREN, monitor) if has_monitors else _CHILDREN
        found = await labelled(self._cluster, owner, listed)
        observed = Observed(
            owner=owner,
            children=found.children,
            replica_sets=found.replica_sets,
            pods=found.pods,
            config_maps=await self._named(kinds.CONFIG_MAP, namespace, _config_maps_named(spec) if spec else set()),
            claims=await self._claims(namespace, claims_named(spec) if spec else set()),
            has_service_monitors=has_monitors,
        )
        observed = replace(observed, reports=await self._reports(spec, observed))
        return await self._with_details(observed)

    async def _reports(self, spec: Spec | None, observed: Observed) -> dict[str, Report]:
        """Reports of the object's own pods that can answer. Others with its label are not asked."""
        asked = (pod for pod in observed.own_pods() if not _is_over(pod))
        return await self._pods.reports(asked, exact=spec is not None and scales_down(spec, observed))

    async def _named(self, kind: Kind, namespace: str, wanted: set[str]) -> dict[str, Manifest | None]:
        found = await asyncio.gather(*(self._cluster.get(kind, namespace, name) for name in sorted(wanted)))
        return dict(zip(sorted(wanted), found, strict=True))

    async def _claims(self, namespace: str, wanted: set[str]) -> dict[str, Claim | None]:
        return cast("dict[str, Claim | None]", await self._named(kinds.CLAIM, namespace, wanted))

    async def _with_details(self, observed: Observed) -> Observed:
        """Adds the Events, claims and node of a pod that does not start. They may have the reason."""
        pod = next((pod for pod in observed.new_pods() if not is_ready(pod) and not _begun_or_over(pod)), None)
        if pod is None:
            return observed
        warnings, pending, infos = list[Manifest](), list[Claim](), dict[str, Mapping[str, str]]()
        namespace = observed.owner["metadata"]["namespace"]
        if node := pod["spec"].get("nodeName"):
            warnings = await self._events(namespace, pod, "Warning")
            infos = {node: await self._node_info(node)} if mounts_images(pod) else {}
        else:
            claims = (await self._claims(namespace, claims_of(pod))).values()
            pending = [claim for claim in claims if claim and claim.get("status", {}).get("phase") == "Pending"]
            warnings = [event for claim in pending for event in await self._events(namespace, claim)]
        return replace(observed, warnings=warnings, pending_claims=pending, node_infos=infos)

    async def _events(self, namespace: str, about: Pod | Claim, kind: str = "") -> list[Manifest]:
        selector = f"involvedObject.uid={about['metadata']['uid']}" + (f",type={kind}" if kind else "")
        found = deque[Manifest](maxlen=_MOST_EVENTS)  # anybody may write many, and large ones
        async for event in self._cluster.pages(kinds.EVENT, namespace, field_selector=selector):
            kept = {key: event.get(key) for key in ("type", "reason", "lastTimestamp", "eventTime")}
            uid, message = event.get("involvedObject", {}).get("uid"), str(event.get("message") or "")
            found.append({**kept, "involvedObject": {"uid": uid}, "message": message[-_LONGEST:]})
        return list(found)

    async def _node_info(self, name: str) -> dict[str, str]:
        """Versions on a node. Empty when the operator may not read nodes, as when it watches single namespaces."""
        try:
            node = await self._cluster.get(kinds.NODE, "", name)
        except Forbidden:
            node = None
        found: dict[str, str] = (node or {}).get("status", {}).get("nodeInfo", {})
        return found

    # ---- carry out

    async def _with_unlabelled(self, spec: Spec, observed: Observed, plan: Plan) -> tuple[Observed, Plan]:
        """Adds objects that have the name of a new child but not the label, and plans again if there are any."""
        have = {(item["kind"], item["metadata"]["name"]) for item in observed.all_children()}
        new = [item for item in plan.apply if (item["kind"], item["metadata"]["name"]) not in have]
        answers = await asyncio.gather(
            *(self._cluster.get(kind_of(item), item["metadata"]["namespace"], item["metadata"]["name"]) for item in new)
        )
        found = [item for item in answers if item]
        if not found:
            return observed, plan
        children = dict(observed.children)
        for item in found:
            if owner_uid(item) == observed.uid:
                children[kind_of(item)] = [*children.get(kind_of(item), ()), item]
        strangers = [item for item in found if owner_uid(item) != observed.uid]
        observed = await self._with_details(replace(observed, children=children, strangers=strangers))
        return observed, make_plan(spec, observed, self._config)

    async def _execute(self, observed: Observed, plan: Plan) -> Observed:
        """Carry out the plan. Returns what was observed, with the Deployment as it is now."""
        namespace, before = observed.owner["metadata"]["namespace"], observed
        await self._write_costs(namespace, plan.costs or {})
        for wanted in plan.apply:
            applied = await self._apply(observed, wanted)
            if applied and wanted["kind"] == kinds.DEPLOYMENT.kind:
                observed = replace(observed, children={**observed.children, kinds.DEPLOYMENT: [applied]})
        if plan.replacing:
            await self._tell_replacing(before)
        for child in plan.delete:
            metadata = child["metadata"]
            _log.info("deleting %s %s: it is no longer needed", child["kind"], metadata["name"])
            await self._cluster.delete(kind_of(child), namespace, metadata["name"], metadata["uid"])
        return observed

    async def _write_costs(self, namespace: str, costs: Mapping[str, int]) -> None:
        """Set deletion costs before a scale-down."""
        for pod, cost in costs.items():
            try:
                await self._cluster.annotate(kinds.POD, namespace, pod, cost_annotation(cost))
            except ClusterError as error:  # the pod may be deleted by now: continue with the scale-down
                _log.info("cannot set the deletion cost of pod %s: %s", pod, error)

    async def _apply(self, observed: Observed, wanted: Manifest) -> Manifest | None:
        """Apply a child, unless it is already as wanted. Returns the applied object, or None."""
        metadata = observed.owner["metadata"]
        memory = self._applied.setdefault((metadata["namespace"], metadata["name"]), {})
        key, content = (wanted["kind"], wanted["metadata"]["name"]), _digest(wanted)
        live = next((item for item in observed.all_children() if (item["kind"], item["metadata"]["name"]) == key), None)
        if live and memory.get(key) == (content, _fingerprint(live)):
            return None
        try:
            applied = await self._cluster.apply(wanted)
        except (Forbidden, Invalid) as error:
            raise type(error)(f"{wanted['kind']} {wanted['metadata']['name']}: {error}") from error
        memory[key] = (content, _fingerprint(applied))
        return applied

    # ---- write the status

    async def _tell(self, owner: Manifest, status: Manifest) -> None:
        """Write the status if it has changed, and Events for the changes."""
        before = owner.get("status", {})
        if status == before:
            return
        about = {"name": owner["metadata"]["name"], "namespace": owner["metadata"]["namespace"]}
        # With the uid: another object of the same name must not get this status.
        about["uid"] = owner["metadata"]["uid"]
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": about, "status": status}
        try:
            await self._cluster.apply_status(body)
        except (Conflict, NotFound):
            return  # the object was deleted, and perhaps created again
        for kind, reason, message in transitions(before, status):
            await self._cluster.create_event(about["namespace"], owner, kind, reason, message)

    async def _tell_replacing(self, observed: Observed) -> None:
        update = (observed.deployment or {}).get("spec", {}).get("strategy", {}).get("rollingUpdate", {})
        if update.get("maxSurge") != 0:
            text = (
                "no accelerator is free for a new pod. From now on this rollout stops an old pod before it starts a "
                "new one (maxSurge=0)"
            )
            namespace = observed.owner["metadata"]["namespace"]
            await self._cluster.create_event(namespace, observed.owner, "Normal", "ReplacingPods", text)


def _parsed(owner: Manifest) -> Spec | Problem:
    try:
        return parse(owner["spec"])
    except InvalidSpec as error:
        return Problem("InvalidSpec", str(error))


def _config_maps_named(spec: Spec) -> set[str]:
    return {text.config_map_key_ref.name for text in spec.texts.values() if text.config_map_key_ref}


def _collecting(status: Manifest, now: datetime) -> float:
    """Seconds until the next look at what an earlier object has left: ever later, because it may stay for long."""
    since = next(item["lastTransitionTime"] for item in status["conditions"] if item["type"] == "Accepted")
    waited = (now - datetime.fromisoformat(since)).total_seconds()
    return min(max(_COLLECTING, waited / 4), _STORE)


def _next_look(view: View) -> float | None:
    spec, looks = view.spec, []
    if view.blocked:
        looks.append(_BLOCKED)
    elif spec.replicas and not view.complete:
        # A pod in trouble that runs no container may stay so for days. An event follows when it changes.
        stuck = view.troubles and not any(_runs(pod) for pod in view.observed.new_pods())
        looks.append(_BLOCKED if stuck else _STARTING)
    elif spec.replicas and not view.serving:
        looks.append(_BLOCKED)  # the pods are ready, but do not answer the operator
    if view.calm_in:
        looks.append(view.calm_in + 1)
    if _config_maps_named(spec):
        looks.append(_TEXTS)
    if spec.kv_cache and spec.kv_cache.stores:
        looks.append(_STORE)
    return min(looks, default=None)


def _runs(pod: Pod) -> bool:
    return any("running" in item.get("state", {}) for item in container_statuses(pod))


def _is_over(pod: Pod) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _begun_or_over(pod: Pod) -> bool:
    return _is_over(pod) or _runs(pod) or any(item.get("lastState") for item in container_statuses(pod))


def _fingerprint(live: Mapping[str, Any]) -> str:
    """A digest of the fields of an object that others may have changed."""
    if live["kind"] == kinds.CONFIG_MAP.kind:  # nobody writes a status to it, so each version is a change
        return f"{live['metadata'].get('uid')}/{live['metadata'].get('resourceVersion')}"
    volatile = ("managedFields", "resourceVersion", "generation")
    metadata = {key: value for key, value in live["metadata"].items() if key not in volatile}
    return _digest({**{key: value for key, value in live.items() if key != "status"}, "metadata": metadata})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)
