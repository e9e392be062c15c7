"""The Service for clients, and the headless Service for Prometheus."""

from collections.abc import Mapping
from typing import Any

from .. import names
from ..manifests import Manifest
from ..spec import Spec
from .metadata import metadata


def service(owner: Mapping[str, Any], spec: Spec) -> Manifest:
    """The Service for clients."""
    scheme = "https" if spec.security.tls else "http"
    port = {"name": scheme, "port": spec.serving.port, "targetPort": "http", "protocol": "TCP", "appProtocol": scheme}
    body = {"type": spec.serving.service_type, "ports": [port]}
    return _service(owner, metadata(owner), body)


def management_service(owner: Mapping[str, Any]) -> Manifest:
    """The management ports of all pods, also of those that are not ready: their metrics may show the cause."""
    about = metadata(owner, names.management_service(owner["metadata"]["name"]))
    about["labels"] = {**about["labels"], names.COMPONENT_LABEL: "management"}
    port = {"name": "management", "port": names.MANAGEMENT_PORT, "targetPort": "management", "protocol": "TCP"}
    return _service(owner, about, {"clusterIP": "None", "publishNotReadyAddresses": True, "ports": [port]})


def _service(owner: Mapping[str, Any], about: Manifest, body: Manifest) -> Manifest:
    selector = names.selector(owner["metadata"]["name"])
    return {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": {**body, "selector": selector}}


def endpoint(owner: Mapping[str, Any], *, tls: bool, port: int) -> str:
    """URL of the Service inside the cluster."""
    mine = owner["metadata"]
    return f"{'https' if tls else 'http'}://{mine['name']}.{mine['namespace']}.svc:{port}"
