"""What one reconcile read of the cluster: plain values, read once, never changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from . import kinds, names
from .kinds import Kind
from .manifests import Claim, ContainerStatus, Deployment, Manifest, Pod, PodTemplate, ReplicaSet
from .reports import Report


@dataclass(frozen=True, slots=True)
class Observed:
    """The object and everything around it."""

    owner: Manifest
    # those with the object's label, or that lost it
    children: Mapping[Kind, Sequence[Manifest]] = field(default_factory=dict)
    strangers: Sequence[Manifest] = ()  # objects of other owners under names that our children would have
    replica_sets: Sequence[ReplicaSet] = ()
    pods: Sequence[Pod] = ()
    reports: Mapping[str, Report] = field(default_factory=dict)  # pod name: what its management port says
    config_maps: Mapping[str, Manifest | None] = field(default_factory=dict)  # those that the spec names
    claims: Mapping[str, Claim | None] = field(default_factory=dict)  # likewise
    warnings: Sequence[Manifest] = ()  # Events about a pod that does not start, or about its claims
    pending_claims: Sequence[Claim] = ()  # those of that pod that have no volume yet
    node_infos: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of that pod's node
    has_service_monitors: bool = False

    @property
    def uid(self) -> str:
        """The object's uid."""
        return str(self.owner["metadata"]["uid"])

    @property
    def deployment(self) -> Deployment | None:
        """Its Deployment."""
        wanted = self.owner["metadata"]["name"]
        found = (item for item in self.children.get(kinds.DEPLOYMENT, ()) if item["metadata"]["name"] == wanted)
        return cast("Deployment | None", next(found, None))

    @property
    def own_claims(self) -> list[Claim]:
        """The claims made from templates, for this object or for an earlier one of its name."""
        return cast("list[Claim]", list(self.children.get(kinds.CLAIM, ())))

    def all_children(self) -> Iterator[Manifest]:
        """Every child, pods aside."""
        for kind, items in self.children.items():
            if kind != kinds.POD:
                yield from items

    def new_pods(self) -> list[Pod]:
        """The pods of the newest template that are not ending."""
        newest = self._newest_replica_set()
        return [pod for pod in self.pods if not ending(pod) and owner_uid(pod) == newest]

    def own_pods(self) -> list[Pod]:
        """The pods of any template that are not ending; none of an earlier object of this name."""
        deployment = self.deployment
        if deployment is None or owner_uid(deployment) not in ("", self.uid):
            return []
        mine = deployment["metadata"]["uid"]
        sets = {item["metadata"]["uid"] for item in self.replica_sets if owner_uid(item) == mine}
        return [pod for pod in self.pods if not ending(pod) and owner_uid(pod) in sets]

    def old_pods(self) -> list[Pod]:
        """Of its own pods those of earlier templates."""
        new = {pod["metadata"]["name"] for pod in self.new_pods()}
        return [pod for pod in self.own_pods() if pod["metadata"]["name"] not in new]

    def _newest_replica_set(self) -> str:
        """As the deployment controller finds it: none until it has seen a new template, whose pods are not the old."""
        deployment = self.deployment
        if deployment is None:
            return ""
        mine, template = deployment["metadata"]["uid"], deployment["spec"]["template"]
        ours = (item for item in self.replica_sets if owner_uid(item) == mine and _template(item) == template)
        newest = min(ours, key=lambda item: str(item["metadata"].get("creationTimestamp")), default=None)
        return str(newest["metadata"]["uid"]) if newest else ""


def container_statuses(pod: Pod) -> list[ContainerStatus]:
    """What the kubelet tells of a pod's containers, in the order of their start."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def owner_uid(child: Mapping[str, Any]) -> str:
    """Uid of the controller of an object."""
    references = child["metadata"].get("ownerReferences", [])
    return next((str(item["uid"]) for item in references if item.get("controller")), "")


def ending(item: Mapping[str, Any]) -> bool:
    """Whether an object is being deleted."""
    return "deletionTimestamp" in item["metadata"]


def _template(replica_set: ReplicaSet) -> PodTemplate:
    """The pod template that a ReplicaSet was made from, without the label that was added."""
    template = replica_set["spec"]["template"]
    labels = {key: value for key, value in template["metadata"]["labels"].items() if key != names.TEMPLATE_HASH}
    return {**template, "metadata": {**template["metadata"], "labels": labels}}


def is_ready(pod: Pod) -> bool:
    """Whether a pod's condition Ready is True."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
