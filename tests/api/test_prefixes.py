"""Prefixes are computed once: across turns, across slots, and among requests in flight."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.client import Abandoned, Client
from tests.support.server.process import ServerProcess
from tests.support.server.traffic import at_once

pytestmark = pytest.mark.model
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards brew strong black tea".split()


def text(seed: int, words: int) -> str:
    """`words` words, different for each seed from the first one on."""
    return " ".join([f"Book {seed}:", *(WORDS[(seed * 7 + i * i + i // 3) % len(WORDS)] for i in range(words))])


@pytest.fixture(scope="module", params=["split", "unified"])
def layouts(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A server in each of the two cache layouts."""
    layout = "--kv-unified" if request.param == "unified" else "--no-kv-unified"
    args = ["-m", str(model_path()), "-c", "4096", "-np", "4", "-cb", "--metrics", "-fa", "off", layout]
    with ServerProcess(*args) as process:
        yield Client(process.url)


def same(request: pytest.FixtureRequest, one: str, other: str) -> bool:
    """Equal, where answers do not depend on what is batched together: in the split layout."""
    return one == other or "unified" in request.node.name


def evaluated(client: Client, call: Any) -> tuple[int, Any]:
    """The prompt tokens that the server evaluated during the call, and its result."""
    before = client.metric("llamacpp:prompt_tokens_total")
    result = call()
    return int(client.metric("llamacpp:prompt_tokens_total") - before), result


def test_the_next_turn_evaluates_only_what_is_new(layouts: Client) -> None:
    prompt = text(1, 200)
    first = layouts.complete(prompt, n_predict=4)
    count, second = evaluated(layouts, lambda: layouts.complete(prompt + first["content"] + " Then", n_predict=2))
    assert count == second["timings"]["prompt_n"] <= 4
    assert second["tokens_cached"] + count == second["tokens_evaluated"]


def test_another_slot_takes_the_prefix_over(layouts: Client, request: pytest.FixtureRequest) -> None:
    prompt = text(2, 200)
    whole = layouts.complete(prompt, id_slot=0, n_predict=4)
    count, other = evaluated(layouts, lambda: layouts.complete(prompt, id_slot=3, n_predict=4))
    assert (other["id_slot"], count) == (3, 2)
    assert same(request, other["content"], whole["content"])


def test_a_busy_slot_gives_its_prefix(layouts: Client) -> None:
    prompt = text(3, 200)
    body = {"prompt": prompt, "n_predict": -1, "stream": True, "ignore_eos": True, "temperature": 0}
    with layouts.http.stream("POST", "/completion", json=body) as running:
        lines = running.iter_lines()
        next(lines)
        count, other = evaluated(layouts, lambda: layouts.complete(prompt, n_predict=2))
        assert count == other["timings"]["prompt_n"] <= 2
        assert sum(slot["state"] for slot in layouts.slots()) == 1
    until(lambda: not any(slot["state"] for slot in layouts.slots()), "the stream's slot is idle")


def test_requests_in_flight_share_one_computation(layouts: Client, request: pytest.FixtureRequest) -> None:
    prefix = text(4, 400)
    size = len(layouts.post("/tokenize", content=prefix)["tokens"])
    endings = [f" Chapter {number} begins" for number in ("one", "two", "three", "four")]
    count, answers = evaluated(layouts, lambda: at_once(lambda e: layouts.complete(prefix + e), endings))
    assert size <= count <= size + 40  # once the prefix, and each its ending
    assert sorted(answer["tokens_cached"] >= size - 2 for answer in answers) == [False, True, True, True]
    for ending, answer in zip(endings, answers, strict=True):
        assert same(request, layouts.complete(prefix + ending)["content"], answer["content"])


def test_followers_finish_when_the_leader_is_cancelled(layouts: Client) -> None:
    prompt = text(5, 900)
    body = {"prompt": prompt, "n_predict": -1, "ignore_eos": True, "stream": True}
    answers: list[Any] = []
    with Abandoned(layouts, body):
        until(lambda: any(slot["state"] for slot in layouts.slots()), "the leader runs")
        follower = threading.Thread(target=lambda: answers.append(layouts.complete(prompt, n_predict=3)))
        follower.start()
        until(lambda: sum(slot["state"] for slot in layouts.slots()) == 2, "the follower has a slot")
    follower.join(60)
    assert [answer["tokens_predicted"] for answer in answers] == [3]


def test_the_system_prompt_is_shared_by_all_slots(layouts: Client, request: pytest.FixtureRequest) -> None:
    system = {"prompt": text(6, 200), "anti_prompt": "User:", "assistant_name": "Assistant:"}
    size = len(layouts.post("/tokenize", content=system["prompt"])["tokens"])
    first = layouts.complete("Hello", system_prompt=system, id_slot=0, n_predict=2)
    assert first["tokens_evaluated"] > size
    for slot in (1, 2, 3):
        answer = layouts.complete("Hello", id_slot=slot, n_predict=2)
        assert answer["tokens_cached"] >= size - 1
        assert same(request, answer["content"], first["content"])
    props = layouts.get("/props")
    assert (props["assistant_name"], props["user_name"]) == ("Assistant:", "User:")
    layouts.complete("Hello", system_prompt={"prompt": ""}, n_predict=0)
    assert layouts.complete("Hello", n_predict=2)["tokens_evaluated"] < 10
