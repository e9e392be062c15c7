"""The claims made from templates: the model cache and the KV cache."""

from collections.abc import Mapping
from typing import Any

from .. import names
from ..manifests import Manifest
from ..spec import ClaimTemplate, Spec
from .metadata import metadata


def claims(owner: Mapping[str, Any], spec: Spec) -> list[Manifest]:
    """The claims that a spec asks for. A retained claim has no owner, so that it is kept when the object is deleted."""
    name = owner["metadata"]["name"]
    made = []
    if (cache := spec.model.cache) and cache.claim_template:
        owned = cache.retention_policy == "Delete"
        made.append(_claim(metadata(owner, names.model_claim(name), owned=owned), cache.claim_template))
    volume = spec.kv_cache.volume if spec.kv_cache else None
    if volume and (template := volume.claim_template):
        owned = volume.retention_policy == "Delete"
        made.append(_claim(metadata(owner, names.kv_claim(name), owned=owned), template))
    return made


def _claim(about: Manifest, template: ClaimTemplate) -> Manifest:
    body: Manifest = {
        "accessModes": list(template.access_modes),
        "resources": {"requests": {"storage": template.size}},
    }
    if template.storage_class_name is not None:
        body["storageClassName"] = template.storage_class_name
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": body}
