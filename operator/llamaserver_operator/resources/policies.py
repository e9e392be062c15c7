"""Small children: ServiceAccount, PodDisruptionBudget, NetworkPolicy, ServiceMonitor, ConfigMap of inline texts."""

from collections.abc import Mapping
from typing import Any

from .. import names
from ..config import Config
from ..manifests import Manifest
from ..spec import Spec
from .metadata import metadata


def service_account(owner: Mapping[str, Any]) -> Manifest:
    """An identity without a token: the pods never talk to the API server."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner),
        "automountServiceAccountToken": False,
    }


def disruption_budget(owner: Mapping[str, Any]) -> Manifest:
    """One pod at a time; broken pods never hold up a node's drain."""
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
    """Clients to the serving port; the operator and Prometheus to the management port."""
    clients: Manifest = {"ports": [{"port": "http", "protocol": "TCP"}]}
    if peers := spec.security.network_policy.peers:
        clients["from"] = list(peers)
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": config.namespace}},
        "podSelector": {"matchLabels": dict(config.operator_pod_labels)},
    }
    prometheus = {"namespaceSelector": {"matchLabels": dict(config.prometheus_namespace_labels)}}
    # by number: the download's container gives the port no name
    monitors = {"ports": [{"port": names.MANAGEMENT_PORT, "protocol": "TCP"}], "from": [operator, prometheus]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner),
        "spec": {
            "podSelector": {"matchLabels": names.selector(owner["metadata"]["name"])},
            "policyTypes": ["Ingress"],
            "ingress": [clients, monitors],
        },
    }


def service_monitor(owner: Mapping[str, Any], spec: Spec) -> Manifest:
    """For the Prometheus operator; it scrapes the management port, which has neither key nor TLS."""
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
            "endpoints": [{"port": "management", "path": "/metrics"}],
        },
    }


def config_map(owner: Mapping[str, Any], texts: Mapping[str, str]) -> Manifest:
    """The texts that the spec has inline."""
    about = metadata(owner, names.config_map(owner["metadata"]["name"], texts))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": dict(texts)}
