"""The KV cache outlives the pod: a conversation goes on without evaluating its prompt again, whatever ended the pod."""

import json
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from llamaserver_operator.observed import is_ready

from dev.localcluster.kubectl import Object
from tests.support.cluster.llama import Llama, get, post
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STORY = " ".join(f"Chapter {n}: the ship called at port number {n} and took on water." for n in range(55))
LONG = 800  # tokens that STORY has at least
HANDFUL = 100  # tokens: what was said since, and the rest of a block


def talk(url: str, text: str, n_predict: int = 8) -> tuple[str, int]:
    """Go on with a text; the text with its continuation, and how many tokens of it were evaluated."""
    answer = post(f"{url}/completion", {"prompt": text, "n_predict": n_predict, "temperature": 0, "ignore_eos": True})
    return text + answer["content"], answer["timings"]["prompt_n"]


VOLUME = {"claimTemplate": {"size": "1Gi", "accessModes": ["ReadWriteMany"]}, "retentionPolicy": "Delete"}


def chat(llama: Llama, slots: int = 4, **cache: Any) -> Llama:
    """A served chat model with room for a story in each slot."""
    return llama.apply(
        model={"source": {"huggingFace": {"file": "chat.gguf"}}},
        context={"tokensPerSlot": 2048, "slots": slots},
        kvCache=cache,
        rollout={"drainTimeoutSeconds": 20},
    ).until_ready()


@pytest.fixture
def keeper(llama: Llama) -> Llama:
    """One whose KV cache is stored as conversations end."""
    return chat(llama, persistence="Continuous", scope="Shared", volume=VOLUME)


def store(llama: Llama, pod: Object) -> Object:
    """What a pod reports of its store."""
    with llama.pod_port(pod) as relay:
        return dict(until(lambda: get(f"{relay.url}/status").get("kv_store"), "the store is opened"))


def stored(llama: Llama, pod: Object) -> int:
    """Blocks that a pod knows of in the store; none while it has something to write."""
    known = store(llama, pod)
    return 0 if known["unsaved"] else int(known["entries"])


def tell(llama: Llama, story: str) -> str:
    """Tell the one pod a story of its own; returns when it is on the volume."""
    (pod,) = llama.pods
    before = stored(llama, pod)
    with llama.service() as relay:
        text, evaluated = talk(relay.url, story)
    assert evaluated > LONG
    until(lambda: stored(llama, pod) > before, "the conversation is stored", 60, pause=0.2)
    return text


def _only_the_next_pod(llama: Llama, before: Object) -> None:
    """Wait until the pod of before is gone for good (it serves to its end) and the next one is ready."""

    def replaced() -> bool:
        found = llama.cluster.kubectl.items("pods", namespace=llama.namespace, selector="llamaserver.dev/name=model")
        names = [pod["metadata"]["name"] for pod in found]
        return len(names) == 1 and names != [before["metadata"]["name"]] and is_ready(found[0])

    until(replaced, "another pod takes its place", 180, pause=0.25)


def by_rolling(llama: Llama) -> None:
    llama.apply(serving={"maxQueue": 77})


def by_scaling(llama: Llama) -> None:
    llama.cluster.kubectl("scale", "llama/model", "--replicas=0", f"--namespace={llama.namespace}")
    until(lambda: not llama.pods, "no pod is left", 60, pause=0.25)
    llama.cluster.kubectl("scale", "llama/model", "--replicas=1", f"--namespace={llama.namespace}")


def by_eviction(llama: Llama) -> None:
    llama.evict(llama.pods[0])


def by_deletion(llama: Llama) -> None:
    llama.cluster.kubectl.delete("pod", llama.pods[0]["metadata"]["name"], llama.namespace, wait=False)


def by_crash(llama: Llama) -> None:
    (pod,) = llama.pods
    llama.cluster.signal_container(llama.namespace, pod["metadata"]["name"], "SIGKILL")

    def restarted() -> bool:
        statuses = llama.pods[0]["status"]["containerStatuses"]
        return statuses[0]["restartCount"] == 1 and statuses[0]["ready"]

    until(restarted, "the container is back", 120, pause=0.25)


