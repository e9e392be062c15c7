"""/embedding and /v1/embeddings on an encoder and on a decoder, with every kind of pooling."""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import openai
import pytest
from llamaserver.llama import devices

from tests.support.models import BERT_CTX, N_EMBD, Models
from tests.support.server.client import Client

pytestmark = pytest.mark.model

SERVERS = ["bert-mean", "bert-cls", "bert-none", "llama", "llama-mean", "llama-last", "llama-unified"]
TEXTS = ["hello world", "the llama", "a", "one two three four five six"]


@pytest.fixture(scope="module", params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(name: str, models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    kind, _, detail = name.partition("-")
    model = models.bert(detail) if kind == "bert" else models.llama()
    options = {"mean": ["--pooling", "mean"], "last": ["--pooling", "last"], "unified": ["--kv-unified"]}
    extra = options.get(detail, []) if kind == "llama" else []
    with serve(model, "--embedding", "-c", "512", "-np", "2", *extra) as client:
        yield client


def vector(client: Client, content: Any) -> np.ndarray:
    answer = client.post("/embedding", content=content)
    assert list(answer) == ["embedding"]
    return np.array(answer["embedding"])


def test_document_shape(client: Client) -> None:
    found = vector(client, "hello world")
    assert found.shape == (N_EMBD,)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    assert np.abs(found - vector(client, "the llama")).max() > 0.01


def test_token_ids_are_the_text_they_stand_for(client: Client) -> None:
    tokens = client.post("/tokenize", content="hello world", add_special=True)["tokens"]
    np.testing.assert_allclose(vector(client, tokens), vector(client, "hello world"), atol=1e-6)


def test_several_at_once(client: Client) -> None:
    alone = [vector(client, text) for text in TEXTS]
    together = client.post("/embedding", content=TEXTS)
    assert [item["index"] for item in together] == [0, 1, 2, 3]
    np.testing.assert_allclose([item["embedding"] for item in together], alone, atol=1e-5)
    openai_shape = client.post("/v1/embeddings", input=TEXTS)["data"]
    np.testing.assert_allclose([item["embedding"] for item in openai_shape], alone, atol=1e-5)


def test_openai_shape(client: Client) -> None:
    answer = client.post("/v1/embeddings", input="hello world", model="any")
    count = len(client.post("/tokenize", content="hello world", add_special=True)["tokens"])
    assert answer["object"] == "list"
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    (item,) = answer["data"]
    assert item["object"] == "embedding"
    assert item["index"] == 0
    np.testing.assert_allclose(item["embedding"], vector(client, "hello world"), atol=1e-6)


def test_base64_is_the_same_vector(client: Client) -> None:
    plain = client.post("/v1/embeddings", input="hello world", encoding_format="float")["data"][0]["embedding"]
    packed = client.post("/v1/embeddings", input="hello world", encoding_format="base64")["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), np.array(plain, np.float32))


def test_openai_client(client: Client) -> None:
    api = openai.OpenAI(base_url=f"{client.url}/v1", api_key="none")
    answer = api.embeddings.create(model="any", input=["hello world", "the llama"])
    np.testing.assert_allclose(answer.data[1].embedding, vector(client, "the llama"), atol=1e-6)


def test_fewer_dimensions_in_the_openai_client(client: Client) -> None:
    api = openai.OpenAI(base_url=f"{client.url}/v1", api_key="none")
    found = api.embeddings.create(model="any", input="hello world", dimensions=16).data[0].embedding
    wanted = vector(client, "hello world")[:16]
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)


@pytest.mark.parametrize("norm", [-1, 0, 1, 2, 3, 1024])
def test_norms(client: Client, norm: int) -> None:
    raw = np.array(client.post("/embedding", content="hello world", embd_normalize=-1)["embedding"])
    length = {-1: 1.0, 0: np.abs(raw).max() / 32760}.get(norm) or np.linalg.norm(raw, norm if norm < 1000 else np.inf)
    for path, field in (("/embedding", "content"), ("/v1/embeddings", "input")):
        answer = client.post(path, {field: "hello world", "embd_normalize": norm})
        found = answer["embedding"] if field == "content" else answer["data"][0]["embedding"]
        np.testing.assert_allclose(found, raw / length, rtol=5e-3 if norm == 1024 else 1e-4, atol=1e-6)


def test_token_arrays(client: Client) -> None:
    tokens = client.post("/tokenize", content="hello world", add_special=True)["tokens"]
    one = client.post("/v1/embeddings", input=tokens)["data"]
    two = client.post("/v1/embeddings", input=[tokens, tokens[:2]])["data"]
    assert [len(one), len(two)] == [1, 2]
    np.testing.assert_allclose(one[0]["embedding"], two[0]["embedding"], atol=1e-6)


def test_concurrent_answers_are_those_of_one_at_a_time(client: Client) -> None:
    texts = [f"{text} {number}" for text in TEXTS for number in range(10)]
    alone = [vector(client, text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: vector(client, text), texts))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_too_long_is_refused_and_named(client: Client, name: str) -> None:
    limit = BERT_CTX if name.startswith("bert") else 512 if name.endswith("unified") else 256
    error = client.error("/embedding", {"content": "z " * limit})
    assert error["param"] == "content"
    assert f"the available context size ({limit} tokens)" in error["message"]
    longest = [5] * limit
    assert vector(client, longest).shape == (N_EMBD,)
    client.error("/embedding", {"content": [*longest, 5]})


@pytest.mark.parametrize(("path", "field"), [("/embedding", "content"), ("/v1/embeddings", "input")])
def test_of_a_batch_the_one_is_named_that_cannot_be(client: Client, path: str, field: str) -> None:
    for place, bad, says in (
        (1, "z " * 600, "exceeds the available context size"),
        (3, [5, 10**9], "token id"),
        (2, [], "empty"),
        (0, [None], ""),
    ):
        batch: list[Any] = ["the", "world", "a", "hello", "llama"]
        batch[place] = bad
        error = client.error(path, {field: batch})
        assert error["param"] == f"{field}.{place}"
        assert f"'{field}.{place}'" in error["message"]
        assert says in error["message"]
    assert len(client.post("/v1/embeddings", input=["a"] * 40)["data"]) == 40, "the others cost nothing"


def test_the_openai_client_tells_which_input(client: Client) -> None:
    api = openai.OpenAI(base_url=f"{client.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        api.embeddings.create(model="any", input=["hello world"] * 30 + ["z " * 600])
    assert caught.value.param == "input.30"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/embedding", {}, "content"),
        ("/embedding", {"content": []}, "content"),
        ("/embedding", {"content": {"text": "a"}}, "content"),
        ("/embedding", {"content": [["a"], {}]}, "content"),
        ("/embedding", {"content": [10**9]}, "content"),
        ("/embedding", {"content": "a", "image_data": "x"}, "image_data"),
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": 7}, "input"),
        ("/v1/embeddings", {"input": [-1]}, "input"),
        ("/v1/embeddings", {"input": ["a"] * 3000}, "input"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "dimensions": N_EMBD + 1}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "embd_normalize": -2}, "embd_normalize"),
        ("/embedding", {"content": "a", "embd_normalize": 1.5}, "embd_normalize"),
    ],
)
def test_bad_bodies(client: Client, path: str, body: Any, field: str) -> None:
    assert client.error(path, body)["param"] == field


