"""What one reconcile has read from the cluster. The values are read once and never changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from . import kinds, names
from .kinds import Kind
from .manifests import Claim, ContainerStatus, Deployment, Manifest, Pod, PodTemplate, ReplicaSet
from .reports import Report


@dataclass(frozen=True, slots=True)
class Observed:
    """The object, its children and what else the decisions depend on."""

    owner: Manifest
    # objects with the label of this object, and objects of its own that lost the label
    children: Mapping[Kind, Sequence[Manifest]] = field(default_factory=dict)
    strangers: Sequence[Manifest] = ()  # objects of other owners with names of children
    replica_sets: Sequence[ReplicaSet] = ()
    pods: Sequence[Pod] = ()
    reports: Mapping[str, Report] = field(default_factory=dict)  # reports by name of the pod
    config_maps: Mapping[str, Manifest | None] = field(default_factory=dict)  # ConfigMaps that the spec names
    claims: Mapping[str, Claim | None] = field(default_factory=dict)  # existing claims that the spec names
    warnings: Sequence[Manifest] = ()  # Events of a pod that does not start, or of its claims
    pending_claims: Sequence[Claim] = ()  # claims of that pod that have no volume yet
    node_infos: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # versions on the node of that pod
    has_service_monitors: bool = False

    @property
    def uid(self) -> str:
        """The uid of the object."""
        return str(self.owner["metadata"]["uid"])

    @property
    def deployment(self) -> Deployment | None:
        """The Deployment of the object."""
        wanted = self.owner["metadata"]["name"]
        found = (item for item in self.children.get(kinds.DEPLOYMENT, ()) if item["metadata"]["name"] == wanted)
        return cast("Deployment | None", next(found, None))

    @property
    def own_claims(self) -> list[Claim]:
        """The claims made from templates, for this object or for an earlier one of its name."""
        return cast("list[Claim]", list(self.children.get(kinds.CLAIM, ())))

    def all_children(self) -> Iterator[Manifest]:
        """Every child except pods."""
        for kind, items in self.children.items():
            if kind != kinds.POD:
                yield from items

    def new_pods(self) -> list[Pod]:
        """The pods of the newest template, without those that are being deleted."""
        newest = self._newest_replica_set()
        return [pod for pod in self.pods if not ending(pod) and owner_uid(pod) == newest]

    def own_pods(self) -> list[Pod]:
        """The pods of all templates of this object, without those that are being deleted."""
        deployment = self.deployment
        if deployment is None or owner_uid(deployment) not in ("", self.uid):
            return []
        mine = deployment["metadata"]["uid"]
        sets = {item["metadata"]["uid"] for item in self.replica_sets if owner_uid(item) == mine}
        return [pod for pod in self.pods if not ending(pod) and owner_uid(pod) in sets]

    def old_pods(self) -> list[Pod]:
        """The pods of earlier templates of this object."""
        new = {pod["metadata"]["name"] for pod in self.new_pods()}
        return [pod for pod in self.own_pods() if pod["metadata"]["name"] not in new]

    def _newest_replica_set(self) -> str:
        """Uid of the ReplicaSet of the current template. Empty until the deployment controller has made it."""
        deployment = self.deployment
        if deployment is None:
            return ""
        mine, template = deployment["metadata"]["uid"], deployment["spec"]["template"]
        ours = (item for item in self.replica_sets if owner_uid(item) == mine and _template(item) == template)
        newest = min(ours, key=lambda item: str(item["metadata"].get("creationTimestamp")), default=None)
        return str(newest["metadata"]["uid"]) if newest else ""


def container_statuses(pod: Pod) -> list[ContainerStatus]:
    """Status of the containers of a pod, in the order of their start."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def owner_uid(child: Mapping[str, Any]) -> str:
    """Uid of the owner that controls an object. Empty without such an owner."""
    references = child["metadata"].get("ownerReferences", [])
    return next((str(item["uid"]) for item in references if item.get("controller")), "")


def is_of_earlier(child: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether an earlier object with the name of `owner` controls a child. The garbage collector deletes the child."""
    controllers = [item for item in child["metadata"].get("ownerReferences", []) if item.get("controller")]
    mine = owner["metadata"]
    return any(
        (item.get("apiVersion"), item.get("kind"), item.get("name")) == (names.API_VERSION, names.KIND, mine["name"])
        and item["uid"] != mine["uid"]
        for item in controllers
    )


def ending(item: Mapping[str, Any]) -> bool:
    """Whether an object is being deleted."""
    return "deletionTimestamp" in item["metadata"]


def _template(replica_set: ReplicaSet) -> PodTemplate:
    """The pod template of a ReplicaSet, without the label that the deployment controller adds."""
    template = replica_set["spec"]["template"]
    labels = {key: value for key, value in template["metadata"]["labels"].items() if key != names.TEMPLATE_HASH}
    return {**template, "metadata": {**template["metadata"], "labels": labels}}


def is_ready(pod: Pod) -> bool:
    """Whether the condition Ready of a pod is True."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
