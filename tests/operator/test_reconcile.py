"""A whole reconcile on a cluster in memory: what is read, written and told."""

from typing import Any

import pytest
from llamaserver_operator import names
from llamaserver_operator.errors import Conflict, Forbidden, Invalid
from llamaserver_operator.reconcile import Reconciler
from llamaserver_operator.resources.metadata import owner_reference

from tests.support.operator.memory_cluster import MemoryCluster, Reports
from tests.support.operator.worlds import CONFIG, OTHER_UID, owner

Manifest = dict[str, Any]
HF = {"huggingFace": {"repo": "who/what", "file": "m.gguf"}}
SPEC = {"model": {"source": HF, "cache": {"claimTemplate": {"size": "1Gi"}}}}


def world(spec: Manifest = SPEC, *others: Manifest, **more: Any) -> tuple[MemoryCluster, Reconciler]:
    cluster = MemoryCluster(owner(spec=spec, **more), *others)
    return cluster, Reconciler(cluster, CONFIG, Reports())  # type: ignore[arg-type]


def condition(cluster: MemoryCluster, kind: str) -> tuple[str, str]:
    status = cluster.objects["LlamaServer", "models", "demo"]["status"]
    (found,) = [item for item in status["conditions"] if item["type"] == kind]
    return found["status"], found["reason"]


async def test_an_object_gets_its_children_and_a_status() -> None:
    cluster, reconciler = world()
    looks_again = await reconciler.reconcile("models", "demo")
    assert looks_again
    assert cluster.names("Deployment") == ["demo"]
    assert len(cluster.names("Service")) == 2
    assert cluster.names("PersistentVolumeClaim") == [names.model_claim("demo")]
    assert condition(cluster, "Accepted") == ("True", "Valid")
    assert condition(cluster, "Ready")[0] == "False"
    assert cluster.writes[-1] == "status"


async def test_the_second_time_nothing_is_written() -> None:
    cluster, reconciler = world()
    await reconciler.reconcile("models", "demo")
    await reconciler.reconcile("models", "demo")  # it sees the Deployment that it has made
    cluster.writes.clear()
    await reconciler.reconcile("models", "demo")
    assert cluster.writes == []


async def test_a_changed_child_is_applied_again() -> None:
    cluster, reconciler = world()
    await reconciler.reconcile("models", "demo")
    service = cluster.objects["Service", "models", "demo"]
    service["spec"]["ports"][0]["port"] = 9
    cluster.writes.clear()
    await reconciler.reconcile("models", "demo")
    assert "apply Service" in cluster.writes
    assert "apply NetworkPolicy" not in cluster.writes


async def test_what_the_spec_no_longer_names_is_deleted() -> None:
    cluster, reconciler = world({**SPEC, "replicas": 0})
    await reconciler.reconcile("models", "demo")
    cluster.put(owner(spec={**SPEC, "replicas": 0, "security": {"networkPolicy": {"mode": "None"}}}, generation=2))
    await reconciler.reconcile("models", "demo")
    assert cluster.names("NetworkPolicy") == []


async def test_no_object_is_no_work() -> None:
    cluster, reconciler = MemoryCluster(), Reconciler(MemoryCluster(), CONFIG, Reports())  # type: ignore[arg-type]
    assert await reconciler.reconcile("models", "demo") is None
    assert cluster.writes == []


