"""Nodes for tests: other capacity on the real node, and nodes that exist as objects only."""

import threading
from datetime import UTC, datetime
from types import TracebackType

from . import addresses
from .kubectl import Kubectl, KubectlError, Object

_HEARTBEAT_SECONDS = 10.0


def set_capacity(kubectl: Kubectl, resources: dict[str, str | None], node: str = addresses.NODE_NAME) -> None:
    """Advertise resources, such as {"nvidia.com/gpu": "2"}. None removes one."""
    change = {"status": {"capacity": resources, "allocatable": resources}}
    kubectl.patch("node", node, change, subresource="status")


class FakeNode:
    """A node that is Ready and runs nothing. Pods on it stay Pending. Delete them with --force."""

    def __init__(self, kubectl: Kubectl, name: str, resources: dict[str, str], labels: dict[str, str]) -> None:
        self.name = name
        self._kubectl = kubectl
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {name}", daemon=True)
        meta = {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels}}
        kubectl.create({"apiVersion": "v1", "kind": "Node", "metadata": meta})
        self._kubectl.apply(self._lease())
        kubectl.patch("node", name, {"status": _status(resources)}, subresource="status")
        self._thread.start()

    def __enter__(self) -> "FakeNode":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._kubectl.delete("node", self.name)
        self._kubectl.delete("lease", self.name, "kube-node-lease")

    def _beat(self) -> None:
        while not self._over.wait(_HEARTBEAT_SECONDS):
            try:
                self._kubectl.apply(self._lease())
            except KubectlError:
                continue  # the API server is away; tests stop it on purpose

    def _lease(self) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now},
        }


def _status(resources: dict[str, str]) -> Object:
    everything = {"cpu": "8", "memory": "64Gi", "pods": "100", "ephemeral-storage": "100Gi", **resources}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "only an object"}
    return {"capacity": everything, "allocatable": everything, "conditions": [ready]}
