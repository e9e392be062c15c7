"""A client that goes away frees its slot at once, and takes nothing from anybody."""

import random
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


def idle(client: Client) -> bool:
    return not any(slot["state"] for slot in client.slots()) and client.metric("llamacpp:requests_deferred") == 0


@pytest.fixture(scope="module")
def one_slot() -> Iterator[Client]:
    with ServerProcess("-m", str(model_path()), "-c", "4096", "-np", "1", "-cb", "--metrics") as process:
        yield Client(process.url)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_gone_client_frees_the_slot(one_slot: Client, stream: bool, phase: str) -> None:
    prompt: Any = list(range(500, 4000)) if phase == "prefill" else "Once upon a time"
    before = one_slot.metric("llamacpp:prompt_tokens_total")
    cancelled = one_slot.metric("llamaserver:requests_cancelled_total")
    body = {"prompt": prompt, "n_predict": -1, "ignore_eos": True, "stream": stream, "cache_prompt": False}
    with Abandoned(one_slot, body):
        wanted = "n_decoded" if phase == "decode" else None
        until(
            lambda: (slot := one_slot.slots()[0])["state"] and (not wanted or slot["next_token"][wanted] > 3),
            f"the request is in {phase}",
        )
    until(lambda: idle(one_slot), "the slot is idle")
    assert one_slot.metric("llamaserver:requests_cancelled_total") == cancelled + 1
    if phase == "prefill":  # nowhere near the whole prompt was evaluated
        assert one_slot.metric("llamacpp:prompt_tokens_total") - before < 3500
    assert one_slot.complete("Hello", n_predict=2)["tokens_predicted"] == 2


def test_a_queued_request_leaves_the_queue(one_slot: Client) -> None:
    body = {"prompt": "Once", "n_predict": -1, "ignore_eos": True}
    with Abandoned(one_slot, body):
        until(lambda: one_slot.slots()[0]["state"], "the first runs")
        with Abandoned(one_slot, body):
            until(lambda: one_slot.metric("llamacpp:requests_deferred") == 1, "the second is deferred")
        until(lambda: one_slot.metric("llamacpp:requests_deferred") == 0, "the second is gone")
        assert one_slot.slots()[0]["state"]
    until(lambda: idle(one_slot), "all idle")


def test_cancellation_beside_streams_loses_nothing(client: Client) -> None:
    prompts = [f"Story number {number}: once upon a time" for number in range(3)]
    fields: dict[str, Any] = {"n_predict": 200, "ignore_eos": True, "temperature": 0}

    def stream(prompt: str) -> str:
        return "".join(event["content"] for event in client.events("/completion", prompt=prompt, **fields))

    texts: list[str] = []
    runner = threading.Thread(target=lambda: texts.extend(at_once(stream, prompts)))
    runner.start()
    until(
        lambda: sum(slot["next_token"]["n_decoded"] > 1 for slot in client.slots() if slot["state"]) == 3, "3 streams"
    )
    with Abandoned(client, {"prompt": list(range(100, 1000)), "n_predict": -1, "ignore_eos": True}):
        until(lambda: sum(slot["state"] for slot in client.slots()) == 4, "the fourth runs too")
    runner.join(120)
    assert [len(client.post("/tokenize", content=text)["tokens"]) > 40 for text in texts] == [True] * 3


@pytest.mark.slow
def test_a_storm_of_cancellations(client: Client) -> None:
    rng = random.Random(1)

    def storm(number: int) -> None:
        body = {
            "prompt": f"Number {number} " * rng.randint(1, 100), "n_predict": rng.randint(0, 50),
            "stream": rng.random() < 0.5, "ignore_eos": True,
        }  # fmt: skip
        with Abandoned(client, body) as request:
            request.socket.settimeout(rng.choice((0.001, 0.02, 0.1, 0.3)))
            try:
                request.socket.recv(100)
            except TimeoutError:
                return

    at_once(storm, range(300), 20)
    until(lambda: idle(client), "all idle after the storm")
    assert client.complete("Hello", n_predict=3)["tokens_predicted"] == 3
