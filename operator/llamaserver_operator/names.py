"""Names of children, labels, annotations, ports and paths. Only this module spells them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

GROUP = "llamaserver.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LlamaServer"
MANAGER = "llamaserver-operator"  # field manager, event source and value of MANAGED_BY

MANAGED_BY = "app.kubernetes.io/managed-by"
APP = "app.kubernetes.io/name"
NAME_LABEL = f"{GROUP}/name"
COMPONENT_LABEL = f"{GROUP}/component"
TEMPLATE_ANNOTATION = f"{GROUP}/template"  # on the Deployment: the recorded pod template, as JSON
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
TEMPLATE_HASH = "pod-template-hash"

HTTP_PORT = 8080
MANAGEMENT_PORT = 8081
USER = 10001

SERVER_CONTAINER = "server"
FETCH_CONTAINER = "fetch"

MODELS_DIR = "/models"
KV_DIR = "/kv"
CONFIG_DIR = "/etc/llamaserver/config"
API_KEYS_DIR = "/etc/llamaserver/api-keys"
TLS_DIR = "/etc/llamaserver/tls"
KV_KEY_DIR = "/etc/llamaserver/kv-key"
SOURCES_DIR = "/sources"


def management_service(name: str) -> str:
    """The headless Service that Prometheus scrapes."""
    return f"{name}-management"


def config_map(name: str, texts: Mapping[str, str]) -> str:
    """The ConfigMap of inline texts. Other texts get another name, so that old pods keep theirs."""
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    return f"{name}-config-{digest[:8]}"


def model_claim(name: str) -> str:
    """The claim made from spec.model.cache.claimTemplate."""
    return f"{name}-model-cache"


def kv_claim(name: str) -> str:
    """The claim made from spec.kvCache.volume.claimTemplate."""
    return f"{name}-kv-cache"


def may_be_of(name: str, child: str) -> bool:
    """Whether an object of this name may be a child."""
    whole = (name, management_service(name), model_claim(name), kv_claim(name))
    return child in whole or child.startswith(f"{name}-config-")


def selector(name: str) -> dict[str, str]:
    """The labels that select the pods. They never change while the object exists."""
    return {APP: "llamaserver", NAME_LABEL: name}


def labels(name: str) -> dict[str, str]:
    """Labels of every child."""
    return {**selector(name), MANAGED_BY: MANAGER}


def selector_text(labels: Mapping[str, str]) -> str:
    """A label selector as a query parameter of the API."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def key_of(child: Mapping[str, Any]) -> tuple[str, str] | None:
    """Namespace and name of the LlamaServer that the label of a child names. None without the label."""
    metadata = child.get("metadata", {})
    name = metadata.get("labels", {}).get(NAME_LABEL)
    return (metadata["namespace"], name) if name else None
