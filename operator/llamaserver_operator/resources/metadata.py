"""Metadata of children: labels and the owner."""

from collections.abc import Mapping
from typing import Any

from .. import names
from ..manifests import Manifest


def owner_reference(owner: Mapping[str, Any]) -> Manifest:
    """The reference by which a child is deleted with its LlamaServer."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(owner: Mapping[str, Any], name: str = "", *, owned: bool = True) -> Manifest:
    """Metadata of a child. The default name is the owner's. A child without owner outlives the object."""
    mine = owner["metadata"]
    made = {"name": name or mine["name"], "namespace": mine["namespace"], "labels": names.labels(mine["name"])}
    return {**made, "ownerReferences": [owner_reference(owner)]} if owned else made
