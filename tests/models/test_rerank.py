"""/v1/rerank on a tiny encoder with a head that scores: its answers, its prompts, its errors."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from llamaserver.llama import devices

from tests.support.models import Models
from tests.support.server.client import Client

pytestmark = pytest.mark.model

TEMPLATE = "{query} or {document} ?"
DOCUMENTS = ["the llama", "hello", "a b c d {query}", "one two"]
PATHS = ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"]


@pytest.fixture(scope="module")
def client(models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    with serve(models.reranker(), "--reranking", "-c", "256", "-np", "2") as client:
        yield client


def tokens(client: Client, text: str, *, special: bool = False) -> list[int]:
    found: list[int] = client.post("/tokenize", content=text, add_special=False, parse_special=special)["tokens"]
    return found


def library_scores(path: str, prompts: Sequence[Sequence[int]]) -> list[float]:
    """The scores of the library for token ids."""
    devices.initialise()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_threads, params.embeddings, params.pooling_type = 256, 1, True, lib.LLAMA_POOLING_TYPE_RANK
    context = lib.llama_init_from_model(model, params)
    scores = []
    for prompt in prompts:
        ids = (lib.llama_token * len(prompt))(*prompt)  # the batch does not keep it
        batch = lib.llama_batch_get_one(ids, len(prompt))
        assert lib.llama_encode(context, batch) == 0
        scores.append(float(lib.llama_get_embeddings_seq(context, 0)[0]))
    lib.llama_free(context)
    lib.llama_model_free(model)
    return scores


def by_index(results: list[dict[str, Any]], name: str) -> list[float]:
    return [item[name] for item in sorted(results, key=lambda item: item["index"])]


@pytest.mark.parametrize("path", PATHS)
def test_jina_shape_and_scores_of_the_library(client: Client, models: Models, path: str) -> None:
    cls, sep = 2, 3  # BERT's BOS, and its EOS and separator
    query = tokens(client, "hello world")
    prompts = [[cls, *query, sep, *tokens(client, text)] for text in DOCUMENTS]
    answer = client.post(path, query="hello world", documents=DOCUMENTS, model="any")
    assert set(answer) == {"model", "object", "usage", "results"}
    assert answer["object"] == "list"
    results = answer["results"]
    assert all(set(item) == {"index", "relevance_score"} for item in results)
    scores = by_index(results, "relevance_score")
    assert [item["relevance_score"] for item in results] == sorted(scores, reverse=True)
    assert max(scores) - min(scores) > 0.01
    count = sum(map(len, prompts))
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    np.testing.assert_allclose(scores, library_scores(str(models.reranker()), prompts), atol=1e-4)


def test_the_best_of_them_with_their_texts(client: Client) -> None:
    every = client.post("/v1/rerank", query="a", documents=DOCUMENTS)["results"]
    best = client.post("/v1/rerank", query="a", documents=DOCUMENTS, top_n=2, return_documents=True)["results"]
    assert [item["index"] for item in best] == [item["index"] for item in every[:2]]
    assert [item["document"] for item in best] == [{"text": DOCUMENTS[item["index"]]} for item in best]
    assert client.post("/v1/rerank", query="a", documents=DOCUMENTS, top_n=0)["results"] == []
    assert len(client.post("/v1/rerank", query="a", documents=DOCUMENTS, top_n=99)["results"]) == len(DOCUMENTS)


def test_documents_as_objects(client: Client) -> None:
    plain = client.post("/v1/rerank", query="a", documents=DOCUMENTS)
    assert client.post("/v1/rerank", query="a", documents=[{"text": text} for text in DOCUMENTS]) == plain


def test_the_list_of_text_embeddings_inference(client: Client) -> None:
    jina = client.post("/v1/rerank", query="a", documents=DOCUMENTS)["results"]
    answer = client.post("/rerank", query="a", texts=DOCUMENTS)
    assert answer == [{"index": item["index"], "score": item["relevance_score"]} for item in jina]
    shown = client.post("/rerank", query="a", texts=DOCUMENTS, return_text=True, top_n=1)
    assert shown == [{**answer[0], "text": DOCUMENTS[answer[0]["index"]]}]


def test_the_template_of_the_model(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.reranker(TEMPLATE), "--rerank", "-c", "256") as client:
        texts = [f"hello {{document}} or {text} ?" for text in DOCUMENTS]
        prompts = [tokens(client, text, special=True) for text in texts]
        answer = client.post("/v1/rerank", query="hello {document}", documents=DOCUMENTS)
        scores = library_scores(str(models.reranker(TEMPLATE)), prompts)
        np.testing.assert_allclose(by_index(answer["results"], "relevance_score"), scores, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"documents": ["a"]}, "query", '"query" must be provided'),
        ({"query": "", "documents": ["a"]}, "query", '"query" must be provided'),
        ({"query": 1, "documents": ["a"]}, "query", "must be a string"),
        ({"query": "a"}, "documents", '"documents" must be a non-empty string array'),
        ({"query": "a", "documents": []}, "documents", '"documents" must be a non-empty string array'),
        ({"query": "a", "documents": "a"}, "documents", '"documents" must be a non-empty string array'),
        ({"query": "a", "documents": ["a", 1]}, "documents", '"documents" must be a non-empty string array'),
        ({"query": "a", "texts": [{}]}, "texts", '"texts" must be a non-empty string array'),
        ({"query": "a", "documents": ["a"] * 2049}, "documents", "at most 2048 documents"),
        ({"query": "a", "documents": ["a"], "top_n": -1}, "top_n", "between"),
        ({"query": "a", "documents": ["a", "z " * 200]}, "documents.1", "exceeds the available context size"),
        ({"query": "a", "documents": ["a" * 2_000_000, "b"]}, "documents.0", "exceeds the available context size"),
        ({"query": "a" * 4000, "documents": ["a"] * 2000}, "query", "4000 characters x 2000 documents"),
    ],
)
def test_errors_name_the_field(client: Client, body: Any, field: str, message: str) -> None:
    error = client.error("/v1/rerank", body)
    assert error["param"] == field
    assert message in error["message"]
    assert len(client.post("/v1/rerank", query="a", documents=["a"] * 50)["results"]) == 50


def test_off_by_default(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.bert("mean"), "--embedding") as plain:
        for path in PATHS:
            error = plain.error(path, {"query": "a", "documents": ["a"]}, 501)
            assert error["message"] == "This server does not support reranking. Start it with `--reranking`"
