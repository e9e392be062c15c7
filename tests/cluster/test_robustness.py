"""The operator is killed in the middle of its work, restarted, and loses the API server for a while."""

import json
import random
from pathlib import Path

import pytest

from dev.localcluster.kubectl import Object
from tests.support.cluster.installed import Installed
from tests.support.cluster.llama import Llama, post, spec_of
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SWIFT = ("--lease-seconds=4", "--renew-seconds=2.5", "--retry-seconds=0.2", "--discovery-seconds=2")
KINDS = "deployments,services,serviceaccounts,configmaps,persistentvolumeclaims,networkpolicies,poddisruptionbudgets"
LIVES, OBJECTS = 5, 5  # so many lives of an operator, so many new objects in each


def many(prefix: str, count: int) -> str:
    """Objects without pods, with children of most kinds, as kubectl takes them."""
    volume = {"claimTemplate": {"size": "16Mi"}, "retentionPolicy": "Delete"}
    spec = spec_of(replicas=0, systemPrompt={"inline": "Be brief."}, kvCache={"volume": volume})
    api = {"apiVersion": "llamaserver.dev/v1alpha1", "kind": "LlamaServer"}
    items = [{**api, "metadata": {"name": f"{prefix}-{number}"}, "spec": spec} for number in range(count)]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def children(llama: Llama) -> list[Object]:
    """All children in the namespace."""
    found: list[Object] = llama.cluster.kubectl.items(KINDS, llama.namespace, "llamaserver.dev/name")
    return found


def check_owners(llama: Llama) -> None:
    """Each child has one owner, an object that exists and whose name it bears."""
    owners = {
        item["metadata"]["uid"]: item["metadata"]["name"]
        for item in llama.cluster.kubectl.items("llamaservers", namespace=llama.namespace)
    }
    for child in children(llama):
        metadata = child["metadata"]
        (reference,) = metadata["ownerReferences"]
        assert owners[reference["uid"]] == reference["name"] == metadata["labels"]["llamaserver.dev/name"]


def test_killed_at_any_moment_the_next_one_goes_on(llama: Llama, tmp_path: Path) -> None:
    kubectl, where = llama.cluster.kubectl, f"--namespace={llama.namespace}"
    installed, chance = Installed(llama.cluster), random.Random(1)
    with installed.away():
        for life in range(LIVES):
            kubectl("create", "--filename=-", where, stdin=many(f"life-{life}", OBJECTS))
            enough = len(children(llama)) + chance.randrange(1, 6 * OBJECTS)
            with installed.process(tmp_path / f"{life}.log", f"--watch-namespace={llama.namespace}", *SWIFT) as process:
                until(lambda enough=enough: len(children(llama)) >= enough, "it is in the middle of its work", 90)
                process.kill()
            check_owners(llama)
        # The last one may work in peace.
        with installed.process(tmp_path / "last.log", f"--watch-namespace={llama.namespace}", *SWIFT):
            wanted = {f"life-{life}-{number}" for life in range(LIVES) for number in range(OBJECTS)}
            until(lambda: told(llama) == wanted, "every object is told about", 120, pause=0.5)
        check_owners(llama)
        by_owner: dict[str, list[str]] = {name: [] for name in wanted}
        for child in children(llama):
            by_owner[child["metadata"]["labels"]["llamaserver.dev/name"]].append(child["kind"])
            if child["kind"] == "Deployment":
                assert child["metadata"]["generation"] == 1, "what was there was not changed"
        (kinds,) = {tuple(sorted(found)) for found in by_owner.values()}
        assert kinds == (
            "ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "Service", "Service", "ServiceAccount",
        )  # fmt: skip


def told(llama: Llama) -> set[str]:
    """The objects that have a condition Ready of reason ScaledToZero."""
    found = llama.cluster.kubectl.items("llamaservers", namespace=llama.namespace)
    return {
        item["metadata"]["name"]
        for item in found
        for each in item.get("status", {}).get("conditions", [])
        if (each["type"], each["reason"]) == ("Ready", "ScaledToZero")
    }


def test_without_the_api_server_models_serve_and_after_it_edits_arrive(llama: Llama) -> None:
    llama.apply().until_ready()
    uids, cluster = llama.pod_uids, llama.cluster
    deployment = llama.child("deployment")
    installed = Installed(cluster)
    (operator,) = installed.pods
    with llama.service() as relay:
        cluster.stop("kube-apiserver")
        try:
            answer = post(f"{relay.url}/completion", {"prompt": "Hello", "n_predict": 4, "ignore_eos": True})
        finally:
            cluster.start("kube-apiserver")
    assert answer["tokens_predicted"] >= 4
    llama.apply(serving={"port": 9000})
    until(lambda: llama.child("service")["spec"]["ports"][0]["port"] == 9000, "the edit arrives", 120, pause=0.2)
    llama.until_ready()
    (same,) = installed.pods
    assert same["metadata"]["uid"] == operator["metadata"]["uid"]
    assert same["status"]["containerStatuses"][0]["restartCount"] == 0, "it got over it by itself"

    installed.restart()
    llama.apply(serving={"port": 9001})
    until(lambda: llama.child("service")["spec"]["ports"][0]["port"] == 9001, "the new one is at work", 120, pause=0.2)
    assert llama.pod_uids == uids
    assert llama.child("deployment")["metadata"]["generation"] == deployment["metadata"]["generation"]

    llama.apply(model={"alias": "other"})
    until(lambda: llama.pod_uids and not llama.pod_uids & uids, "a new pod", 120, pause=0.2)
    llama.until_ready()
