"""Where this server decides otherwise than llama-server or OpenAI, as docs/reference/compatibility.md tells."""

import json
import socket
from typing import Any

import pytest

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model


def prompt_of(client: Client, content: Any) -> str:
    return str(client.post("/apply-template", messages=[{"role": "user", "content": content}])["prompt"])


def test_parts_are_joined_as_they_are(client: Client) -> None:
    parts = [{"type": "text", "text": text} for text in ("one?", "Question two?")]
    assert prompt_of(client, parts) == prompt_of(client, "one?Question two?")


def test_the_first_of_several_limits_counts(client: Client) -> None:
    # Greedy, because an answer that ends inside a character goes on for a few tokens.
    body = {"messages": [{"role": "user", "content": "Count."}], "ignore_eos": True, "temperature": 0}
    for limits, count in (
        ({"max_tokens": 2, "max_completion_tokens": 5}, 2),
        ({"max_completion_tokens": 5}, 5),
        ({"n_predict": 3, "max_tokens": 2, "max_completion_tokens": 5}, 3),
    ):
        usage = client.post("/v1/chat/completions", {**body, **limits})["usage"]
        assert usage["completion_tokens"] == count


def test_an_empty_prompt_is_refused_where_the_model_has_no_bos(client: Client) -> None:
    for path in ("/completion", "/v1/completions"):
        error = client.error(path, {"prompt": ""})
        assert (error["param"], error["message"]) == ("prompt", "the prompt is empty")


@pytest.mark.parametrize(
    ("field", "value"), [("n_predict", -2), ("logit_bias", {"49152": 1}), ("logit_bias", [[-1, 1]])]
)
def test_numbers_out_of_range_are_refused(client: Client, field: str, value: Any) -> None:
    assert client.error("/completion", {"prompt": "x", field: value})["param"] == field


def test_offsets_without_echo_count_from_the_answer(client: Client) -> None:
    """OpenAI's count from the prompt's begin, also when that is not in the text."""
    choice = client.post("/v1/completions", prompt="One two", max_tokens=2, logprobs=0)["choices"][0]
    assert choice["logprobs"]["text_offset"][0] == 0


def test_the_list_of_models_asks_for_a_key() -> None:
    with ServerProcess("-m", str(model_path()), "-c", "512", "--api-key", "key") as server:
        assert Client(server.url).http.get("/v1/models").status_code == 401
        assert Client(server.url, "key").get("/v1/models")["data"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_closes_half_a_connection_is_gone(client: Client, stream: bool) -> None:
    """A client that ends its sending side and waits for the answer, as `nc -N` does."""
    cancelled = client.metric("llamaserver:requests_cancelled_total")
    body = json.dumps({"prompt": "Once", "n_predict": -1, "ignore_eos": True, "stream": stream}).encode()
    host, port = client.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: any(slot["state"] for slot in client.slots()), "the request runs")
        sock.shutdown(socket.SHUT_WR)
        until(lambda: client.metric("llamaserver:requests_cancelled_total") == cancelled + 1, "it is cancelled")
