"""The kinds of objects that the operator reads or writes, and their URL paths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from . import names


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its names in a manifest and in a URL."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """The field apiVersion of a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_path(self) -> str:
        """The URL path of the group. A GET of it returns its kinds."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of an object, or of all objects of a namespace or of the cluster."""
        parts = [self.group_path]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self.plural, *(quote(part, safe="") for part in (name, subresource) if part)]
        return "/".join(parts)


LLAMA_SERVER = Kind(names.GROUP, names.VERSION, names.KIND, "llamaservers")
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
REPLICA_SET = Kind("apps", "v1", "ReplicaSet", "replicasets")
POD = Kind("", "v1", "Pod", "pods")
SERVICE = Kind("", "v1", "Service", "services")
CLAIM = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
EVENT = Kind("", "v1", "Event", "events")
NODE = Kind("", "v1", "Node", "nodes")
DISRUPTION_BUDGET = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
SERVICE_MONITOR = Kind("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")

KINDS = (
    LLAMA_SERVER, DEPLOYMENT, REPLICA_SET, POD, SERVICE, CLAIM, SERVICE_ACCOUNT, CONFIG_MAP, EVENT, NODE,
    DISRUPTION_BUDGET, NETWORK_POLICY, SERVICE_MONITOR, LEASE,
)  # fmt: skip
# Kinds whose changes cause a reconcile of the object that their label names.
CHILDREN = (
    DEPLOYMENT, POD, SERVICE, CLAIM, SERVICE_ACCOUNT, CONFIG_MAP, DISRUPTION_BUDGET, NETWORK_POLICY, SERVICE_MONITOR,
)  # fmt: skip

_BY_MANIFEST = {(kind.api_version, kind.kind): kind for kind in KINDS}


def kind_of(body: Mapping[str, Any]) -> Kind:
    """The kind of a manifest. KeyError when the operator does not know it."""
    return _BY_MANIFEST[body["apiVersion"], body["kind"]]
