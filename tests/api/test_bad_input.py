"""Bad input gets a 4xx that names the field, and costs nobody else anything."""

import json
import socket
from typing import Any

import pytest

from tests.support.server.client import Client

pytestmark = pytest.mark.model
DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"5", b'"x"', b"null", b'{"prompt": "\xff\xfe"}', b'{"prompt": ' + DEEP + b"}", b"\x00", b"{'a': 1}",
     b'{"prompt": NaN}', b'{"prompt": "\xed\xa0\x80"}', '{"prompt": "x"}'.encode("utf-16"),
     '{"prompt": "é"}'.encode("latin-1")],
    ids=["cut", "array", "number", "string", "null", "utf8", "deep", "nul", "quotes", "nan", "surrogate", "utf16",
         "latin1"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/completion", "/tokenize", "/v1/chat/completions"])
def test_malformed_bodies(client: Client, path: str, body: bytes) -> None:
    assert client.error(path, body)["type"] == "invalid_request_error"


WRONG: list[tuple[str, Any]] = [
    ("prompt", None), ("prompt", 5.5), ("prompt", {"a": 1}), ("prompt", [49152]), ("prompt", [-1]), ("prompt", [1.5]),
    ("prompt", [True]), ("prompt", [[1, "x", None]]), ("prompt", [None]), ("prompt", 10**30),
    ("temperature", "hot"), ("temperature", True), ("temperature", [1]), ("temperature", 1e30),
    ("dynatemp_range", "x"), ("dynatemp_exponent", {}), ("top_k", 1.5), ("top_k", "4"), ("top_p", "x"), ("top_p", -1),
    ("min_p", []), ("n_predict", "9"), ("n_predict", -2), ("n_predict", 1e18), ("n_keep", -2), ("n_keep", "x"),
    ("stream", 1), ("stream", "yes"), ("stop", 5), ("stop", [5]), ("stop", ["x"] * 5000), ("tfs_z", "x"),
    ("typical_p", None.__class__.__name__), ("repeat_penalty", 0), ("repeat_penalty", "x"), ("repeat_last_n", -2),
    ("penalize_nl", 0), ("presence_penalty", "x"), ("frequency_penalty", 1e9), ("penalty_prompt", 5),
    ("penalty_prompt", [10**6]), ("mirostat", 3), ("mirostat", -1), ("mirostat_tau", "x"), ("mirostat_eta", "x"),
    ("grammar", 5), ("grammar", "root ::= ("), ("grammar", "root ::= undefined"), ("grammar", "x" * 300_000),
    ("grammar", "root ::= root"), ("seed", 1.5), ("seed", "7"), ("seed", [1]),
    ("seed", True), ("ignore_eos", "x"), ("logit_bias", 5), ("logit_bias", [[1]]), ("logit_bias", [["x", "y"]]),
    ("logit_bias", [[10**6, 1]]), ("logit_bias", [[-1, 1]]), ("logit_bias", {"999999": 1}), ("n_probs", -1),
    ("n_probs", 10**6), ("min_keep", -1), ("image_data", 5), ("image_data", [5]), ("id_slot", -2),
    ("id_slot", "x"), ("cache_prompt", "x"), ("system_prompt", 5), ("samplers", 5),
    ("samplers", [5]), ("json_schema", 5), ("json_schema", {"type": "wrong"}),
    ("json_schema", {"$ref": "#/definitions/missing"}), ("json_schema", {"pattern": "a" * 70_000}),
    ("lora", 5), ("lora", [{"id": 0}]), ("lora", [{"scale": 1}]), ("xtc_probability", 2), ("dry_base", "x"),
    ("dry_sequence_breakers", ["x"] * 1000), ("response_fields", 5),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{name}-{i}" for i, (name, _) in enumerate(WRONG)])
def test_wrong_values_are_named(client: Client, field: str, value: Any) -> None:
    error = client.error("/completion", {"prompt": "x", "n_predict": 1, field: value})
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"


def test_invalid_grammar_is_refused_as_the_document_says(client: Client) -> None:
    for path in ("/completion", "/completions"):
        error = client.error(path, {"prompt": "x", "grammar": "root ::= ["})
        assert (error["code"], error["message"], error["type"]) == (
            400,
            "Failed to parse grammar",
            "invalid_request_error",
        )


def test_huge_repetitions_cost_nothing(client: Client) -> None:
    answer = client.complete("x", grammar='root ::= ("a"{1,100000}){1,100000}', n_predict=2)
    assert set(answer["content"]) == {"a"}


def test_deep_schema(client: Client) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(400):
        schema = {"type": "array", "items": schema}
    assert client.error("/completion", {"prompt": "x", "json_schema": schema})["param"] == "json_schema"


def test_body_over_the_limit(client: Client) -> None:
    # 64 MiB is the default; the server refuses by the announced length, before it reads
    with socket.create_connection(("127.0.0.1", int(client.url.rsplit(":", 1)[1])), timeout=20) as sock:
        sock.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{")
        assert b" 413 " in sock.recv(1000)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "..", ".hidden", "", "x\x00y", "a\\b", "C:x", "x" * 300, "x.sha256", "x\n", 5, None],
)
@pytest.mark.parametrize("action", ["save", "restore"])
def test_slot_file_names(client: Client, name: Any, action: str) -> None:
    assert client.error(f"/slots/0?action={action}", {"filename": name})["param"] == "filename"


def test_slot_actions(client: Client) -> None:
    assert client.error("/slots/99?action=erase", {})["param"] == "id_slot"
    assert client.error("/slots/x?action=erase", {})["param"] == "id_slot"
    assert client.error("/slots/-1?action=erase", {})["param"] == "id_slot"
    assert client.error("/slots/0?action=drop", {})["param"] == "action"
    assert client.error("/slots/0", {})["param"] == "action"
    assert client.error("/slots/0?action=restore", {"filename": "missing.bin"})["param"] == "filename"


def test_tokenizer_input(client: Client) -> None:
    for content in (5.5, {"a": 1}, True):
        assert client.error("/tokenize", {"content": content})["param"] == "content"
    for content in (["x", None], [5, 10**9], ["x", 1.5]):
        assert client.error("/tokenize", {"content": content})["param"] == "content.1"
    assert client.error("/detokenize", {"tokens": "x"})["param"] == "tokens"
    for tokens in ([1, 2, -1], [1, 2, 49152], [1, 2, "x"], [1, 2, 1.5], [1, 2, None], [1, 2, True]):
        assert client.error("/detokenize", {"tokens": tokens})["param"] == "tokens.2"


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_the_error_names_the_wrong_one_of_several_prompts(client: Client, path: str) -> None:
    for bad, says in (([5, 10**6], "token id"), ([], "empty"), ([True], "not a token id")):
        error = client.error(path, {"prompt": [[1], [2], bad, [3]], "n_predict": 1, "n": 1})
        assert error["param"] == "prompt.2"
        assert "'prompt.2'" in error["message"]
        assert says in error["message"]
    error = client.error(path, {"prompt": ["", "x"], "n_predict": 1})
    assert (error["param"], "empty" in error["message"]) == ("prompt.0", True)
    assert client.error(path, {"prompt": [10**6]})["param"] == "prompt"


def test_features_that_are_off_say_so(client: Client) -> None:
    assert client.error("/embedding", {"content": "x"}, 501)["type"] == "not_supported_error"
    assert client.error("/v1/embeddings", {"input": "x"}, 501)["type"] == "not_supported_error"
    assert client.error("/infill", {"input_prefix": "x"}, 501)["type"] == "not_supported_error"
    image = [{"data": "aGk=", "id": 1}]
    assert client.error("/completion", {"prompt": "[img-1]", "image_data": image}, 501)["type"] == "not_supported_error"


def test_a_broken_request_does_not_disturb_a_stream(client: Client) -> None:
    reference = client.events("/completion", prompt="A long story:", n_predict=40, temperature=0, ignore_eos=True)
    text = ""
    body = {"prompt": "A long story:", "n_predict": 40, "temperature": 0, "ignore_eos": True, "stream": True}
    with client.http.stream("POST", "/completion", json=body) as answer:
        for number, line in enumerate(answer.iter_lines()):
            if line.startswith("data: "):
                text += json.loads(line[6:])["content"]
                client.error("/completion", {"prompt": [10**6 + number]})
    assert text == "".join(event["content"] for event in reference)


def test_many_images_are_refused_before_any_work(client: Client) -> None:
    parts = [{"type": "image_url", "image_url": "data:,"}] * 5000
    body = {"messages": [{"role": "user", "content": parts}]}
    assert client.error("/v1/chat/completions", body)["param"] == "messages"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": ["a"] * 100_000}, "n"),
        ("/completion", {"prompt": ["a"] * 100_000}, "prompt"),
        ("/completion", {"prompt": "x", "stop": ["x" * 5000]}, "stop"),
        ("/completion", {"prompt": "x", "logit_bias": [[i % 1000, 1] for i in range(20_000)]}, "logit_bias"),
        ("/completion", {"prompt": "x", "penalty_prompt": "x" * 2_000_000}, "penalty_prompt"),
        ("/completion", {"prompt": "x", "system_prompt": {"prompt": "x" * 4_000_000}}, "system_prompt"),
        ("/tokenize", {"content": ["x" * 1000] * 5000}, "content"),
        ("/detokenize", {"tokens": [1] * 2_000_000}, "tokens"),
        ("/slots/" + "9" * 5000 + "?action=erase", {}, "id_slot"),
    ],
)
def test_more_than_one_answer_may_cost(client: Client, path: str, fields: Any, param: str) -> None:
    assert client.error(path, fields)["param"] == param


def test_odd_keys_of_a_bias_are_texts(client: Client) -> None:
    bias = {"\u00b2": 1, "--5": 1, "9" * 5000: 1}
    assert client.complete("x", n_predict=1, logit_bias=bias)["tokens_predicted"] == 1


def test_unlimited_time_is_unlimited(client: Client) -> None:
    assert client.complete("Once", n_predict=5, t_max_predict_ms=-1, ignore_eos=True)["tokens_predicted"] == 5
