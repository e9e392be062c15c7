"""Objects that anybody may make with the label of a LlamaServer: only those that count are kept."""

from typing import Any

import pytest
from llamaserver_operator import kinds, names
from llamaserver_operator.errors import Invalid
from llamaserver_operator.labelled import labelled
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.resources.metadata import owner_reference

from tests.support.operator.memory_cluster import MemoryCluster
from tests.support.operator.worlds import CONFIG, OTHER_UID, owner, world

LARGE = "x" * 1_200_000
LISTED = (kinds.DEPLOYMENT, kinds.SERVICE, kinds.CLAIM, kinds.CONFIG_MAP)
VERSIONS = {"Deployment": "apps/v1", "ReplicaSet": "apps/v1"}


def made(kind: str, name: str, controller: str = "", **more: Any) -> dict[str, Any]:
    """An object with the label, and with a controller."""
    owners = [{"uid": controller, "controller": True}] if controller else []
    about = {
        "name": name,
        "namespace": "models",
        "uid": name,
        "labels": names.labels("demo"),
        "ownerReferences": owners,
    }
    return {"apiVersion": VERSIONS.get(kind, "v1"), "kind": kind, "metadata": about, "spec": {}, **more}


def kept_names(items: Any) -> list[str]:
    return [item["metadata"]["name"] for item in items]


async def test_large_pods_and_sets_of_others_are_dropped() -> None:
    uid = owner()["metadata"]["uid"]
    cluster = MemoryCluster(
        made("Deployment", "demo", uid),
        made("ReplicaSet", "set", "demo"),
        made("Pod", "mine", "set"),
        *(made("Pod", f"foreign-{number}", OTHER_UID, status={"message": LARGE}) for number in range(20)),
        *(made("Pod", f"bare-{number}", status={"message": LARGE}) for number in range(20)),
        *(made("ReplicaSet", f"foreign-{number}", OTHER_UID, spec={"x": LARGE}) for number in range(20)),
        *(made("Deployment", f"foreign-{number}", spec={"x": LARGE}) for number in range(20)),
    )
    found = await labelled(cluster, owner(), LISTED)  # type: ignore[arg-type]
    assert kept_names(found.children[kinds.DEPLOYMENT]) == ["demo"]
    assert kept_names(found.replica_sets) == ["set"]
    assert kept_names(found.pods) == ["mine"]


async def test_what_is_ours_and_what_is_in_the_way_is_kept() -> None:
    cluster = MemoryCluster(
        made("Service", "demo", OTHER_UID),  # a stranger, or a child of an earlier object
        made("Service", "former", owner()["metadata"]["uid"]),  # to delete
        made("Service", "another"),
        made("PersistentVolumeClaim", names.model_claim("demo")),  # kept from an earlier object
        made("PersistentVolumeClaim", "data"),
        made("ConfigMap", names.config_map("demo", {"a": "b"})),
        made("ConfigMap", "demo-texts"),
    )
    found = await labelled(cluster, owner(), LISTED)  # type: ignore[arg-type]
    assert kept_names(found.children[kinds.SERVICE]) == ["demo", "former"]
    assert kept_names(found.children[kinds.CLAIM]) == [names.model_claim("demo")]
    assert kept_names(found.children[kinds.CONFIG_MAP]) == [names.config_map("demo", {"a": "b"})]


def test_every_child_has_a_name_that_is_kept() -> None:
    volume = {"claimTemplate": {"size": "1Gi"}}
    spec = parse({
        "model": {"source": {"huggingFace": {"repo": "who/what", "file": "m.gguf"}}, "cache": volume},
        "kvCache": {"volume": volume},
        "systemPrompt": {"inline": "Be brief."},
    })  # fmt: skip
    plan = make_plan(spec, world(spec), CONFIG)
    assert len(plan.apply) > 6
    assert all(names.may_be_of("demo", item["metadata"]["name"]) for item in plan.apply)


async def test_many_large_pods_of_ones_own_are_kept_without_what_is_not_read() -> None:
    container = {"name": "server", "args": ["--slots"], "env": [{"name": "TEXT", "value": "x" * 200_000}]}
    about = [made("Pod", f"pod-{number}", "set", spec={"containers": [dict(container)]}) for number in range(100)]
    for item in about:
        item["metadata"] |= {"annotations": {"a": "x" * 100_000}, "managedFields": [{"f": "x" * 100_000}]}
    cluster = MemoryCluster(
        made("Deployment", "demo", owner()["metadata"]["uid"]), made("ReplicaSet", "set", "demo"), *about
    )
    found = await labelled(cluster, owner(), LISTED)  # type: ignore[arg-type]
    assert len(found.pods) == 100
    assert all(pod["spec"] == {"containers": [{"name": "server", "args": ["--slots"]}]} for pod in found.pods)


async def test_too_much_of_ones_own_is_refused() -> None:
    """Whoever says that the object owns them stops only this object."""
    mine = owner()
    items = [made("Service", f"more-{number}", spec={"x": LARGE}) for number in range(8)]
    for item in items:
        item["metadata"]["ownerReferences"] = [owner_reference(mine)]
    with pytest.raises(Invalid, match="name=demo have more than 8 MiB"):
        await labelled(MemoryCluster(*items), mine, LISTED)  # type: ignore[arg-type]
