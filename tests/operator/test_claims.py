"""Claims without a volume, and claims of an earlier object: message and field."""

from dataclasses import replace
from typing import Any

import pytest
from llamaserver_operator import kinds
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.resources.metadata import owner_reference
from llamaserver_operator.rollout import claim_field, claims_of

from tests.support.operator.worlds import CONFIG, UID, Manifest, owner, pod, told, world

HTTP = {"http": {"url": "http://models.example/model.gguf"}}
PLAIN: Manifest = {"model": {"source": HTTP}}
TEMPLATE = {"size": "1Gi", "storageClassName": "fast-nvme"}
CACHED: Manifest = {"model": {"source": HTTP, "cache": {"claimTemplate": TEMPLATE}}}


UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
NO_CPU = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available."
NO_CLASS = 'storageclass.storage.k8s.io "fast-nvme" not found'


def unplaced(message: str = UNBOUND, reason: str = "Unschedulable") -> Manifest:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return pod(node="", phase="Pending", conditions=[condition])


def claim(name: str) -> Manifest:
    return {"metadata": {"name": name, "uid": f"uid-of-{name}"}, "status": {"phase": "Pending"}}


def event(name: str, reason: str, message: str, kind: str = "Warning", at: str = "2026-01-01T00:00:00Z") -> Manifest:
    about = {"kind": "PersistentVolumeClaim", "name": name, "uid": f"uid-of-{name}"}
    return {"type": kind, "reason": reason, "message": message, "lastTimestamp": at, "involvedObject": about}


def waiting(name: str, *events: Manifest) -> dict[str, Any]:
    return {"pending_claims": [claim(name)], "warnings": list(events)}


MODEL_CLAIM = "demo-model-cache"
FAILED = event(MODEL_CLAIM, "ProvisioningFailed", NO_CLASS)


def test_a_claim_without_a_storage_class() -> None:
    assert told(CACHED, unplaced(), **waiting(MODEL_CLAIM, FAILED)) == (
        "Scheduled",
        "ClaimPending",
        f"claim demo-model-cache is Pending: {NO_CLASS} (spec.model.cache.claimTemplate.storageClassName)",
    )


@pytest.mark.parametrize(
    ("raw", "name", "text", "field"),
    [
        (CACHED, MODEL_CLAIM, "rpc error: quota of disks", "spec.model.cache.claimTemplate"),
        (CACHED, MODEL_CLAIM, "no storage class is set", "spec.model.cache.claimTemplate.storageClassName"),
        ({"model": {"source": HTTP, "cache": {"claimName": "c"}}}, "c", NO_CLASS, "spec.model.cache.claimName"),
        ({**PLAIN, "kvCache": {"volume": {"claimTemplate": TEMPLATE}}}, "demo-kv-cache", NO_CLASS,
         "spec.kvCache.volume.claimTemplate.storageClassName"),
        ({**PLAIN, "kvCache": {"volume": {"claimName": "k"}}}, "k", "none", "spec.kvCache.volume.claimName"),
        ({"model": {"source": {"persistentVolumeClaim": {"claimName": "m", "path": "m.gguf"}}}}, "m", "none",
         "spec.model.source.persistentVolumeClaim.claimName"),
        ({**PLAIN, "loraAdapters": [
            {"name": "a", "source": {"persistentVolumeClaim": {"claimName": "l", "path": "a.gguf"}}}
        ]}, "l", "none", "spec.loraAdapters[a].source.persistentVolumeClaim.claimName"),
        (PLAIN, "new-0-scratch", "none", "spec.podTemplate.volumes"),
    ],
)  # fmt: skip
def test_a_pending_claim_is_shown_with_its_field(raw: Manifest, name: str, text: str, field: str) -> None:
    found = told(raw, unplaced(), **waiting(name, event(name, "ProvisioningFailed", text)))
    assert found == ("Scheduled", "ClaimPending", f"claim {name} is Pending: {text} ({field})")


