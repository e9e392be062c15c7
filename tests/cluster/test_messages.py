"""What users are told, and with which field; what they wrote reaches the pods as it was, whatever its characters."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from llamaserver_operator.cluster import Cluster as Client
from llamaserver_operator.metrics import Metrics
from llamaserver_operator.owned import ARGUMENTS, VARIABLES

from dev.localcluster import Cluster
from dev.localcluster.kubectl import KubectlError, Object
from tests.support.characters import SPECIAL
from tests.support.cluster.llama import Llama, get, post
from tests.support.polling import until
from tests.support.server import certificates
from tools import images

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TEXT = "".join(SPECIAL.values()).replace("\0", "")
# What a container's argument or variable, and a line of a log, can hold.
LINE = "🦙 👩🏽‍🚀 a\x85b\u2028c \ufeff \x7f \U0010ffff $(HOME) $$ \"'"


def named(llama: Llama, name: str) -> Llama:
    return Llama(llama.cluster, llama.namespace, name)


def create(llama: Llama, kind: str, name: str, version: str = "v1", **more: Any) -> None:
    about = {"name": name, "namespace": llama.namespace}
    llama.cluster.kubectl.create({"apiVersion": version, "kind": kind, "metadata": about, **more})


# ---- any character


@pytest.fixture
async def client(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    async with await Client.connect(Metrics()) as made:
        yield made


@pytest.mark.parametrize("name", SPECIAL)
async def test_the_api_server_reads_what_the_operator_sends(client: Client, namespace: str, name: str) -> None:
    about = {"namespace": namespace, "name": "thing", "annotations": {"note": SPECIAL[name]}}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"text": SPECIAL[name]}}
    made = await client.apply(body)
    assert (made["data"]["text"], made["metadata"]["annotations"]["note"]) == (SPECIAL[name], SPECIAL[name])
    again = await client.apply(body)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_any_character_in_any_text(llama: Llama) -> None:
    env = [{"name": "NOTE", "value": TEXT}]
    template = (
        "{# "
        + TEXT.replace("{}", "").replace("#", "")
        + " #}{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    llama.apply(
        model={"alias": LINE},
        systemPrompt={"inline": f"Be brief. {LINE}"},
        chatTemplate={"inline": template},
        podTemplate={"annotations": {"example.com/note": TEXT}, "env": env},
    ).until_ready()
    (pod,) = llama.pods
    assert pod["metadata"]["annotations"]["example.com/note"] == TEXT
    assert {"name": "NOTE", "value": TEXT} in llama.container()["env"]
    texts = llama.cluster.kubectl.items("configmaps", namespace=llama.namespace)
    (texts,) = [item["data"] for item in texts if item["metadata"]["name"].startswith("model-config-")]
    assert texts == {"system-prompt": f"Be brief. {LINE}", "chat-template": template}
    with llama.service() as relay:
        assert [item["id"] for item in get(f"{relay.url}/v1/models")["data"]] == [LINE]
        props = get(f"{relay.url}/props")
        assert props["chat_template"].replace("\r\n", "\n") == template.replace("\r\n", "\n")
        message = {"messages": [{"role": "user", "content": "🦙"}], "max_tokens": 2}
        assert post(f"{relay.url}/v1/chat/completions", message)["model"] == LINE
    llama.apply(model={"alias": "🦙🦙"}, systemPrompt={"inline": "🦙"}).until_ready()
    until(lambda: len(llama.pods) == 1, "one pod is left")
    (pod,) = llama.pods  # asked itself: the Service leads to the pod before it until the node's proxy has heard
    with llama.pod_port(pod, 8080) as relay:
        assert [item["id"] for item in get(f"{relay.url}/v1/models")["data"]] == ["🦙🦙"]


# ---- status


def test_status_tells_what_the_pods_have(llama: Llama) -> None:
    llama.apply(context={"tokensPerSlot": 128, "slots": 1}).until_ready()
    assert llama.object["status"]["slots"] == {"total": 1, "perReplica": 1}
    wish: Object = {"context": {"tokensPerSlot": 256, "slots": 8}, "security": {"tls": {"secretName": "later"}}}
    llama.apply(**wish)
    llama.until_condition("Progressing", "False", "SecretNotFound")
    status = llama.object["status"]
    assert (status["slots"], status["context"]) == ({"total": 1, "perReplica": 1}, {"totalTokens": 128})
    assert status["endpoint"].startswith("http://")
    llama.apply(security={"tls": None}).until_ready()
    status = llama.object["status"]
    assert (status["slots"], status["context"]) == ({"total": 8, "perReplica": 8}, {"totalTokens": 2048})


# ---- claims


def test_a_claim_that_gets_no_volume_is_told_with_its_field(llama: Llama) -> None:
    missing = {"size": "64Mi", "storageClassName": "fast-nvme"}
    cache, store = named(llama, "cache"), named(llama, "store")
    cache.apply(model={"cache": {"claimTemplate": missing}})
    store.apply(kvCache={"persistence": "Continuous", "volume": {"claimTemplate": missing}})
    for one, claim, field in (
        (cache, "cache-model-cache", "spec.model.cache.claimTemplate.storageClassName"),
        (store, "store-kv-cache", "spec.kvCache.volume.claimTemplate.storageClassName"),
    ):
        message = one.until_condition("Scheduled", "False", "ClaimPending")
        assert message == f'claim {claim} is Pending: storageclass.storage.k8s.io "fast-nvme" not found ({field})'
        assert one.condition("Ready")[1:] == ("ClaimPending", message)
        one.until_event("ClaimPending")


def test_a_claim_that_waits_for_its_pod_is_not_blamed(llama: Llama) -> None:
    llama.apply(model={"cache": {"claimTemplate": {"size": "64Mi"}}}, resources={"requests": {"cpu": "1000"}})
    message = llama.until_condition("Scheduled", "False", "Unschedulable")
    assert "Insufficient cpu" in message
    claim = llama.child("persistentvolumeclaim", "model-model-cache")
    assert claim["status"]["phase"] == "Pending"
    llama.apply(resources={"requests": {"cpu": "50m"}}).until_ready()


def test_a_claim_of_an_earlier_object_is_a_conflict_with_a_remedy(llama: Llama) -> None:
    def template(mode: str) -> Object:
        return {"cache": {"claimTemplate": {"size": "64Mi", "accessModes": [mode]}}}

    llama.apply(model=template("ReadWriteOnce")).until_ready()
    llama.cluster.kubectl.delete("llamaserver", llama.name, llama.namespace)
    llama.apply(model=template("ReadWriteMany"))
    message = llama.until_condition("Accepted", "False", "ClaimConflict")
    command = f"kubectl delete pvc model-model-cache --namespace={llama.namespace}"
    assert message == (
        "claim model-model-cache of an earlier object or spec has accessModes ReadWriteOnce, "
        "but spec.model.cache.claimTemplate asks for ReadWriteMany. Ask for ReadWriteOnce, or delete the claim "
        f"(the model is downloaded again): {command}"
    )
    llama.until_event("ClaimConflict")
    llama.cluster.kubectl(*command.split()[1:])
    llama.until_ready()


# ---- memory, storage of the node, quotas


def test_memory_is_told_with_the_limit_and_the_context(llama: Llama) -> None:
    memory = {"requests": None, "limits": {"memory": "48Mi"}}
    llama.apply(context={"tokensPerSlot": 4096, "slots": 8}, resources=memory)
    message = llama.until_condition("Progressing", "False", "OOMKilled")
    assert message.startswith("container server was killed at its memory limit of 48Mi")
    assert "the context 8 x 4,096 tokens. Raise spec.resources.limits.memory, or lower spec.context" in message


def test_storage_of_the_node_is_told_with_what_fills_it(llama: Llama) -> None:
    model = {"source": {"huggingFace": {"file": "chat.gguf"}}}
    limits: Object = {"limits": {"ephemeral-storage": "50Mi"}}
    llama.apply(model=model, resources=limits)

    def told() -> str:
        found = [text for _, reason, text in llama.events() if reason == "Evicted"]
        return found[0] if found else ""

    until(lambda: bool(told()), "an eviction is told", 300, pause=1)
    assert "exceeds the total limit of containers 50Mi. Without spec.model.cache the model" in told()
    assert (
        "is on the scratch volume of the pod. Set spec.model.cache, or raise spec.resources.limits.ephemeral" in told()
    )


def test_a_quota_that_stops_a_rollout_is_told_with_a_remedy(llama: Llama) -> None:
    llama.apply().until_ready()
    create(llama, "ResourceQuota", "q", spec={"hard": {"pods": "1"}})
    until(lambda: llama.child("resourcequota", "q").get("status", {}).get("used"), "the quota counts")
    llama.apply(model={"alias": "other"})
    message = llama.until_condition("Progressing", "False", "FailedCreate")
    assert "exceeded quota: q" in message
    assert message.endswith(
        ". The quota has no room for another pod while the old one serves. Raise it, or set "
        "spec.rollout.strategy to Replace"
    )
    assert llama.complete()["tokens_predicted"]
    llama.apply(rollout={"strategy": "Replace"}).until_ready()


# ---- nodes and files


def test_a_node_that_cannot_mount_images_is_told_with_its_runtime(llama: Llama) -> None:
    image = f"localhost/{images.SERVER.tag('cpu')}"
    source = {"huggingFace": None, "image": {"reference": image, "path": "model.gguf"}}
    llama.apply(model={"source": source})
    message = llama.until_condition("Progressing", "False", "ImageVolumesUnsupported")
    node = llama.cluster.kubectl.get("node", llama.cluster.node)
    runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"].replace("://", " ")
    assert message == (
        f"node {llama.cluster.node} ({runtime}) cannot mount image volumes (spec.model.source.image). "
        "It needs containerd 2.1 or CRI-O 1.33 or later"
    )


def test_a_secret_without_a_certificate_is_told_by_name(llama: Llama, tmp_path: Path) -> None:
    one, two = certificates.make(tmp_path, "one"), certificates.make(tmp_path, "two")
    pair = {"tls.crt": one[0].read_text(), "tls.key": one[1].read_text()}
    wrong: dict[str, tuple[dict[str, str], str]] = {
        "garbage": ({**pair, "tls.crt": "garbage"}, "tls.crt is no PEM certificate"),
        "no-key": ({**pair, "tls.key": ""}, "tls.key is empty"),
        "other-key": ({**pair, "tls.key": two[1].read_text()}, "tls.key does not belong to tls.crt"),
    }
    for name, (data, _) in wrong.items():
        create(llama, "Secret", name, stringData=data)
        named(llama, name).apply(security={"tls": {"secretName": name}})
    for name, (_, text) in wrong.items():
        message = named(llama, name).until_condition("Progressing", "False", "BadArguments")
        assert message == f'Secret "{name}" (spec.security.tls): {text}'


# ---- options that are fields


def refusal(llama: Llama, **changes: Any) -> str:
    with pytest.raises(KubectlError) as refused:
        named(llama, "refused").apply(**changes)
    return str(refused.value)


def test_an_option_that_is_a_field_is_refused_with_the_field(llama: Llama) -> None:
    """By the API server itself, for each of them."""
    for flag, means in ARGUMENTS.items():
        for arguments in ([flag], ["--no-mmap", f"{flag}=1"]):
            text = refusal(llama, engine={"extraArgs": arguments})
            assert "spec.engine.extraArgs: Invalid value: " in text
            assert f": {flag} is {means}" in text


def test_a_variable_that_is_a_field_is_refused(llama: Llama) -> None:
    """By the API server itself, for each of them."""
    for variable in VARIABLES:
        text = refusal(llama, podTemplate={"env": [{"name": variable, "value": "1"}]})
        assert f"{variable} sets an option that belongs to a field of this object or to the operator" in text
    llama.apply(podTemplate={"env": [{"name": "LLAMA_ARG_N_PREDICT", "value": "3"}]}).until_ready()
