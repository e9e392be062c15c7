"""The Service of clients, and the headless one that Prometheus scrapes."""

from collections.abc import Mapping
from typing import Any

from .. import names
from ..manifests import Manifest
from ..spec import Spec
from .metadata import metadata


def service(owner: Mapping[str, Any], spec: Spec) -> Manifest:
    """What clients talk to."""
    scheme = "https" if spec.security.tls else "http"
    port = {"name": scheme, "port": spec.serving.port, "targetPort": "http", "protocol": "TCP", "appProtocol": scheme}
    body = {"type": spec.serving.service_type, "ports": [port]}
    return _service(owner, metadata(owner), body)


def management_service(owner: Mapping[str, Any]) -> Manifest:
    """The management ports of all pods, unready ones included: their metrics tell why."""
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
