"""A chat template that is none: it reaches nobody, what serves goes on, and the object says what is wrong with it."""

import json
from pathlib import Path

import pytest

from dev.localcluster.hub import Hub
from tests.support.cluster.llama import REPO, Llama, get, post
from tests.support.models import Models

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

GOOD = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
BROKEN = "{% for message in messages %}\n{{ message.content }\n{% endfor %}"
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


def put_template(llama: Llama, text: str) -> None:
    """The ConfigMap that the object names."""
    about = {"name": "texts", "namespace": llama.namespace}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"chat.jinja": text}}
    llama.cluster.kubectl("apply", "--filename=-", stdin=json.dumps(body))


def test_an_edit_that_breaks_the_template_stops_at_the_new_pod(llama: Llama) -> None:
    put_template(llama, GOOD)
    llama.apply(replicas=2, chatTemplate={"configMapKeyRef": {"name": "texts", "key": "chat.jinja"}}).until_ready()
    serving = llama.pod_uids
    assert len(serving) == 2

    put_template(llama, BROKEN)
    told = llama.until_conditions("Progressing", "False", "TemplateInvalid")
    for condition, status in {"Progressing": "False", "Ready": "False", "Stalled": "True"}.items():
        assert told[condition][:2] == (status, "TemplateInvalid")
        assert "spec.chatTemplate is not valid Jinja: line 2: unexpected '}'" in told[condition][2]
    assert told["Available"][:2] == ("True", "Serving")
    assert serving <= llama.pod_uids, "nobody who serves has gone"
    with llama.service() as relay:
        assert get(f"{relay.url}/props")["chat_template"] == GOOD
        for _ in range(10):
            assert post(f"{relay.url}/v1/chat/completions", CHAT)["choices"]

    mended = GOOD + "[assistant]"
    put_template(llama, mended)
    llama.until_ready()
    assert not serving & llama.pod_uids
    for pod in llama.pods:  # asked itself: the Service leads to the pods before it a moment longer
        with llama.pod_port(pod, 8080) as relay:
            assert get(f"{relay.url}/props")["chat_template"] == mended
            assert post(f"{relay.url}/v1/chat/completions", CHAT)["choices"]


def test_a_model_whose_own_template_is_broken_serves_with_another(llama: Llama, hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, "main", "broken-template.gguf", Models(tmp_path).templated(BROKEN))
    llama.apply(model={"source": {"huggingFace": {"file": "broken-template.gguf"}}})
    message = llama.until_condition("Ready", "False", "TemplateInvalid")
    assert "the chat template in the model's metadata (spec.chatTemplate names another)" in message
    assert "line 2: unexpected '}'" in message
    llama.until_event("TemplateInvalid", "line 2")
    llama.apply(chatTemplate={"inline": GOOD}).until_ready()
    with llama.service() as relay:
        assert post(f"{relay.url}/apply-template", CHAT) == {"prompt": "[user] hello\n"}
