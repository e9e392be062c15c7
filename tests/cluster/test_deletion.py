"""What goes with an object and what stays; and that nothing waits for an operator that is not there."""

import json

import pytest

from dev.localcluster.hub import Hub
from tests.support.cluster.installed import Installed
from tests.support.cluster.llama import REPO, Llama, spec_of
from tests.support.polling import tried, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

KINDS = (
    "deployments,replicasets,pods,services,serviceaccounts,configmaps,persistentvolumeclaims,"
    "networkpolicies,poddisruptionbudgets"
)
MODEL_CLAIM, KV_CLAIM = "PersistentVolumeClaim/model-model-cache", "PersistentVolumeClaim/model-kv-cache"


def children(llama: Llama) -> dict[str, str]:
    """All that the object has: its uid by kind and name."""
    selector = f"llamaserver.dev/name={llama.name}"
    items = llama.cluster.kubectl.items(KINDS, namespace=llama.namespace, selector=selector)
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"] for item in items}


def volume(retention: str) -> dict[str, object]:
    return {"claimTemplate": {"size": "64Mi"}, "retentionPolicy": retention}


def test_claims_stay_or_go_as_the_spec_says_and_a_kept_one_spares_the_download(llama: Llama, hub: Hub) -> None:
    downloads = len(hub.downloads(REPO))
    llama.apply(model={"cache": volume("Retain")}, kvCache={"volume": volume("Delete")}).until_ready()
    assert len(hub.downloads(REPO)) == downloads + 1
    first, kubectl = children(llama), llama.cluster.kubectl
    assert {MODEL_CLAIM, KV_CLAIM} < set(first)

    # Gone and made anew at once: what the first one had is collected, only the kept claim is the same.
    kubectl.delete("llama", "model", llama.namespace, wait=False)
    llama.apply().until_ready()
    until(lambda: not set(children(llama).values()) & (set(first.values()) - {first[MODEL_CLAIM]}), "only new ones", 90)
    second = children(llama)
    assert {key for key in second if not key.startswith(("Pod/", "ReplicaSet/"))} == {
        key for key in first if not key.startswith(("Pod/", "ReplicaSet/"))
    }
    assert second[MODEL_CLAIM] == first[MODEL_CLAIM]
    assert len(hub.downloads(REPO)) == downloads + 1, "the file was there"

    kubectl.delete("llama", "model", llama.namespace)
    until(lambda: children(llama) == {MODEL_CLAIM: first[MODEL_CLAIM]}, "only the claim is left", 90, pause=0.2)

    # A kept claim of an earlier object goes when the present one says so.
    llama.apply(replicas=0, model={"cache": {"retentionPolicy": "Delete"}})
    llama.until_condition("Ready", "True", "ScaledToZero")
    assert children(llama)[MODEL_CLAIM] == first[MODEL_CLAIM]
    kubectl.delete("llama", "model", llama.namespace)
    until(lambda: not children(llama), "nothing is left", 90, pause=0.2)


def test_without_an_operator_models_serve_and_objects_and_namespaces_go(llama: Llama) -> None:
    other = Llama(llama.cluster, llama.namespace, "other", spec_of(replicas=0)).apply()
    llama.apply(model={"cache": volume("Retain")}).until_ready()
    other.until_condition("Ready", "True", "ScaledToZero")
    kubectl = llama.cluster.kubectl
    with Installed(llama.cluster).away():
        assert llama.complete(ignore_eos=True)["tokens_predicted"] >= 4
        (pod,) = llama.pods
        kubectl.delete("pod", pod["metadata"]["name"], llama.namespace, wait=False)
        until(lambda: ready(llama) - {pod["metadata"]["uid"]}, "another pod is ready", 120, pause=0.2)
        until(tried(lambda: llama.complete(ignore_eos=True)["tokens_predicted"] >= 4), "and serves", 60, pause=0.2)

        late = Llama(llama.cluster, llama.namespace, "late", spec_of()).apply()
        for each in (other, late):
            kubectl("delete", "llama", each.name, f"--namespace={each.namespace}", "--timeout=60s", timeout=70)
            until(lambda each=each: not children(each), f"nothing of {each.name} is left", 60, pause=0.2)
        kubectl("delete", "namespace", llama.namespace, "--timeout=120s", timeout=130)
    # What comes later is looked after as ever.
    body = {"metadata": {"name": llama.namespace}, "apiVersion": "v1", "kind": "Namespace"}
    kubectl("create", "--filename=-", stdin=json.dumps(body))
    other.apply()
    other.until_condition("Ready", "True", "ScaledToZero")


def ready(llama: Llama) -> set[str]:
    """Uids of the pods that are ready."""
    return {
        pod["metadata"]["uid"]
        for pod in llama.pods
        if {"type": "Ready", "status": "True"}.items()
        <= next((item for item in pod["status"].get("conditions", []) if item["type"] == "Ready"), {}).items()
    }