def test_image_data_is_refused_with_the_reason(client: Client) -> None:
    error = client.error("/embedding", {"content": "[img-1]", "image_data": [{"data": "", "id": 1}]}, 501)
    assert error["param"] == "image_data"
    assert "image" in error["message"]


def test_generation(client: Client, name: str) -> None:
    """A decoder still generates between embeddings; an encoder says that it cannot."""
    if name.startswith("llama"):
        first = client.complete("hello world")
        vector(client, "hello world")
        again = client.complete("hello world")
        assert again["content"] == first["content"]
        return
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for path, body in (
        ("/completion", {"prompt": "hi"}),
        ("/completion", {"prompt": "hi", "stream": True}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/chat/completions", chat),
    ):
        assert "embedding" in client.error(path, body, 501)["message"]


@pytest.mark.parametrize("name", [name for name in SERVERS if name.startswith("llama")], indirect=True, scope="module")
def test_generation_and_embeddings_together(client: Client) -> None:
    wanted = client.complete("the world", n_predict=40, ignore_eos=True, cache_prompt=False)["content"]
    vectors = {text: vector(client, text) for text in TEXTS}
    with ThreadPoolExecutor(4) as pool:
        answers = [
            pool.submit(client.complete, "the world", n_predict=40, ignore_eos=True, cache_prompt=False)
            for _ in range(4)
        ]
        found = [(text, pool.submit(vector, client, text)) for text in TEXTS * 5]
        assert [answer.result()["content"] for answer in answers] == [wanted] * 4
        for text, future in found:
            np.testing.assert_allclose(future.result(), vectors[text], atol=1e-5)


def test_pooling_is_what_the_library_computes(client: Client, name: str, models: Models) -> None:
    kind, _, detail = name.partition("-")
    model = models.bert(detail) if kind == "bert" else models.llama()
    tokens = client.post("/tokenize", content="hello world", add_special=True)["tokens"]
    rows = reference_rows(str(model), tokens)
    pooled = {"mean": rows.mean(axis=0), "cls": rows[0]}.get(detail, rows[-1])
    np.testing.assert_allclose(vector(client, tokens), pooled / np.linalg.norm(pooled), atol=1e-3)


def reference_rows(path: str, tokens: list[int]) -> np.ndarray:
    """The last hidden state of every token, from the library without pooling."""
    devices.initialise()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_threads, params.embeddings, params.pooling_type = 256, 1, True, lib.LLAMA_POOLING_TYPE_NONE
    context = lib.llama_init_from_model(model, params)
    ids = (lib.llama_token * len(tokens))(*tokens)  # kept: the batch points to it
    batch = lib.llama_batch_get_one(ids, len(tokens))
    assert lib.llama_decode(context, batch) == 0
    width = lib.llama_model_n_embd(model)
    rows = [
        np.ctypeslib.as_array(lib.llama_get_embeddings_ith(context, i), (width,)).copy() for i in range(len(tokens))
    ]
    lib.llama_free(context)
    lib.llama_model_free(model)
    return np.array(rows)


def test_rank_gives_a_score(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.bert("mean"), "--embedding", "--pooling", "rank") as client:
        scores = client.post("/embedding", content=["hello world", "a"])
        assert [len(item["embedding"]) for item in scores] == [1, 1]
        assert scores[0]["embedding"] != scores[1]["embedding"]
        assert abs(scores[0]["embedding"][0]) != 1


def test_slots_of_an_encoder_are_empty(models: Models, serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(models.bert("mean"), "--embedding", "--slot-save-path", tmp_path) as client:
        vector(client, "hello")
        assert client.post("/slots/0?action=save", filename="a.bin")["n_saved"] == 0
        assert client.post("/slots/0?action=erase")["n_erased"] == 0
        assert client.post("/slots/0?action=restore", filename="a.bin")["n_restored"] == 0
        assert client.slots()[0]["n_past"] == 0
        assert vector(client, "hello").shape == (N_EMBD,)


def test_the_norm_of_all_requests_is_an_option(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.bert("mean"), "--embedding", "--embd-normalize", "0") as client:
        assert np.abs(vector_of(client)).max() == pytest.approx(32760, rel=1e-5)


def vector_of(client: Client) -> np.ndarray:
    return np.array(client.post("/v1/embeddings", input="hello world")["data"][0]["embedding"])


def test_off_by_default(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.llama()) as plain:
        for path, body in (("/embedding", {"content": "a"}), ("/v1/embeddings", {"input": "a"})):
            assert "--embedding" in plain.error(path, body, 501)["message"]


def test_without_pooling_each_token_has_a_vector(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.llama(), "--embedding", "-c", "512", "-np", "2") as client:
        last = client.post("/embedding", content="hello world", embd_normalize=-1)["embedding"]
    with serve(models.llama(), "--embedding", "--pooling", "none", "-c", "512", "-np", "2") as client:
        count = len(client.post("/tokenize", content="hello world", add_special=True)["tokens"])
        (item,) = client.post("/embedding", content="hello world")
        assert item["index"] == 0
        assert np.shape(item["embedding"]) == (count, N_EMBD)
        np.testing.assert_allclose(item["embedding"][-1], last, atol=1e-4)
        several = client.post("/embeddings", content=TEXTS, dimensions=3)
        assert [np.shape(one["embedding"])[1] for one in several] == [3] * len(TEXTS)
        long = ["a" * 400] * 400
        assert "numbers is more than 4194304" in client.error("/embedding", {"content": long})["message"]
        error = client.error("/v1/embeddings", {"input": "a"})
        assert error["message"].startswith("Pooling type 'none' is not OAI compatible")
