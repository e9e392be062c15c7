"""Fill-in-middle on a model that has the tokens for it, and on one that has not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.models import Models
from tests.support.server.client import Client

pytestmark = pytest.mark.model

GREEDY = {"temperature": 0, "n_predict": 8}
FIM = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


@pytest.fixture(scope="module")
def client(models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    with serve(models.fim(), "-c", "512", "-np", "2") as client:
        yield client


def tokens(client: Client, text: str, *, special: bool = False) -> list[int]:
    found: list[int] = client.post("/tokenize", content=text, parse_special=special)["tokens"]
    return found


def test_prompt_is_prefix_suffix_middle(client: Client) -> None:
    answer = client.post("/infill", input_prefix="def one(", input_suffix=") two", stream=False, **GREEDY)
    pre, suf, mid = (tokens(client, marker, special=True)[0] for marker in FIM)
    prompt = [1, pre, *tokens(client, "def one("), suf, *tokens(client, ") two"), mid]
    assert answer["tokens_evaluated"] == len(prompt)
    assert client.complete(prompt, cache_prompt=False)["content"] == answer["content"]


def test_streams_as_the_document_says(client: Client) -> None:
    plain = client.post("/infill", input_prefix="def a(", input_suffix=") b", stream=False, **GREEDY)
    with client.http.stream("POST", "/infill", json={"input_prefix": "def a(", "input_suffix": ") b", **GREEDY}) as got:
        assert got.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in got.iter_lines() if line.startswith("data: ")]
    assert len(lines) > 1
    events = client.events("/infill", input_prefix="def a(", input_suffix=") b", **GREEDY)
    assert "".join(event["content"] for event in events) == plain["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


def test_one_leading_space_of_the_suffix_goes(client: Client) -> None:
    spaced = client.post("/infill", input_prefix="a", input_suffix="  b", stream=False, **GREEDY)
    plain = client.post("/infill", input_prefix="a", input_suffix=" b", stream=False, **GREEDY)
    assert spaced["tokens_evaluated"] == plain["tokens_evaluated"] + 1


def test_both_sides_decide(client: Client) -> None:
    def fill(prefix: str, suffix: str) -> str:
        answer = client.post("/infill", input_prefix=prefix, input_suffix=suffix, stream=False, **GREEDY)
        return str(answer["content"])

    assert len({fill("hello", "world"), fill("world", "hello"), fill("hello", ""), fill("", "world")}) == 4


def test_markers_in_the_text_are_text(client: Client) -> None:
    marked = client.post("/infill", input_prefix="<|fim_middle|>", input_suffix="", stream=False, **GREEDY)
    assert marked["tokens_evaluated"] == 4 + len(tokens(client, "<|fim_middle|>"))


def test_prefix_is_reused(client: Client) -> None:
    prefix = "return the one the two " * 4
    client.post("/infill", input_prefix=prefix, input_suffix="x", stream=False, **GREEDY)
    again = client.post("/infill", input_prefix=prefix, input_suffix="y", stream=False, **GREEDY)
    assert again["timings"]["prompt_n"] <= 3


@pytest.mark.parametrize("field", ["input_prefix", "input_suffix"])
def test_wrong_types(client: Client, field: str) -> None:
    assert client.error("/infill", {"input_prefix": "a", "input_suffix": "b", field: ["x"]})["param"] == field


def test_model_without_the_tokens_says_so(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.llama()) as plain:
        error = plain.error("/infill", {"input_prefix": "a", "input_suffix": "b"}, 501)
        assert "fill-in-middle" in error["message"]
