"""An edit of each class of field reaches the pod: asked of the server that runs, and read from the pod."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dev.localcluster.hub import Hub
from tests.support.cluster.llama import REPO, Llama
from tests.support.models import Models
from tests.support.polling import until
from tools import images

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


def served(llama: Llama, path: str) -> Any:
    """GET of the one pod: the Service leads to the pod before it a moment longer."""
    (pod,) = llama.pods
    with llama.pod_port(pod, 8080) as relay, urllib.request.urlopen(relay.url + path, timeout=30) as answer:
        return json.load(answer)


def until_new(llama: Llama, old: set[str]) -> dict[str, Any]:
    """Wait for the end of the rollout that an edit began; the new pod."""
    until(lambda: llama.pod_uids and not llama.pod_uids & old, "the pod is another", 120, pause=0.2)
    llama.until_ready()
    (pod,) = llama.pods
    return pod


def test_edits_reach_the_pod_and_those_that_do_not_matter_to_it_leave_it(
    llama: Llama, hub: Hub, tmp_path: Path
) -> None:
    llama.apply(serving={"slotsEndpoint": "Enabled"}).until_ready()
    props, slots = served(llama, "/props"), served(llama, "/slots")
    assert (props["total_slots"], props["model_alias"], slots[0]["n_ctx"]) == (2, "model", 256)

    # Many at once: one rollout.
    uids = llama.pod_uids
    llama.apply(
        model={"alias": "renamed"},
        context={"tokensPerSlot": 512, "slots": 3},
        systemPrompt={"inline": "You are terse."},
        chatTemplate={"inline": TEMPLATE},
        engine={"batchTokens": 128, "microBatchTokens": 64, "threads": 1, "extraArgs": ["--n-predict", "33"]},
        serving={"maxQueue": 5, "requestTimeoutSeconds": 77},
        rollout={"drainTimeoutSeconds": 6},
        resources={"requests": {"cpu": "60m", "memory": "130Mi"}, "limits": {"memory": "1Gi"}},
        podTemplate={
            "labels": {"team": "a"},
            "annotations": {"example.com/note": "b"},
            "env": [{"name": "TZ", "value": "Europe/Berlin"}],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            "securityContext": {"fsGroup": 12345, "supplementalGroups": [23456]},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
        },
        kvCache={"manualSlots": "Enabled", "volume": {"emptyDir": {"sizeLimit": "32Mi"}}},
    )
    pod = until_new(llama, uids)
    assert len(llama.cluster.kubectl.items("replicasets", namespace=llama.namespace)) == 2, "one rollout"
    props, slots = served(llama, "/props"), served(llama, "/slots")
    assert (props["total_slots"], props["model_alias"], slots[0]["n_ctx"]) == (3, "renamed", 512)
    assert props["chat_template"] == TEMPLATE
    assert props["default_generation_settings"]["n_predict"] == 33
    status = llama.object["status"]
    assert (status["slots"], status["context"]) == ({"total": 3, "perReplica": 3}, {"totalTokens": 1536})
    metadata, spec = pod["metadata"], pod["spec"]
    assert (metadata["labels"]["team"], metadata["annotations"]["example.com/note"]) == ("a", "b")
    (container,) = spec["containers"]
    assert container["resources"] == {"requests": {"cpu": "60m", "memory": "130Mi"}, "limits": {"memory": "1Gi"}}
    assert spec["securityContext"]["fsGroup"] == 12345
    assert any(item.get("key") == "spot" for item in spec["tolerations"])
    shell = ["exec", metadata["name"], f"--namespace={llama.namespace}", "--container=server", "--"]
    script = "echo $TZ; touch /scratch/a /kv/slots/b; id -G; cat /etc/llamaserver/config/system-prompt"
    told = llama.cluster.kubectl(*shell, "sh", "-c", script).splitlines()
    assert (told[0], told[-1]) == ("Europe/Berlin", "You are terse.")
    assert {"12345", "23456"} <= set(told[1].split())

    # What the pod does not depend on.
    uids = llama.pod_uids
    llama.apply(
        serving={"port": 9000, "serviceType": "NodePort"},
        security={"networkPolicy": {"from": [{"podSelector": {"matchLabels": {"role": "client"}}}]}},
        observability={"labels": {"release": "x"}},
        rollout={"strategy": "Surge"},
    )
    until(lambda: llama.child("service")["spec"]["ports"][0]["port"] == 9000, "the Service's port", 60, pause=0.2)
    until(lambda: llama.object["status"]["endpoint"].endswith(":9000"), "the endpoint is told", 60, pause=0.2)
    service = llama.child("service")["spec"]
    assert service["type"] == "NodePort"
    assert llama.child("networkpolicy")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert llama.complete(ignore_eos=True)["tokens_predicted"] >= 4
    assert llama.pod_uids == uids

    # Another model by another image, a smaller set of fields, back to a plain Service.
    llama.cluster.ctr("images", "tag", "--force", f"localhost/{images.SERVER.tag('cpu')}", "localhost/llamaserver:own")
    hub.add(REPO, "main", "second.gguf", Models(tmp_path).fim())
    llama.apply(
        model={"source": {"huggingFace": {"file": "second.gguf"}}, "alias": None},
        systemPrompt=None,
        chatTemplate=None,
        engine=None,
        podTemplate=None,
        kvCache=None,
        image={"repository": "localhost/llamaserver", "tag": "own", "pullPolicy": "Never"},
        serving={"serviceType": "ClusterIP", "slotsEndpoint": "Disabled"},
    )
    pod = until_new(llama, uids)
    assert "team" not in pod["metadata"]["labels"]
    for container in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]:
        assert (container["image"], container["imagePullPolicy"]) == ("localhost/llamaserver:own", "Never")
    props = served(llama, "/props")
    assert props["model_path"].endswith("/second.gguf")
    assert props["model_alias"] == "model"
    assert llama.object["status"]["model"]["file"] == "second.gguf"
    assert llama.child("service")["spec"]["type"] == "ClusterIP"
    assert "nodePort" not in llama.child("service")["spec"]["ports"][0]
    ours = {"namespace": llama.namespace, "selector": "llamaserver.dev/name=model"}
    until(lambda: not llama.cluster.kubectl.items("configmaps", **ours), "the texts go", 60)
