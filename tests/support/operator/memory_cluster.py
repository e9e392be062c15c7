"""A cluster in memory: what the reconciler reads and writes, without an API server."""

from collections.abc import AsyncIterator, Iterable, Mapping
from copy import deepcopy
from typing import Any

from llamaserver_operator.errors import ClusterError
from llamaserver_operator.kinds import Kind

Manifest = dict[str, Any]


class MemoryCluster:
    """Objects by kind, namespace and name. `failing` has errors to raise, by (call, kind)."""

    def __init__(self, *objects: Manifest) -> None:
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.writes: list[str] = []
        self.events: list[tuple[str, str]] = []  # type and reason
        self.failing: dict[tuple[str, str], ClusterError] = {}
        self.kinds_absent: set[str] = {"ServiceMonitor"}
        for item in objects:
            self.put(item)

    def put(self, item: Manifest) -> Manifest:
        """Store an object as an API server would."""
        about = item["metadata"]
        key = (item["kind"], about["namespace"], about["name"])
        old = self.objects.get(key, {})
        item = {**deepcopy(item), **({"status": old["status"]} if "status" in old else {})}
        item["metadata"].setdefault("uid", old.get("metadata", {}).get("uid", f"uid-{len(self.objects)}"))
        item["metadata"].setdefault("generation", 1)
        self.objects[key] = item
        return deepcopy(item)

    def names(self, kind: str) -> list[str]:
        """Names of all objects of a kind."""
        return sorted(name for of, _, name in self.objects if of == kind)

    def _maybe_fail(self, call: str, kind: str) -> None:
        if error := self.failing.get((call, kind)):
            raise error

    # ---- the calls of Cluster

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object."""
        self._maybe_fail("get", kind.kind)
        return deepcopy(self.objects.get((kind.kind, namespace, name)))

    async def list(self, kind: Kind, namespace: str, selector: str = "", **_: str) -> list[Manifest]:
        """The objects with these labels."""
        self._maybe_fail("list", kind.kind)
        wanted = dict(part.partition("=")[::2] for part in selector.split(",") if part)
        return [
            deepcopy(item)
            for (of, where, _name), item in self.objects.items()
            if (of, where) == (kind.kind, namespace) and wanted.items() <= item["metadata"].get("labels", {}).items()
        ]

    async def pages(
        self, kind: Kind, namespace: str, selector: str = "", field_selector: str = ""
    ) -> AsyncIterator[Manifest]:
        """The objects with these labels."""
        for item in await self.list(kind, namespace, selector):
            yield item

    async def list_metadata(self, kind: Kind, namespace: str, selector: str = "") -> AsyncIterator[Manifest]:
        """The metadata of the objects with these labels."""
        for item in await self.list(kind, namespace, selector):
            yield {key: item[key] for key in ("apiVersion", "kind", "metadata")}

    async def serves(self, kind: Kind) -> bool:
        """Whether the cluster has a kind."""
        return kind.kind not in self.kinds_absent

    async def apply(self, body: Mapping[str, Any]) -> Manifest:
        """Server-side apply."""
        self._maybe_fail("apply", body["kind"])
        self.writes.append(f"apply {body['kind']}")
        return self.put(dict(body))

    async def apply_status(self, body: Mapping[str, Any]) -> Manifest:
        """The status of an object."""
        self._maybe_fail("apply_status", body["kind"])
        self.writes.append("status")
        about = body["metadata"]
        item = self.objects[body["kind"], about["namespace"], about["name"]]
        item["status"] = deepcopy(body["status"])
        return deepcopy(item)

    async def annotate(self, kind: Kind, namespace: str, name: str, annotations: Mapping[str, str | None]) -> Manifest:
        """Set annotations."""
        self._maybe_fail("annotate", kind.kind)
        self.writes.append(f"annotate {name}")
        item = self.objects[kind.kind, namespace, name]
        item["metadata"].setdefault("annotations", {}).update(annotations)
        return deepcopy(item)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete one object."""
        self.writes.append(f"delete {kind.kind}")
        assert self.objects.pop((kind.kind, namespace, name))["metadata"]["uid"] == uid

    async def create_event(
        self, namespace: str, about: Mapping[str, Any], kind: str, reason: str, message: str
    ) -> None:
        """Remember an Event."""
        assert namespace
        assert about
        assert message
        self.events.append((kind, reason))


class Reports:
    """What pods answer at /status, by name."""

    def __init__(self, **reports: Manifest) -> None:
        self._known = reports
        self.exact: list[bool] = []  # whether the present state was asked for, by call

    async def reports(self, pods: Iterable[Mapping[str, Any]], *, exact: bool = False) -> dict[str, Manifest]:
        """Those of the pods that answer."""
        self.exact.append(exact)
        names = [pod["metadata"]["name"] for pod in pods]
        return {name: self._known[name] for name in names if name in self._known}
