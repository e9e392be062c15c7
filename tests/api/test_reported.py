"""What was reported against other servers, and has to stay right here."""

import json
from typing import Any

import openai
import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess
from tests.support.server.traffic import at_once

pytestmark = pytest.mark.model
MESSAGES: Any = [{"role": "user", "content": "Name one colour."}]


def test_sixty_requests_on_two_slots() -> None:
    with ServerProcess("-m", str(model_path()), "-c", "1024", "-np", "2", "-cb", "--metrics", "-fa", "off") as server:
        client = Client(server.url)
        alone = client.complete("Number 7:", n_predict=6, cache_prompt=False, ignore_eos=True)["content"]

        def ask(number: int) -> str:
            answer = Client(server.url).complete(f"Number {number % 10}:", n_predict=6, ignore_eos=True)
            assert answer["tokens_predicted"] == 6
            return str(answer["content"])

        answers = at_once(ask, range(60), width=60)
        assert {answers[number] for number in range(7, 60, 10)} == {alone}
        assert client.metric("llamacpp:requests_deferred") == 0


@pytest.mark.parametrize("stop", ["\n", "e", " the", "er", ", ", "🦙"])
def test_streamed_is_not_streamed(client: Client, stop: str) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 40, "stop": [stop]}
    whole = client.post("/v1/chat/completions", body)["choices"][0]
    chunks = [event["choices"][0] for event in client.events("/v1/chat/completions", **body)[:-1]]
    assert "".join(chunk["delta"].get("content") or "" for chunk in chunks) == whole["message"]["content"]
    assert chunks[-1]["finish_reason"] == whole["finish_reason"]
    assert stop not in whole["message"]["content"]


def test_emoji_come_whole(client: Client) -> None:
    wanted = "a🦙ß日本👩‍👩‍👧b"
    body: dict[str, Any] = {"prompt": "x", "grammar": f'root ::= "{wanted}"', "n_predict": 60, "temperature": 0}
    pieces = [event["content"] for event in client.events("/completion", **body)]
    assert "".join(pieces) == wanted
    assert not any("\ufffd" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 5


def test_an_answer_in_parts_is_gone_on_with(client: Client) -> None:
    said = [{"type": "text", "text": "The colour of "}, {"type": "text", "text": "the sky is"}]
    prompt = client.post("/apply-template", messages=[*MESSAGES, {"role": "assistant", "content": said}])["prompt"]
    assert prompt.endswith("<|im_start|>assistant\nThe colour of the sky is")


def test_the_last_chunk_has_usage_and_no_choices(client: Client) -> None:
    api = openai.OpenAI(base_url=f"{client.url}/v1", api_key="x", max_retries=0)
    for wanted in (True, False):
        chunks = list(
            api.chat.completions.create(
                model="m", messages=MESSAGES, max_tokens=4, stream=True, stream_options={"include_usage": wanted}
            )
        )
        assert bool(chunks[-1].usage) == wanted == (not chunks[-1].choices)
        assert not any(chunk.usage for chunk in chunks[:-1])


def test_a_thousand_values_and_six_hundred_properties(client: Client) -> None:
    values = [f"value number {number}" for number in range(1000)]
    answer = client.complete("x", json_schema={"enum": values}, n_predict=20)
    assert json.loads(answer["content"]) in values
    schema = {"properties": {f"p{number}": {"type": "boolean"} for number in range(600)}, "additionalProperties": False}
    found = client.complete("x", json_schema=schema, n_predict=4)["content"]
    assert found.lstrip().startswith("{")
