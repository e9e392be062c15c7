"""The shapes of the Kubernetes objects that the operator reads. Only the fields that it reads are named.

A `Manifest` is an object of any kind, as JSON. Any field may be absent.
"""

from typing import Any, TypedDict

Manifest = dict[str, Any]


class OwnerReference(TypedDict, total=False):
    """A link from an object to its owner."""

    uid: str
    controller: bool


class ObjectMeta(TypedDict, total=False):
    """Metadata of every object. Times are RFC 3339 texts."""

    name: str
    namespace: str
    uid: str
    generation: int
    labels: dict[str, str]
    annotations: dict[str, str]
    creationTimestamp: str
    deletionTimestamp: str
    ownerReferences: list[OwnerReference]


class ObjectCondition(TypedDict, total=False):
    """A condition in the status of an object."""

    type: str
    status: str
    reason: str
    message: str
    lastTransitionTime: str


class Waiting(TypedDict, total=False):
    """A container that has not started."""

    reason: str
    message: str


class Running(TypedDict, total=False):
    """A container that runs."""

    startedAt: str


class Terminated(TypedDict, total=False):
    """A container that has ended."""

    exitCode: int
    reason: str
    message: str
    startedAt: str
    finishedAt: str


class ContainerState(TypedDict, total=False):
    """The state of a container. One of the three is set."""

    waiting: Waiting
    running: Running
    terminated: Terminated


class ContainerStatus(TypedDict, total=False):
    """A container of a pod, as the kubelet reports it."""

    name: str
    ready: bool
    restartCount: int
    state: ContainerState
    lastState: ContainerState


class PodStatus(TypedDict, total=False):
    """The status of a pod."""

    phase: str
    reason: str
    message: str
    podIP: str
    conditions: list[ObjectCondition]
    initContainerStatuses: list[ContainerStatus]
    containerStatuses: list[ContainerStatus]


class ResourceRequirements(TypedDict, total=False):
    """Quantities by resource name."""

    requests: dict[str, int | str]
    limits: dict[str, int | str]


class Container(TypedDict, total=False):
    """A container in the spec of a pod."""

    name: str
    args: list[str]
    envFrom: list[Manifest]
    resources: ResourceRequirements


class PodSpec(TypedDict, total=False):
    """The spec of a pod. Volumes and claims have the form of the Kubernetes API."""

    containers: list[Container]
    initContainers: list[Container]
    volumes: list[Manifest]
    resourceClaims: list[Manifest]
    nodeName: str


class Pod(TypedDict, total=False):
    """A pod."""

    metadata: ObjectMeta
    spec: PodSpec
    status: PodStatus


class PodTemplate(TypedDict, total=False):
    """The template from which a Deployment makes pods."""

    metadata: ObjectMeta
    spec: PodSpec


class ReplicaSetSpec(TypedDict, total=False):
    """The spec of a ReplicaSet."""

    template: PodTemplate


class ReplicaSet(TypedDict, total=False):
    """A ReplicaSet."""

    metadata: ObjectMeta
    spec: ReplicaSetSpec


class RollingUpdate(TypedDict, total=False):
    """How many pods a rollout starts and stops at a time."""

    maxSurge: int | str
    maxUnavailable: int | str


class Strategy(TypedDict, total=False):
    """How a Deployment replaces pods."""

    type: str
    rollingUpdate: RollingUpdate


class DeploymentSpec(TypedDict, total=False):
    """The spec of a Deployment."""

    replicas: int
    paused: bool
    strategy: Strategy
    template: PodTemplate


class DeploymentStatus(TypedDict, total=False):
    """The status of a Deployment: numbers of pods, and its conditions."""

    observedGeneration: int
    replicas: int
    readyReplicas: int
    updatedReplicas: int
    availableReplicas: int
    conditions: list[ObjectCondition]


class Deployment(TypedDict, total=False):
    """A Deployment."""

    metadata: ObjectMeta
    spec: DeploymentSpec
    status: DeploymentStatus


class ClaimResources(TypedDict, total=False):
    """The size of a claim, as {storage: quantity}."""

    requests: dict[str, str]


class ClaimSpec(TypedDict, total=False):
    """The spec of a PersistentVolumeClaim."""

    accessModes: list[str]
    storageClassName: str
    resources: ClaimResources


class ClaimStatus(TypedDict, total=False):
    """The status of a PersistentVolumeClaim."""

    phase: str


class Claim(TypedDict, total=False):
    """A PersistentVolumeClaim."""

    metadata: ObjectMeta
    spec: ClaimSpec
    status: ClaimStatus
