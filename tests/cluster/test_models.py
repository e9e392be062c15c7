"""Where models, adapters, projectors and texts come from, and that all of them reach the server."""

import json
import urllib.request
from pathlib import Path

import pytest

from dev.localcluster.hub import Hub
from dev.localcluster.kubectl import Object
from tests.support.cluster.llama import REPO, Llama, get, post
from tests.support.images import base64_of, png
from tests.support.models import Models
from tests.support.polling import tried, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def test_a_file_on_an_existing_claim(llama: Llama, hub: Hub) -> None:
    kubectl, namespace = llama.cluster.kubectl, llama.namespace
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
    about = {"name": "mine", "namespace": namespace}
    kubectl.create(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": claim},
        fills_claim(
            namespace, "mine", f"mkdir -p /data/a && wget -O /data/a/b.gguf {hub.url}/{REPO}/resolve/main/tiny.gguf"
        ),
    )
    kubectl(
        "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/fills", f"--namespace={namespace}", "--timeout=60s"
    )
    before = len(hub.requests)
    source = {"huggingFace": None, "persistentVolumeClaim": {"claimName": "mine", "path": "a/other.gguf"}}
    llama.apply(model={"source": source})
    message = llama.until_condition("ModelAvailable", "False", "ModelLoadFailed")
    assert "a/other.gguf" in message
    llama.apply(model={"source": {"persistentVolumeClaim": {"path": "a/b.gguf"}}}).until_ready()
    assert llama.complete()["tokens_predicted"]
    assert llama.object["status"]["model"]["file"] == "b.gguf"
    assert "initContainers" not in llama.pods[-1]["spec"]
    assert len(hub.requests) == before


def fills_claim(namespace: str, claim: str, command: str) -> Object:
    """A pod that puts something on a claim at /data."""
    container = {
        "name": "fills",
        "image": "localhost/busybox:1",
        "command": ["sh", "-ec", command],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsUser": 1000, "fsGroup": 10001},
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fills", "namespace": namespace}, "spec": spec}


def test_adapters_projector_and_texts_reach_the_server(llama: Llama, hub: Hub, tmp_path: Path) -> None:
    models = Models(tmp_path)
    hub.add("extras/models", "main", "lora.gguf", models.lora())
    projector = hub.add("extras/models", "main", "mmproj.gguf", models.projector())

    def template(text: str) -> Object:
        about = {"name": "texts", "namespace": llama.namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"chat.jinja": text}}

    llama.cluster.kubectl.create(template("one {{ messages[0].content }}"))
    llama.apply(
        loraAdapters=[
            {
                "name": "seven",
                "source": {"huggingFace": {"repo": "extras/models", "file": "lora.gguf"}},
                "scale": 0.25,
            }
        ],
        projector={"source": {"http": {"url": projector}}},
        chatTemplate={"configMapKeyRef": {"name": "texts", "key": "chat.jinja"}},
        systemPrompt={"inline": json.dumps({"prompt": "Be kind.", "assistant_name": "Al", "anti_prompt": "Me:"})},
        model={"alias": "many-parts"},
    ).until_ready()
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    with llama.service() as relay:
        with urllib.request.urlopen(f"{relay.url}/lora-adapters", timeout=10) as answer:
            (adapter,) = json.load(answer)
        assert adapter["path"].endswith("/lora.gguf") and adapter["scale"] == 0.25
        props = get(f"{relay.url}/props")
        assert props["modalities"]["vision"] is True
        assert (props["assistant_name"], props["user_name"], props["model_alias"]) == ("Al", "Me:", "many-parts")
        assert post(f"{relay.url}/apply-template", chat) == {"prompt": "one hello"}
        images = [{"id": 1, "data": base64_of(png(1))}]
        assert llama.complete("See [img-1]", image_data=images)["tokens_evaluated"] > 16

    before = llama.pod_uids
    llama.cluster.kubectl.apply(template("two {{ messages[0].content }}"))
    until(lambda: llama.pod_uids and not llama.pod_uids & before, "the change rolls the pods", 120, pause=0.5)
    llama.until_ready()
    with llama.service() as relay:
        new = {"prompt": "two hello"}
        told = tried(lambda: post(f"{relay.url}/apply-template", chat) == new)
        until(told, "the new pod answers", 30, pause=0.5)
    llama.apply(systemPrompt={"inline": json.dumps({"prompt": "Be kind.", "assistant_name": "Bo"})}).until_ready()
    with llama.service() as relay:  # which leads to the old pod a moment longer
        named = tried(lambda: get(f"{relay.url}/props")["assistant_name"] == "Bo")
        until(named, "the new pod answers", 30, pause=0.5)
