"""The admission policy of the chart: what the operator's account may not write, although its role allows it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dev.localcluster import Cluster, product
from dev.localcluster.kubectl import KubectlError, Object
from tests.support.cluster.llama import Llama
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

OPERATOR = f"--as=system:serviceaccount:{product.NAMESPACE}:{product.RELEASE}-llamaserver-operator"
LABELS = {"app.kubernetes.io/managed-by": "llamaserver-operator", "llamaserver.dev/name": "model"}
COST = "controller.kubernetes.io/pod-deletion-cost"


@pytest.fixture
def served(llama: Llama) -> Iterator[Llama]:
    """A model that serves: everything that the operator does for it has passed."""
    llama.apply().until_ready()
    yield llama


def test_the_operator_writes_only_children(served: Llama, cluster: Cluster) -> None:
    kubectl, space = cluster.kubectl, served.namespace
    owner: Object = {
        **{"apiVersion": "llamaserver.dev/v1alpha1", "kind": "LlamaServer", "name": "model", "controller": True},
        "uid": served.object["metadata"]["uid"],
    }

    def create(name: str, **about: Any) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": space, **about}}
        kubectl("create", OPERATOR, "--filename=-", stdin=json.dumps(body))

    def refused(text: str, *arguments: str, stdin: str = "") -> None:
        with pytest.raises(KubectlError, match=text):
            kubectl(*arguments, OPERATOR, f"--namespace={space}", **({"stdin": stdin} if stdin else {}))

    for about in ({}, {"labels": LABELS | {"app.kubernetes.io/managed-by": "me"}, "ownerReferences": [owner]}):
        with pytest.raises(KubectlError, match="only objects with the labels of a child"):
            create("planted", **about)
    for owners in ([], [{**owner, "name": "another"}], [{**owner, "kind": "ConfigMap", "apiVersion": "v1"}]):
        with pytest.raises(KubectlError, match="only objects that the LlamaServer of their label owns"):
            create("planted", labels=LABELS, ownerReferences=owners)
    create("child", labels=LABELS, ownerReferences=[owner])
    kubectl("delete", "configmap", "child", OPERATOR, f"--namespace={space}", "--ignore-not-found")  # or it has done so

    kubectl.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": space}})
    refused("only objects that a LlamaServer owns", "delete", "configmap", "theirs")
    refused("only objects with the labels of a child", "annotate", "configmap", "theirs", "a=b")
    claimed = json.dumps({"metadata": {"labels": LABELS, "ownerReferences": [owner]}})
    refused(
        "only objects that already belong to a LlamaServer",
        *("patch", "configmap", "theirs", "--type=merge", f"--patch={claimed}"),
    )
    kubectl.patch("configmap", "theirs", {"metadata": {"labels": LABELS}}, namespace=space)
    kubectl.delete("configmap", "theirs", space)


def test_an_owner_that_another_has_added_to_a_kept_claim_locks_nobody_out(served: Llama, cluster: Cluster) -> None:
    kubectl, space = cluster.kubectl, served.namespace
    about = {"name": "theirs", "namespace": space}
    kubectl.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": about})
    theirs: Object = {"apiVersion": "v1", "kind": "ConfigMap", "name": "theirs"}
    theirs["uid"] = kubectl.get("configmap", "theirs", space)["metadata"]["uid"]

    def claim(name: str, **reference: Any) -> None:
        made = {"name": name, "namespace": space, "labels": LABELS, "ownerReferences": [theirs | reference]}
        size = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        kubectl.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": made, "spec": size})

    claim("kept")
    kubectl("annotate", "persistentvolumeclaim", "kept", "a=b", OPERATOR, f"--namespace={space}")
    claim("controlled", controller=True)
    with pytest.raises(KubectlError, match="only objects that the LlamaServer of their label owns"):
        kubectl("annotate", "persistentvolumeclaim", "controlled", "a=b", OPERATOR, f"--namespace={space}")


def test_the_operator_changes_one_annotation_of_a_pod(served: Llama, cluster: Cluster) -> None:
    kubectl, space = cluster.kubectl, served.namespace
    (pod,) = served.pods
    name = pod["metadata"]["name"]

    def patch(body: Object, name: str = name) -> str:
        return kubectl(
            "patch", "pod", name, OPERATOR, f"--namespace={space}", "--type=merge", f"--patch={json.dumps(body)}"
        )

    patch({"metadata": {"annotations": {COST: "7"}}})
    assert served.pods[0]["metadata"]["annotations"][COST] == "7"
    image = {"containers": [{**pod["spec"]["containers"][0], "image": "other"}]}
    for body in (
        {"metadata": {"annotations": {"other": "x"}}},
        {"metadata": {"annotations": {COST: "8", "other": "x"}}},
        {"metadata": {"labels": {"llamaserver.dev/name": "another"}}},
        {"metadata": {"finalizers": ["example.com/stays"]}},
        {"spec": image},
    ):
        with pytest.raises(KubectlError, match=f"only the annotation {COST}"):
            patch(body)
    security = {
        **{"allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 1},
        **{"capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    container = {"name": "it", "image": "pause", "securityContext": security}
    about = {"name": "theirs", "namespace": space}
    kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": {"containers": [container]}})
    with pytest.raises(KubectlError, match="changes only those of LlamaServers"):
        patch({"metadata": {"annotations": {COST: "7"}}}, "theirs")


def test_what_the_operator_does_passes(served: Llama, cluster: Cluster) -> None:
    """Children come, change and go, claims are kept and owned, and a scale-down writes its costs."""
    claim = {"claimTemplate": {"size": "1Gi", "accessModes": ["ReadWriteMany"]}, "retentionPolicy": "Retain"}
    served.apply(
        replicas=2,
        systemPrompt={"inline": "Be brief."},
        model={"cache": claim},
        security={"networkPolicy": {"egress": "Any"}},
    ).until_ready()
    served.apply(model={"cache": {"retentionPolicy": "Delete"}}, replicas=1, systemPrompt=None).until_ready()
    until(lambda: served.child("poddisruptionbudget") == {}, "the budget goes", 60, pause=0.25)
    served.apply(security={"networkPolicy": {"mode": "None"}})
    until(lambda: served.child("networkpolicy") == {}, "the policy goes", 60, pause=0.25)
    assert "ValidatingAdmissionPolicy" not in json.dumps(served.object["status"])
    log = cluster.kubectl(
        "logs",
        f"--namespace={product.NAMESPACE}",
        "--selector=app.kubernetes.io/name=llamaserver-operator",
        "--tail=-1",
    )
    assert "ValidatingAdmissionPolicy" not in log
