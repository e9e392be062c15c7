"""Service accounts for operators that tests run outside of the cluster: rights, a token, a kubeconfig."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.localcluster import Cluster

Rule = dict[str, Any]
_RBAC = "rbac.authorization.k8s.io"
READ = ["get", "list", "watch"]
LEASES: Rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
WATCHED: list[Rule] = [
    {"apiGroups": ["llamaserver.dev"], "resources": ["llamaservers"], "verbs": READ},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": READ},
    {
        "apiGroups": [""],
        "resources": ["pods", "services", "persistentvolumeclaims", "serviceaccounts", "configmaps"],
        "verbs": READ,
    },
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": READ},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": READ},
    {"apiGroups": ["monitoring.coreos.com"], "resources": ["servicemonitors"], "verbs": READ},
]
WRITES: Rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "patch"]}


def without(resource: str) -> list[Rule]:
    """WATCHED, but for one resource."""
    return [{**rule, "resources": [each for each in rule["resources"] if each != resource]} for rule in WATCHED]


@dataclass(frozen=True)
class Account:
    """A service account of a test's namespace."""

    cluster: Cluster
    namespace: str
    name: str

    @property
    def user(self) -> str:
        """As the API server knows it."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def make(self) -> "Account":
        """Create it."""
        metadata = {"name": self.name, "namespace": self.namespace}
        self.cluster.kubectl.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        return self

    def allow(self, *rules: Rule, namespace: str = "") -> "Account":
        """Rights in one namespace (its own if none is named)."""
        metadata = {"name": f"{self.namespace}-{self.name}", "namespace": namespace or self.namespace}
        self._grant("Role", metadata, [rule for rule in rules if rule["resources"]])
        return self

    def allow_everywhere(self, *rules: Rule) -> "Account":
        """Rights in all namespaces; `forget` takes them back."""
        self._grant(
            "ClusterRole", {"name": f"{self.namespace}-{self.name}"}, [rule for rule in rules if rule["resources"]]
        )
        return self

    def forget(self) -> None:
        """Remove what is not in the test's namespace."""
        for kind in ("clusterrolebinding", "clusterrole"):
            self.cluster.kubectl.delete(kind, f"{self.namespace}-{self.name}")

    def kubeconfig(self, folder: Path, server: str = "") -> Path:
        """A kubeconfig with a new token; `server` is another way to the API server."""
        token = self.cluster.kubectl("create", "token", self.name, f"--namespace={self.namespace}").strip()
        path = folder / f"{self.name}.kubeconfig"
        self.cluster.components.credentials.write_kubeconfig(path, server or server_of(self.cluster), token)
        return path

    def _grant(self, kind: str, metadata: dict[str, str], rules: list[Rule]) -> None:
        api = f"{_RBAC}/v1"
        subject = {"kind": "ServiceAccount", "name": self.name, "namespace": self.namespace}
        reference = {"apiGroup": _RBAC, "kind": kind, "name": metadata["name"]}
        self.cluster.kubectl.apply(
            {"apiVersion": api, "kind": kind, "metadata": metadata, "rules": rules},
            {
                "apiVersion": api,
                "kind": f"{kind}Binding",
                "metadata": metadata,
                "roleRef": reference,
                "subjects": [subject],
            },
        )


def server_of(cluster: Cluster) -> str:
    """The API server's URL on the host."""
    content = json.loads(cluster.kubeconfig.read_text())
    return str(content["clusters"][0]["cluster"]["server"])