def test_a_missing_default_class_is_a_failure_although_its_event_is_normal() -> None:
    text = "no persistent volumes available for this claim and no storage class is set"
    found = told(CACHED, unplaced(), **waiting(MODEL_CLAIM, event(MODEL_CLAIM, "FailedBinding", text, "Normal")))
    assert found
    assert found[1:] == ("ClaimPending", f"claim {MODEL_CLAIM} is Pending: {text} "
                         "(spec.model.cache.claimTemplate.storageClassName)")  # fmt: skip


WAITS = event(MODEL_CLAIM, "WaitForFirstConsumer", "waiting for first consumer to be created before binding", "Normal")
PROVISIONING = event(MODEL_CLAIM, "ExternalProvisioning", "Waiting for a volume", "Normal", "2026-01-01T00:09:00Z")
LATER = "2026-01-01T00:05:00Z"


@pytest.mark.parametrize(
    ("message", "events", "reason"),
    [
        # A claim that waits for its pod is no trouble, whatever keeps the pod from being placed.
        (NO_CPU, [WAITS], "Unschedulable"),
        (NO_CPU, [FAILED, {**WAITS, "lastTimestamp": LATER}], "Unschedulable"),
        ("0/1 nodes: 1 node(s) didn't find available persistent volumes to bind.", [WAITS], "Unschedulable"),
        ("0/1 nodes: 1 node(s) had volume node affinity conflict", [FAILED, {**WAITS, "lastTimestamp": LATER}],
         "Unschedulable"),
        # Nor is an old failure, when the scheduler has another reason.
        (NO_CPU, [FAILED], "Unschedulable"),
        (UNBOUND, [], "Unschedulable"),
        # A provisioner that tries again, and fails again, is.
        (UNBOUND, [FAILED, PROVISIONING], "ClaimPending"),
        (UNBOUND, [WAITS, {**FAILED, "lastTimestamp": LATER}, PROVISIONING], "ClaimPending"),
        (UNBOUND, [WAITS, FAILED], "ClaimPending"),
        (UNBOUND, [{**FAILED, "lastTimestamp": None, "eventTime": None}], "ClaimPending"),
    ],
)  # fmt: skip
def test_a_claim_that_waits_for_its_pod_is_no_trouble(message: str, events: list[Manifest], reason: str) -> None:
    found = told(CACHED, unplaced(message), **waiting(MODEL_CLAIM, *events))
    assert found
    assert found[1] == reason
    assert reason == "ClaimPending" or found[2] == message


def test_a_volume_that_cannot_be_made_after_the_node_was_chosen() -> None:
    """With late binding, the scheduler has no message for ten minutes, and then another one."""
    text = 'failed to provision volume with StorageClass "fast-nvme": rpc error: no such type'
    more = waiting(MODEL_CLAIM, WAITS, event(MODEL_CLAIM, "ProvisioningFailed", text, at=LATER))
    for one in (pod(node="", phase="Pending", conditions=[]), unplaced("timed out", "SchedulerError")):
        found = told(CACHED, one, **more)
        assert found
        assert found[1] == "ClaimPending"
        assert text in found[2]
    assert told(CACHED, pod(node="", phase="Pending", conditions=[]), **waiting(MODEL_CLAIM, WAITS)) is None


def test_events_of_a_claim_are_ignored_once_the_pod_has_a_node() -> None:
    assert told(CACHED, pod(phase="Pending"), **waiting(MODEL_CLAIM, FAILED)) is None


def test_the_claims_of_a_pod() -> None:
    volumes = [
        {"name": "a", "persistentVolumeClaim": {"claimName": "one"}}, {"name": "b", "ephemeral": {}},
        {"name": "c", "emptyDir": {}},
    ]  # fmt: skip
    assert claims_of({"metadata": {"name": "new-0"}, "spec": {"volumes": volumes}}) == {"one", "new-0-b"}
    assert claims_of(pod()) == set()


def test_a_claim_that_no_field_names() -> None:
    assert claim_field(parse(PLAIN), "demo", "other") == "spec.podTemplate.volumes"


# ---- claims of an earlier object


