"""Reads the objects with the label of a LlamaServer.

Anybody may make objects with the label, many and large ones. So they are read page by page, and only those are kept
that belong to the LlamaServer or have the name of a child. Of what is kept, the total size has a limit.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from . import kinds, names
from .cluster import Cluster
from .errors import Invalid
from .kinds import Kind
from .manifests import Manifest, Pod, ReplicaSet
from .observed import owner_uid

_MOST_BYTES = 8 << 20  # of JSON that is kept; Python needs several times as much, and several workers read


@dataclass(frozen=True, slots=True)
class Labelled:
    """What was read: children by kind, and the ReplicaSets of the Deployment with their pods."""

    children: Mapping[Kind, Sequence[Manifest]]
    replica_sets: Sequence[ReplicaSet]
    pods: Sequence[Pod]


async def labelled(cluster: Cluster, owner: Manifest, listed: Sequence[Kind]) -> Labelled:
    """The objects of these kinds, with the ReplicaSets and pods. Invalid when they are too large in total."""
    kept, uid, name = _Kept(cluster, owner), owner["metadata"]["uid"], owner["metadata"]["name"]

    def is_child(item: Manifest) -> bool:
        return owner_uid(item) == uid or names.may_be_of(name, item["metadata"]["name"])

    found = await asyncio.gather(*(kept.of(kind, is_child) for kind in listed))
    children = dict(zip(listed, found, strict=True))
    # Those without a controller are adopted by the Deployment soon.
    owners = {item["metadata"]["uid"] for item in children[kinds.DEPLOYMENT] if item["metadata"]["name"] == name} | {""}
    sets = await kept.of(kinds.REPLICA_SET, lambda item: owner_uid(item) in owners)
    owners = {item["metadata"]["uid"] for item in sets}
    pods = await kept.of(kinds.POD, lambda item: owner_uid(item) in owners)
    return Labelled(children, cast("list[ReplicaSet]", sets), cast("list[Pod]", pods))


class _Kept:
    def __init__(self, cluster: Cluster, owner: Manifest) -> None:
        self._cluster = cluster
        self._namespace = owner["metadata"]["namespace"]
        self._selector = names.selector_text({names.NAME_LABEL: owner["metadata"]["name"]})
        self._bytes = 0

    async def of(self, kind: Kind, counts: Callable[[Manifest], bool]) -> list[Manifest]:
        """The objects of a kind that count. Of texts, only the metadata is read."""
        read = self._cluster.list_metadata if kind == kinds.CONFIG_MAP else self._cluster.pages
        found = []
        async for item in read(kind, self._namespace, self._selector):
            if counts(item):
                _slim(item)
                self._bytes += len(json.dumps(item))
                if self._bytes > _MOST_BYTES:
                    raise Invalid(f"the objects with the label {self._selector} have more than {_MOST_BYTES >> 20} MiB")
                found.append(item)
        return found


def _slim(item: Manifest) -> None:
    """Drop what may be large and is not needed."""
    item["metadata"].pop("managedFields", None)
    if item["kind"] == kinds.POD.kind:
        item["metadata"].pop("annotations", None)
        for container in (*item["spec"].get("initContainers", ()), *item["spec"].get("containers", ())):
            container.pop("env", None)
