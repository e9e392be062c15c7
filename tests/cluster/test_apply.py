"""kubectl apply, and a model is served."""

import openai
import pytest

from tests.support.cluster.llama import Llama

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_an_applied_object_becomes_ready_and_answers_a_chat(llama: Llama) -> None:
    source = {"source": {"huggingFace": {"file": "chat.gguf"}}}
    llama.apply(model=source, context={"tokensPerSlot": 1024}).until_ready()
    llama.cluster.kubectl("wait", "--for=condition=Ready", "llama/model", f"--namespace={llama.namespace}")
    with llama.service() as relay, openai.OpenAI(base_url=f"{relay.url}/v1", api_key="none") as client:
        question = {"role": "user", "content": "In one sentence: what is Kubernetes?"}
        answer = client.chat.completions.create(model="model", messages=[question], max_tokens=16, temperature=0)
        assert "Kubernetes" in (answer.choices[0].message.content or "")
        assert [model.id for model in client.models.list()] == ["model"]
    status = llama.object["status"]
    assert status["model"]["file"] == "chat.gguf"
    assert status["model"]["architecture"] == "llama"
    assert status["slots"] == {"total": 2, "perReplica": 2}
    assert status["context"] == {"totalTokens": 2048}
    assert status["endpoint"] == f"http://model.{llama.namespace}.svc:8080"
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (1, 1, 1)
    row = llama.cluster.kubectl("get", "llama", f"--namespace={llama.namespace}", "--no-headers").split()
    assert row[:8] == ["model", "True", "True", "Serving", "1", "0", "chat.gguf", "2"]
    assert ("Normal", "Serving") in [event[:2] for event in llama.events()]
    assert "finalizers" not in llama.object["metadata"]
    assert not any("kopf" in key for key in llama.object["metadata"].get("annotations", {}))