def kept(modes: list[str], **more: Any) -> Manifest:
    about = {"name": MODEL_CLAIM, "namespace": "models", "labels": {"llamaserver.dev/name": "demo"}, "uid": "u"}
    spec = {"accessModes": modes, "storageClassName": "fast-nvme", "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": {**spec, **more}}


def asks(**template: Any) -> Manifest:
    return {"model": {"source": HTTP, "cache": {"claimTemplate": {**TEMPLATE, **template}}}}


def planned(raw: Manifest, live: Manifest) -> Any:
    spec = parse(raw)
    return make_plan(spec, replace(world(spec), children={kinds.CLAIM: [live]}), CONFIG)


DELETE = "or delete the claim (the model is downloaded again): kubectl delete pvc demo-model-cache --namespace=models"


def test_a_retained_claim_of_another_access_mode_is_a_conflict_with_a_remedy() -> None:
    plan = planned(asks(accessModes=["ReadWriteMany"]), kept(["ReadWriteOnce"]))
    assert [(item.reason, item.message, item.blocking) for item in plan.problems] == [
        (
            "ClaimConflict",
            "claim demo-model-cache of an earlier object or spec has accessModes ReadWriteOnce, "
            f"but spec.model.cache.claimTemplate asks for ReadWriteMany. Ask for ReadWriteOnce, {DELETE}",
            True,
        )
    ]
    assert plan.apply == ()


def test_a_retained_claim_of_another_class_is_a_conflict() -> None:
    (problem,) = planned(asks(), kept(["ReadWriteOnce"], storageClassName="slow")).problems
    assert problem.message == (
        "claim demo-model-cache of an earlier object or spec has storageClassName slow, "
        f"but spec.model.cache.claimTemplate asks for fast-nvme. Ask for slow, {DELETE}"
    )


def test_a_claim_that_is_being_deleted_needs_no_command() -> None:
    live = kept(["ReadWriteOnce"])
    live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    (problem,) = planned(asks(accessModes=["ReadWriteMany"]), live).problems
    assert problem.message.endswith("It is being deleted and waits for the pods that mount it")
    assert "kubectl" not in problem.message


def test_a_conflict_says_that_conversations_would_be_lost() -> None:
    live = kept(["ReadWriteOnce"])
    live["metadata"]["name"] = "demo-kv-cache"
    volume = {"claimTemplate": {**TEMPLATE, "accessModes": ["ReadWriteMany"]}}
    (problem,) = planned({**PLAIN, "kvCache": {"volume": volume}}, live).problems
    assert "spec.kvCache.volume.claimTemplate asks for" in problem.message
    assert problem.message.endswith(
        "(the conversations in it are lost): kubectl delete pvc demo-kv-cache --namespace=models"
    )


@pytest.mark.parametrize(
    ("raw", "live"),
    [
        (asks(), kept(["ReadWriteOnce"])),
        (asks(size="2Gi"), kept(["ReadWriteOnce"])),
        (asks(storageClassName=None), kept(["ReadWriteOnce"], storageClassName="whatever")),
        (asks(accessModes=["ReadWriteMany", "ReadWriteOnce"]), kept(["ReadWriteOnce", "ReadWriteMany"])),
        # it is mounted from elsewhere, and not made
        ({"model": {"source": HTTP, "cache": {"claimName": "other"}}}, kept(["ReadWriteOnce"])),
    ],
)
def test_a_retained_claim_that_fits_is_used(raw: Manifest, live: Manifest) -> None:
    assert planned(raw, live).problems == ()


def test_a_claim_owned_by_an_earlier_object_is_waited_for() -> None:
    live = kept(["ReadWriteOnce"])
    live["metadata"]["ownerReferences"] = [{**owner_reference(owner()), "uid": "another"}]
    plan = planned(asks(accessModes=["ReadWriteMany"]), live)
    assert (plan.waits, [item.reason for item in plan.problems]) == (True, ["WaitingForDeletion"])
    live["metadata"]["ownerReferences"] = [{"uid": UID, "controller": True}]
    assert [item.reason for item in planned(asks(accessModes=["ReadWriteMany"]), live).problems] == ["ClaimConflict"]