ENDS: list[Callable[[Llama], None]] = [by_rolling, by_scaling, by_eviction, by_deletion, by_crash]


def test_a_conversation_goes_on_in_the_next_pod(keeper: Llama) -> None:
    for number, end in enumerate(ENDS):
        text = tell(keeper, f"Story number {number}. {STORY}")
        before = keeper.pods[0]
        end(keeper)
        if end is not by_crash:
            _only_the_next_pod(keeper, before)
        keeper.until_ready()
        with keeper.service() as relay:
            _, evaluated = talk(relay.url, f"{text} And then")
        assert evaluated < HANDFUL, end.__name__
    until(lambda: keeper.condition("CacheRestored")[0] == "True", "the operator has looked again", 120, pause=0.5)
    status = keeper.object["status"]["kvCache"]
    assert status["entries"] > 0
    assert status["bytes"] > 0


def test_a_conversation_is_written_when_its_pod_ends(llama: Llama) -> None:
    chat(llama, persistence="OnShutdown", volume=VOLUME)
    for number, end in enumerate([by_rolling, by_deletion]):
        (before,) = llama.pods
        known = store(llama, before)["entries"]
        with llama.service() as relay:
            text, evaluated = talk(relay.url, f"Story number {number}. {STORY}")
        assert evaluated > LONG
        assert store(llama, before)["entries"] == known, "nothing is written yet"
        end(llama)
        _only_the_next_pod(llama, before)
        llama.until_ready()
        with llama.service() as relay:
            _, evaluated = talk(relay.url, f"{text} And then")
        assert evaluated < HANDFUL, end.__name__
        assert store(llama, llama.pods[0])["entries"] > known


def test_a_conversation_that_lost_its_slot_goes_on_from_host_memory(llama: Llama) -> None:
    """Without a volume; the scheduler knows of the memory, though the spec says nothing about it."""
    llama.spec["resources"]["requests"].pop("memory")
    chat(llama, slots=1, hostMemory="64Mi")
    (pod,) = llama.pods
    (server,) = pod["spec"]["containers"]
    assert server["resources"] == {"requests": {"cpu": "50m", "memory": "64Mi"}}
    with llama.service() as relay:
        text, evaluated = talk(relay.url, f"Story number 1. {STORY}")
        assert evaluated > LONG
        _, evaluated = talk(relay.url, f"Another one. {STORY}")
        assert evaluated > LONG
        _, evaluated = talk(relay.url, f"{text} And then")
    assert evaluated < HANDFUL
    with llama.pod_port(pod) as relay, urllib.request.urlopen(f"{relay.url}/metrics", timeout=10) as answer:
        assert b'llamaserver:kv_hits_total{tier="ram"} 1.0' in answer.read()
    assert "kvCache" not in llama.object["status"], "that is the volume's"


def test_replicas_use_each_others_prefixes_and_the_busy_one_survives_a_scale_down(keeper: Llama) -> None:
    keeper.apply(replicas=2).until_ready()
    first, second = keeper.pods
    with keeper.pod_port(first, 8080) as one, keeper.pod_port(second, 8080) as other:
        text, evaluated = talk(one.url, f"A shared story. {STORY}")
        assert evaluated > LONG
        until(lambda: stored(keeper, first) > 0, "the conversation is stored", 60, pause=0.2)
        text, evaluated = talk(other.url, f"{text} And then")
        assert evaluated < HANDFUL
        lines: list[dict[str, Any]] = []
        running = threading.Thread(target=_stream, args=(one.url, lines))
        running.start()
        until(lambda: lines, "the first pod is busy", 60)
        keeper.apply(replicas=1)
        until(lambda: len(keeper.pods) == 1, "one pod is left", 60, pause=0.25)
        assert keeper.pods[0]["metadata"]["uid"] == first["metadata"]["uid"]
        running.join(120)
        assert lines[-1]["stopped_limit"]
        assert lines[-1]["tokens_predicted"] >= 600


def _stream(url: str, lines: list[dict[str, Any]]) -> None:
    body = {"prompt": "Once", "n_predict": 600, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(f"{url}/completion", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                lines.append(json.loads(line[6:]))