async def test_an_object_that_is_being_deleted_gets_no_children() -> None:
    cluster, reconciler = world()
    cluster.objects["LlamaServer", "models", "demo"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert await reconciler.reconcile("models", "demo") is None
    assert cluster.names("Deployment") == []
    assert condition(cluster, "Ready") == ("False", "Deleting")


async def test_an_invalid_spec_is_told() -> None:
    cluster, reconciler = world({"model": {"source": {}}})
    await reconciler.reconcile("models", "demo")
    assert cluster.writes == ["status"]
    assert condition(cluster, "Accepted") == ("False", "InvalidSpec")
    assert ("Warning", "InvalidSpec") in cluster.events


async def test_a_missing_config_map_leaves_all_as_it_is() -> None:
    reference = {"configMapKeyRef": {"name": "texts", "key": "chat.jinja"}}
    cluster, reconciler = world({**SPEC, "chatTemplate": reference})
    await reconciler.reconcile("models", "demo")
    assert cluster.names("Deployment") == []
    assert condition(cluster, "Accepted") == ("False", "ConfigMapNotFound")


async def test_the_name_of_a_stranger_is_a_conflict() -> None:
    about = {"name": "demo", "namespace": "models", "ownerReferences": [{"uid": OTHER_UID, "controller": True}]}
    cluster, reconciler = world(SPEC, {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": {}})
    await reconciler.reconcile("models", "demo")
    assert cluster.names("Deployment") == []
    assert condition(cluster, "Accepted") == ("False", "NameConflict")


async def test_a_child_that_lost_its_label_is_found_by_name() -> None:
    cluster, reconciler = world()
    await reconciler.reconcile("models", "demo")
    cluster.objects["Service", "models", "demo"]["metadata"]["labels"] = {}
    await reconciler.reconcile("models", "demo")
    assert names.NAME_LABEL in cluster.objects["Service", "models", "demo"]["metadata"]["labels"]


@pytest.mark.parametrize(
    ("call", "kind", "error", "reason"),
    [
        ("apply", "Deployment", Forbidden("no"), "Forbidden"),
        ("apply", "Service", Invalid("no"), "Invalid"),
        ("list", "Pod", Forbidden("no"), "Forbidden"),
    ],
)
async def test_a_refusal_is_told_and_tried_again(call: str, kind: str, error: Any, reason: str) -> None:
    cluster, reconciler = world()
    cluster.failing[call, kind] = error
    with pytest.raises(type(error)):
        await reconciler.reconcile("models", "demo")
    assert condition(cluster, "Ready")[1] == reason


async def test_a_status_of_an_object_that_is_gone_is_dropped() -> None:
    cluster, reconciler = world()
    cluster.failing["apply_status", "LlamaServer"] = Conflict("made anew")
    await reconciler.reconcile("models", "demo")
    assert cluster.events == []


async def test_a_scale_down_asks_for_the_present_state_of_the_pods() -> None:
    cluster, _ = world({**SPEC, "replicas": 1, "model": {"source": HF}})
    reports = Reports()
    reconciler = Reconciler(cluster, CONFIG, reports)  # type: ignore[arg-type]
    await reconciler.reconcile("models", "demo")
    cluster.objects["Deployment", "models", "demo"]["spec"]["replicas"] = 2
    await reconciler.reconcile("models", "demo")
    await reconciler.reconcile("models", "demo")
    assert reports.exact == [False, True, False]


def pod(**status: Any) -> Manifest:
    """A pod of the Deployment's ReplicaSet."""
    about = {
        **{"name": "demo-1-a", "namespace": "models", "uid": "pod", "labels": {**names.labels("demo"), "x": "1"}},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "demo-1", "uid": "set", "controller": True}],
    }
    about["labels"]["pod-template-hash"] = "1"
    containers = [{"name": "server", "image": "i", "args": []}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": {"containers": containers}, "status": status}


def with_pod(cluster: MemoryCluster, made: Manifest) -> None:
    deployment = cluster.objects["Deployment", "models", "demo"]
    about = {
        **{"name": "demo-1", "namespace": "models", "uid": "set", "labels": {**names.labels("demo")}},
        "annotations": {"deployment.kubernetes.io/revision": "1"},
        "ownerReferences": [{"kind": "Deployment", "uid": deployment["metadata"]["uid"], "controller": True}],
    }
    about["labels"]["pod-template-hash"] = "1"
    template = {"metadata": {"labels": about["labels"]}, "spec": deployment["spec"]["template"]["spec"]}
    cluster.put(
        {
            **{"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": about},
            "spec": {"replicas": 1, "template": template},
        }
    )
    cluster.put(made)


async def test_events_of_a_pod_that_does_not_start_are_read() -> None:
    cluster, reconciler = world()
    await reconciler.reconcile("models", "demo")
    made = pod(phase="Pending")
    made["spec"]["nodeName"] = "node-1"
    with_pod(cluster, made)
    event = {
        **{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "models"}, "type": "Warning"},
        **{"reason": "FailedMount", "message": "no disk", "lastTimestamp": "2026-01-01T00:00:00Z"},
        "involvedObject": {"uid": "pod"},
    }
    cluster.put(event)
    await reconciler.reconcile("models", "demo")
    assert condition(cluster, "Ready")[0] == "False"


async def test_many_large_events_are_not_kept() -> None:
    cluster, reconciler = world()
    for number in range(600):
        about = {"name": f"e{number:03}", "namespace": "models", "annotations": {"a": "x" * 10_000}}
        event = {"type": "Warning", "reason": "FailedMount", "message": f"{'x' * 10_000}{number}"}
        cluster.put({"apiVersion": "v1", "kind": "Event", "metadata": about, "involvedObject": {"uid": "pod"}, **event})
    kept = await reconciler._events("models", {"metadata": {"uid": "pod"}})
    assert len(kept) == 500
    assert kept[-1]["message"].endswith("599"), "the latest"
    assert max(len(str(event)) for event in kept) < 5000


async def test_claims_of_a_pod_without_a_node_are_read() -> None:
    cluster, reconciler = world()
    await reconciler.reconcile("models", "demo")
    made = pod(phase="Pending")
    made["spec"]["volumes"] = [{"name": "models", "persistentVolumeClaim": {"claimName": names.model_claim("demo")}}]
    with_pod(cluster, made)
    cluster.objects["PersistentVolumeClaim", "models", names.model_claim("demo")]["status"] = {"phase": "Pending"}
    await reconciler.reconcile("models", "demo")
    assert condition(cluster, "Ready")[0] == "False"


async def test_leftovers_of_an_earlier_object_are_looked_at_ever_later() -> None:
    """A finalizer may keep them for days."""
    about = {
        **{"name": "demo", "namespace": "models", "labels": names.labels("demo")},
        "ownerReferences": [{**owner_reference(owner()), "uid": OTHER_UID}],
    }
    cluster, reconciler = world(SPEC, {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": {}})
    assert await reconciler.reconcile("models", "demo") == 1.0
    assert condition(cluster, "Accepted") == ("False", "WaitingForDeletion")
    status = cluster.objects["LlamaServer", "models", "demo"]["status"]
    for item in status["conditions"]:
        item["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    assert await reconciler.reconcile("models", "demo") == 60.0
