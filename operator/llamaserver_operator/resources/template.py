"""The recorded pod template: rendered anew only when its own inputs change, so that an operator upgrade rolls nothing.

The record is an annotation of the Deployment: the hash of the inputs, the image chosen at creation,
and the template as it was rendered.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from .. import __version__, names
from ..config import Config
from ..spec import Spec
from .pod import pod_template

Manifest = dict[str, Any]


class Template(msgspec.Struct, frozen=True):
    """A rendered pod template and what it was made from."""

    inputs: str
    vendor: str
    image: str
    template: Manifest

    def record(self) -> str:
        """The annotation's value."""
        return json.dumps(msgspec.to_builtins(self), separators=(",", ":"), sort_keys=True)


def recorded(deployment: Mapping[str, Any] | None) -> Template | None:
    """The template that a Deployment records; None when there is none that can be read."""
    text = (deployment or {}).get("metadata", {}).get("annotations", {}).get(names.TEMPLATE_ANNOTATION, "")
    try:
        return msgspec.json.decode(text, type=Template)
    except msgspec.MsgspecError:
        return None


def current_template(
    spec: Spec, owner: Mapping[str, Any], texts: Mapping[str, str], before: Template | None, config: Config
) -> Template:
    """The pod template for a spec: the recorded one as long as its inputs are the same.

    `texts` are the contents of the ConfigMaps that the spec names, and of the inline ones.
    """
    vendor = spec.accelerator.vendor if spec.accelerator else ""
    immediate = spec.rollout.upgrade_policy == "Immediate"
    pinned = before.image if before and before.vendor == vendor and not immediate else config.image_for(vendor)
    image = spec.image.reference or pinned
    inputs = _hash(spec, texts, upgrade=[__version__, pinned] if immediate else [])
    if before and before.inputs == inputs:
        return before
    mine = owner["metadata"]
    template = pod_template(spec, mine["namespace"], mine["name"], image, config)
    # A text reaches the pods only with the pod: a change of it must be one of the template.
    if texts:
        annotations = template["metadata"].setdefault("annotations", {})
        template["metadata"]["annotations"] = {**annotations, f"{names.GROUP}/texts": _digest(texts)}
    return Template(inputs, vendor, pinned, template)


def _hash(spec: Spec, texts: Mapping[str, str], upgrade: list[str]) -> str:
    """Hash of what a pod depends on. Fields at their default are left out, so that a new field changes no hash."""
    cache, kv = spec.model.cache, spec.kv_cache
    replace = msgspec.structs.replace
    model = (
        replace(spec.model, cache=replace(cache, claim_template=_same(cache), retention_policy="Retain"))
        if cache
        else spec.model
    )
    if kv:
        kv = replace(
            kv, scope="Replica", volume=replace(kv.volume, claim_template=_same(kv.volume), retention_policy="Retain")
        )
    inputs = {
        "model": model,
        "loraAdapters": spec.lora_adapters,
        "projector": spec.projector,
        "chatTemplate": spec.chat_template,
        "systemPrompt": spec.system_prompt,
        "context": spec.context,
        "engine": spec.engine,
        "accelerator": spec.accelerator,
        "kvCache": kv,
        "drain": [spec.rollout.drain_timeout_seconds, spec.rollout.progress_deadline_seconds],
        "serving": replace(spec.serving, port=8080, service_type="ClusterIP"),
        "security": replace(spec.security, network_policy=type(spec.security.network_policy)()),
        "resources": spec.resources,
        "podTemplate": spec.pod_template,
        "image": spec.image,
        "texts": dict(texts),
        "upgrade": upgrade,
    }
    return _digest({key: value for key, value in inputs.items() if value})


def _same(volume: Any) -> Any:
    """A claim template without what changes no pod: its size, class and modes."""
    return volume.claim_template and msgspec.structs.replace(
        volume.claim_template, size="", storage_class_name=None, access_modes=("ReadWriteOnce",)
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:32]
