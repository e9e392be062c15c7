"""The recorded pod template. Only a change of its inputs renders it again: an upgrade of the operator restarts no pod.

The record is an annotation of the Deployment: the hash of the inputs, the image chosen at creation, and the rendered
template.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from .. import names
from ..config import Config
from ..manifests import Manifest
from ..spec import ClaimTemplate, KvVolume, ModelCache, Spec, given
from .pod import pod_template


class Template(msgspec.Struct, frozen=True):
    """A rendered pod template and its inputs."""

    inputs: str
    vendor: str
    image: str
    template: Manifest

    def record(self) -> str:
        """The value of the annotation."""
        return json.dumps(msgspec.to_builtins(self), separators=(",", ":"), sort_keys=True)


def recorded(deployment: Mapping[str, Any] | None) -> Template | None:
    """The template recorded in a Deployment. None when there is no readable record."""
    text = (deployment or {}).get("metadata", {}).get("annotations", {}).get(names.TEMPLATE_ANNOTATION, "")
    try:
        return msgspec.json.decode(text, type=Template)
    except msgspec.MsgspecError:
        return None


def current_template(
    spec: Spec, owner: Mapping[str, Any], texts: Mapping[str, str], before: Template | None, config: Config
) -> Template:
    """The pod template for a spec. It is the recorded one while its inputs are the same.

    `texts` are the contents of the ConfigMaps that the spec names, and of the inline ones.
    """
    vendor = spec.accelerator.vendor if spec.accelerator else ""
    immediate = spec.rollout.upgrade_policy == "Immediate"
    pinned = before.image if before and before.vendor == vendor and not immediate else config.image_for(vendor)
    image = spec.image.reference or pinned
    inputs = _hash(spec, texts)
    if before and before.inputs == inputs and not immediate:
        return before
    mine = owner["metadata"]
    template = pod_template(spec, mine["namespace"], mine["name"], image, config)
    # Pods read texts only when they start. Therefore a changed text must change the template.
    if texts:
        annotations = template["metadata"].setdefault("annotations", {})
        template["metadata"]["annotations"] = {**annotations, f"{names.GROUP}/texts": _digest(texts)}
    return Template(inputs, vendor, pinned, template)


def _hash(spec: Spec, texts: Mapping[str, str]) -> str:
    """Hash of what a pod depends on. The fields that do not affect pods are set to the same values first."""
    replace, rollout = msgspec.structs.replace, spec.rollout
    cache, kv = spec.model.cache, spec.kv_cache
    volume = kv and kv.volume
    pods = replace(
        spec,
        model=replace(spec.model, cache=cache and replace(cache, **_same(cache))),
        kv_cache=kv and replace(kv, scope="Replica", volume=volume and replace(volume, **_same(volume))),
        replicas=1,
        rollout=type(rollout)(drain_timeout_seconds=rollout.drain_timeout_seconds),
        serving=replace(spec.serving, port=8080, service_type="ClusterIP"),
        security=replace(spec.security, network_policy=type(spec.security.network_policy)()),
        observability=type(spec.observability)(),
    )
    return _digest({"spec": _hashed(given(pods), spec), "texts": dict(texts)})


def _hashed(values: Manifest, spec: Spec) -> Manifest:
    """The values with slotsEndpoint as older versions wrote it: their default, Enabled, is left out.

    The API server stored that default in the objects of these versions. Their pods must not restart.
    """
    serving = {key: value for key, value in values.get("serving", {}).items() if key != "slotsEndpoint"}
    if spec.serving.slots_endpoint == "Disabled":
        serving["slotsEndpoint"] = "Disabled"
    others = {key: value for key, value in values.items() if key != "serving"}
    return others | ({"serving": serving} if serving else {})


def _same(volume: ModelCache | KvVolume) -> dict[str, Any]:
    """Fixed values for the fields of a volume that do not affect pods."""
    template = volume.claim_template and ClaimTemplate(size="")
    return {"claim_template": template, "retention_policy": "Retain"}


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:32]
