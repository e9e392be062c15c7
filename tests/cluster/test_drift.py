"""What others do to the children: it is undone where the operator says so, and left alone where it does not."""

import json
from typing import Any

import pytest
from llamaserver_operator import names

from tests.support.cluster.llama import Llama
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TEXT = "You are terse."
CHILDREN = {
    "deployment": "model",
    "service": "model",
    "serviceaccount": "model",
    "networkpolicy": "model",
    "poddisruptionbudget": "model",
    "configmap": names.config_map("model", {"system-prompt": TEXT}),
    "persistentvolumeclaim": "model-kv-cache",
}
# What a hand changes in each child, as a merge patch.
DRIFT: dict[str, dict[str, Any]] = {
    "deployment": {"spec": {"replicas": 1, "progressDeadlineSeconds": 77}},
    "service": {"spec": {"type": "NodePort", "selector": {"llamaserver.dev/name": "other"}}},
    "serviceaccount": {"automountServiceAccountToken": True},
    "networkpolicy": {"spec": {"podSelector": {"matchLabels": {"llamaserver.dev/name": "other"}}}},
    "poddisruptionbudget": {"spec": {"maxUnavailable": 5}},
    "configmap": {"data": {"system-prompt": "You are verbose."}},
}


def meaning(child: dict[str, Any]) -> dict[str, Any]:
    """A child without what changes at every write."""
    metadata = child["metadata"]
    kept = {key: metadata.get(key) for key in ("name", "labels", "ownerReferences")}
    return {"metadata": kept, **{key: child.get(key) for key in ("spec", "data", "automountServiceAccountToken")}}


def scaled_to_zero(llama: Llama, **changes: Any) -> Llama:
    """All kinds of children, but for a budget, which needs two pods; no pod."""
    volume = {"claimTemplate": {"size": "16Mi", "accessModes": ["ReadWriteMany"]}, "retentionPolicy": "Delete"}
    llama.apply(replicas=0, systemPrompt={"inline": TEXT}, kvCache={"volume": volume}, **changes)
    llama.until_condition("Ready", "True", "ScaledToZero")
    return llama


def with_a_budget(llama: Llama) -> Llama:
    """Two pods that no node takes."""
    scaled_to_zero(llama, podTemplate={"nodeSelector": {"none": "such"}})
    llama.apply(replicas=2)
    llama.until_condition("Ready", "False", "Unschedulable")
    return llama


def test_what_is_changed_by_hand_is_set_right_and_what_is_added_stays(llama: Llama) -> None:
    with_a_budget(llama)
    kubectl = llama.cluster.kubectl
    before = {kind: meaning(llama.child(kind, name)) for kind, name in CHILDREN.items()}
    theirs = {"metadata": {"labels": {"team": "a"}, "annotations": {"example.com/note": "ours"}}}
    for kind, name in CHILDREN.items():
        kubectl.patch(kind, name, theirs, namespace=llama.namespace)
    for kind, change in DRIFT.items():
        kubectl.patch(kind, CHILDREN[kind], change, namespace=llama.namespace)
    for kind, name in CHILDREN.items():
        before[kind]["metadata"]["labels"]["team"] = "a"
        until(lambda kind=kind, name=name: meaning(llama.child(kind, name)) == before[kind], f"{kind} is as before", 60)

    # A label of ours is the way by which the operator finds its children.
    change = {"metadata": {"labels": {"llamaserver.dev/name": None}}}
    for kind in ("service", "deployment"):
        kubectl.patch(kind, CHILDREN[kind], change, namespace=llama.namespace)
        until(lambda kind=kind: meaning(llama.child(kind)) == before[kind], f"{kind} has its label again", 60)

    llama.apply(serving={"port": 9000}, model={"alias": "other"}, systemPrompt={"inline": "You are kind."})
    until(lambda: llama.child("service")["spec"]["ports"][0]["port"] == 9000, "the port is moved", 60)
    until(lambda: "--alias=other" in llama.container()["args"], "the pods' template is another", 60)
    for kind, name in CHILDREN.items():
        metadata = llama.child(kind, name)["metadata"]
        assert (metadata["labels"]["team"], metadata["annotations"]["example.com/note"]) == ("a", "ours"), kind
    ports = llama.child("service")["spec"]["ports"]
    assert [port["port"] for port in ports] == [9000]


def test_what_is_deleted_by_hand_comes_back_and_what_is_not_wanted_any_more_goes(llama: Llama) -> None:
    with_a_budget(llama)
    kubectl = llama.cluster.kubectl
    for kind, name in CHILDREN.items():
        uid = llama.child(kind, name)["metadata"]["uid"]
        kubectl.delete(kind, name, llama.namespace, wait=False)
        until(
            lambda kind=kind, name=name, uid=uid: llama.child(kind, name).get("metadata", {}).get("uid", uid) != uid,
            f"a new {kind}",
            60,
        )
    assert llama.child("service", "model-management")

    llama.apply(replicas=0, security={"networkPolicy": {"mode": "None"}}, systemPrompt=None)
    for kind in ("poddisruptionbudget", "networkpolicy", "configmap"):
        until(lambda kind=kind: not llama.child(kind, CHILDREN[kind]), f"the {kind} goes", 60)
    llama.apply(kvCache=None)
    until(lambda: not llama.child("persistentvolumeclaim", "model-kv-cache"), "the claim goes", 60)
    for kind in ("deployment", "service", "serviceaccount"):
        assert llama.child(kind), kind


def test_a_rollout_restart_gives_new_pods_and_is_not_taken_back(llama: Llama) -> None:
    llama.apply().until_ready()
    before, kubectl = llama.pod_uids, llama.cluster.kubectl
    kubectl("rollout", "restart", "deployment/model", f"--namespace={llama.namespace}")
    kubectl("rollout", "status", "deployment/model", f"--namespace={llama.namespace}", "--timeout=170s", timeout=180)
    until(lambda: llama.pod_uids and not llama.pod_uids & before, "all pods are new", 60)
    restarted, uids = restarted_at(llama), llama.pod_uids
    assert restarted
    # Also after the operator has written the Deployment again, for other reasons.
    kubectl.patch("deployment", "model", {"spec": {"progressDeadlineSeconds": 77}}, namespace=llama.namespace)
    until(lambda: llama.child("deployment")["spec"]["progressDeadlineSeconds"] == 120, "drift is corrected", 60)
    assert (restarted_at(llama), llama.pod_uids) == (restarted, uids)
    llama.until_ready()

    # An image set by hand does not last, nor does the pod that had it.
    container = {"name": "server", "image": "localhost/busybox:1"}
    patch = json.dumps({"spec": {"template": {"spec": {"containers": [container]}}}})
    where = f"--namespace={llama.namespace}"
    wanted = llama.container()["image"]
    kubectl("patch", "deployment", "model", where, "--type=strategic", f"--patch={patch}")
    until(lambda: llama.container()["image"] == wanted, "the image is the wanted one", 60)
    llama.until_ready()
    until(lambda: llama.pod_uids == uids, "the pod that served all the time is the only one", 60)
    assert restarted_at(llama) == restarted


def restarted_at(llama: Llama) -> str:
    """The mark of kubectl rollout restart."""
    annotations = llama.child("deployment")["spec"]["template"]["metadata"].get("annotations", {})
    return str(annotations.get("kubectl.kubernetes.io/restartedAt", ""))
