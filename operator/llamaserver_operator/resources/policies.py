"""ServiceAccount, PodDisruptionBudget, NetworkPolicy, ServiceMonitor, and the ConfigMap of inline texts."""

from collections.abc import Mapping
from typing import Any

from .. import names
from ..config import Config
from ..manifests import Manifest
from ..spec import Spec
from .egress import egress
from .metadata import metadata

# More than a server has. An image of the user's choice must not flood Prometheus.
_MOST_SAMPLES = 5000


def service_account(owner: Mapping[str, Any]) -> Manifest:
    """A ServiceAccount without a token. The pods do not use the API server."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner),
        "automountServiceAccountToken": False,
    }


def disruption_budget(owner: Mapping[str, Any]) -> Manifest:
    """One pod may be evicted at a time. Pods that are not ready never block the drain of a node."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": names.selector(owner["metadata"]["name"])},
        },
    }


def network_policy(owner: Mapping[str, Any], spec: Spec, config: Config) -> Manifest:
    """Clients may reach the serving port. The operator and Prometheus may reach the management port.

    With egress Download, the pods may reach only what the download needs.
    """
    clients: Manifest = {"ports": [{"port": "http", "protocol": "TCP"}]}
    if peers := spec.security.network_policy.peers:
        clients["from"] = list(peers)
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": config.namespace}},
        "podSelector": {"matchLabels": dict(config.operator_pod_labels)},
    }
    prometheus = {"namespaceSelector": {"matchLabels": dict(config.prometheus_namespace_labels)}}
    # by number, because the port has no name in the container of the download
    monitors = {"ports": [{"port": names.MANAGEMENT_PORT, "protocol": "TCP"}], "from": [operator, prometheus]}
    rules: Manifest = {"policyTypes": ["Ingress"], "ingress": [clients, monitors]}
    if spec.security.network_policy.egress == "Download":
        rules = {**rules, "policyTypes": ["Ingress", "Egress"], "egress": egress(spec, config)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner),
        "spec": {"podSelector": {"matchLabels": names.selector(owner["metadata"]["name"])}, **rules},
    }


def service_monitor(owner: Mapping[str, Any], spec: Spec) -> Manifest:
    """The ServiceMonitor for the Prometheus operator. It scrapes the management port, which has neither key nor TLS."""
    name = owner["metadata"]["name"]
    about = metadata(owner)
    about["labels"] = {**spec.observability.labels, **about["labels"]}
    selector = {**names.selector(name), names.COMPONENT_LABEL: "management"}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": about,
        "spec": {
            "selector": {"matchLabels": selector},
            "targetLabels": [names.NAME_LABEL],
            "sampleLimit": _MOST_SAMPLES,
            "endpoints": [{"port": "management", "path": "/metrics"}],
        },
    }


def config_map(owner: Mapping[str, Any], texts: Mapping[str, str]) -> Manifest:
    """The ConfigMap of the inline texts."""
    about = metadata(owner, names.config_map(owner["metadata"]["name"], texts))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": dict(texts)}
