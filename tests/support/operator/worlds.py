"""What the operator reads from a cluster, as plain values: an object and the children that a plan has made."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from llamaserver_operator import kinds
from llamaserver_operator.config import Config
from llamaserver_operator.kinds import Kind, kind_of
from llamaserver_operator.manifests import Manifest
from llamaserver_operator.observed import Observed
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import Plan, make_plan
from llamaserver_operator.rollout import claims_named
from llamaserver_operator.spec import Spec
from llamaserver_operator.view import View

UID = "11111111-2222-3333-4444-555555555555"
OTHER_UID = "99999999-2222-3333-4444-555555555555"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RWO, RWX, RWOP, ROX = "ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod", "ReadOnlyMany"

CONFIG = Config(
    namespace="llamaserver-system",
    server_image="registry.example/llamaserver:1",
    server_image_cuda="registry.example/llamaserver:1-cuda",
    server_image_rocm="registry.example/llamaserver:1-rocm",
    server_image_vulkan="registry.example/llamaserver:1-vulkan",
    prometheus_namespace_labels={"kubernetes.io/metadata.name": "monitoring"},
    operator_pod_labels={"app.kubernetes.io/name": "llamaserver-operator"},
)
NEWER = Config(
    namespace="llamaserver-system",
    server_image="registry.example/llamaserver:2",
    server_image_cuda="registry.example/llamaserver:2-cuda",
    server_image_rocm="registry.example/llamaserver:2-rocm",
    server_image_vulkan="registry.example/llamaserver:2-vulkan",
    image_pull_policy="Always",
    hf_endpoint="http://mirror.example",
)


def owner(name: str = "demo", generation: int = 1, **more: Any) -> Manifest:
    """A LlamaServer without a spec."""
    about = {"name": name, "namespace": "models", "uid": UID, "generation": generation}
    return {"apiVersion": "llamaserver.dev/v1alpha1", "kind": "LlamaServer", "metadata": about, **more}


def texts_named(spec: Spec) -> dict[str, Manifest | None]:
    """The ConfigMaps that a spec names. Each key has its own text."""
    found: dict[str, Manifest | None] = {}
    for text in (spec.chat_template, spec.system_prompt):
        if text and (reference := text.config_map_key_ref):
            data = (found.get(reference.name) or {}).get("data", {})
            found[reference.name] = {"data": {**data, reference.key: f"{reference.name}/{reference.key}"}}
    return found


def world(spec: Spec, modes: Iterable[str] = (RWO,), *, monitors: bool = True, **more: Any) -> Observed:
    """A cluster with everything that the spec names and nothing that the operator makes."""
    claims = {name: {"spec": {"accessModes": list(modes)}} for name in claims_named(spec)}
    values: dict[str, Any] = {"owner": owner(), "config_maps": texts_named(spec), "claims": claims}
    return Observed(**values | {"has_service_monitors": monitors} | more)


def children(plan: Plan) -> Mapping[Kind, list[Manifest]]:
    """What a plan applies, as read from the cluster afterwards."""
    made: dict[Kind, list[Manifest]] = {}
    for item in plan.apply:
        live = deepcopy(item)
        live["metadata"]["uid"] = f"uid-of-{item['kind']}-{item['metadata']['name']}"
        made.setdefault(kind_of(item), []).append(live)
    return made


def deployment(plan: Plan) -> Manifest:
    """The Deployment that a plan applies."""
    assert not [problem for problem in plan.problems if problem.blocking], plan.problems
    (found,) = [item for item in plan.apply if kind_of(item) == kinds.DEPLOYMENT]
    return found


def settled(manifest: Manifest) -> Manifest:
    """A Deployment with all pods updated and available."""
    count = manifest["spec"]["replicas"]
    status = {"observedGeneration": 1, "replicas": count, "updatedReplicas": count, "readyReplicas": count}
    live = deepcopy(manifest)
    live["metadata"] |= {"generation": 1, "uid": "uid-of-deployment"}
    return {**live, "status": {**status, "availableReplicas": count}}


def pod(
    name: str = "new-0", template: str = "new", *, ready: bool = False, node: str = "node-1", **status: Any
) -> Manifest:
    """A pod of the ReplicaSet `template`. `status` changes the status of a running pod."""
    reference = {"kind": "ReplicaSet", "name": template, "uid": f"uid-of-{template}", "controller": True}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    about = {"name": name, "namespace": "models", "uid": f"uid-of-{name}", "ownerReferences": [reference]}
    where = {"nodeName": node} if node else {}
    return {"metadata": about, "spec": where, "status": {"conditions": conditions, **status}}


def replica_set(name: str, template: Manifest) -> Manifest:
    """A ReplicaSet of the Deployment that `rolled_out` makes, with the label that its controller adds."""
    reference = {"kind": "Deployment", "name": "demo", "uid": "uid-of-Deployment-demo", "controller": True}
    labelled = deepcopy(template)
    labelled["metadata"]["labels"]["pod-template-hash"] = name
    about = {"name": name, "uid": f"uid-of-{name}", "ownerReferences": [reference]}
    return {"metadata": about, "spec": {"template": labelled}}


def rolled_out(spec: Spec, plan: Plan, pods: Iterable[Manifest], status: Manifest, **more: Any) -> Observed:
    """The world after a plan: ReplicaSets `old` and `new`, these pods, and this status of the Deployment."""
    made = {kind: list(items) for kind, items in children(plan).items()}
    live = made[kinds.DEPLOYMENT][0]
    live["metadata"]["generation"] = 1
    live["status"] = {"observedGeneration": 1, **status}
    template = live["spec"]["template"]
    old = {**template, "metadata": {"labels": {**template["metadata"]["labels"], "was": "another"}}}
    sets = [replica_set("old", old), replica_set("new", template)]
    started = [{**item, "spec": template["spec"] | item["spec"]} for item in pods]
    own: dict[str, Any] = {"children": made, "replica_sets": sets, "pods": started}
    return replace(world(spec), **own | more)


def counts(replicas: int, updated: int | None = None, available: int | None = None) -> Manifest:
    """Counts in a Deployment's status."""
    updated = replicas if updated is None else updated
    available = replicas if available is None else available
    return {
        "replicas": replicas, "updatedReplicas": updated, "readyReplicas": available, "availableReplicas": available,
    }  # fmt: skip


def with_pod(raw: Manifest, one: Manifest, status: Manifest | None = None, **more: Any) -> tuple[Spec, Observed]:
    """The spec of an object, and its world with one pod. `status` is the status of the object."""
    spec = parse(raw)
    plan = make_plan(spec, world(spec), CONFIG)
    return spec, rolled_out(spec, plan, [one], counts(1, 1, 0), owner=owner(status=status or {}), **more)


def told(raw: Manifest, one: Manifest, status: Manifest | None = None, **more: Any) -> tuple[str, str, str] | None:
    """Condition, reason and message of the trouble of an object's only pod."""
    spec, found = with_pod(raw, one, status, **more)
    troubles = View(spec, found, (), NOW).troubles
    return (troubles[0].condition, troubles[0].reason, troubles[0].message) if troubles else None
