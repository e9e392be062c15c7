"""Draws requests whose fields have the largest values that are allowed, and larger ones, many of them at once."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from llamaserver.api.native import MAX_PROMPTS
from llamaserver.api.openai import MAX_CHOICES
from llamaserver.api.pricing import MAX_ECHO
from llamaserver.api.vectors import MAX_INPUTS

from .chats import anthropic, chat, count_tokens, responses, template
from .values import Body, long_text, options, sizes, text


@dataclass(frozen=True, slots=True)
class Drawn:
    """One request. `leaves_after` is when its client closes the connection, in seconds; 0: it reads the answer."""

    path: str
    body: Body
    leaves_after: float


Path = tuple[str, Callable[[Random, bool], Body]]


def draw(rng: Random, paths: tuple[Path, ...]) -> Drawn:
    """Draw one request to one of the paths."""
    path, make = rng.choice(paths)
    leaves = rng.uniform(0.05, 1.0) if rng.random() < 0.15 else 0.0
    return Drawn(path, make(rng, bool(leaves)), leaves)


def _completion(rng: Random, leaves: bool) -> Body:
    prompts = rng.choice((1, 1, 2, 16, MAX_PROMPTS, MAX_PROMPTS + 1))
    size, answer = sizes(rng, prompts, leaves)
    body = {**options(rng, prompts), "n_predict": answer, "stream": rng.random() < 0.4, "id_slot": -1}
    if rng.random() < 0.1:
        body["image_data"] = [{"id": 1, "data": "AAAA"}] * rng.choice((1, 60_000))
    if rng.random() < 0.1:
        body["prompt"] = {"prompt_string": "<__media__>" * size, "multimodal_data": ["AAAA"] * size}
        return body
    return {**body, "prompt": [text(rng, size) for _ in range(prompts)]}


def _long(rng: Random, leaves: bool) -> Body:
    return {**options(rng, 1), "prompt": long_text(rng), "n_predict": 1, "stream": rng.random() < 0.5}


def _text_completion(rng: Random, leaves: bool) -> Body:
    prompts = rng.choice((1, 4, 16))
    choices = rng.choice((1, MAX_CHOICES // prompts, MAX_CHOICES))
    size, answer = sizes(rng, prompts * choices, leaves)
    body = {**options(rng, prompts * choices), "max_tokens": answer, "n": choices, "stream": rng.random() < 0.4}
    if rng.random() < 0.3:
        body |= {"echo": True, "logprobs": rng.choice((None, 1, 20))}
        size = rng.choice((size, MAX_ECHO // choices // 4))
    return {**body, "prompt": [text(rng, size) for _ in range(prompts)]}


def _infill(rng: Random, leaves: bool) -> Body:
    size, answer = sizes(rng, 1, leaves)
    size = rng.choice((size, 20_000))
    files = rng.choice((0, 1, 100, 30_000))
    return {
        **options(rng, 1),
        "input_prefix": text(rng, size),
        "input_suffix": rng.choice((text(rng, size), long_text(rng) if rng.random() < 0.1 else "")),
        "input_extra": [{"filename": f"{i}", "text": text(rng, rng.choice((1, 10)))} for i in range(files)],
        "n_predict": answer,
        "stream": rng.random() < 0.5,
    }


def _tokenize(rng: Random, leaves: bool) -> Body:
    count, size = rng.choice(((1, 100_000), (1, 10), (1000, 100), (100_000, 1), (400_000, 1)))
    return {"content": [text(rng, size)] * count, "with_pieces": rng.random() < 0.5, "parse_special": True}


def _detokenize(rng: Random, leaves: bool) -> Body:
    return {"tokens": [number % 200 for number in range(rng.choice((10, 100_000, 2_000_000)))]}


def _odd(rng: Random, leaves: bool) -> Body:
    """Many small or nested values, in fields that are known and in others."""
    nested: Any = 1
    for _ in range(rng.choice((10, 200))):
        nested = [nested]
    name = rng.choice(("prompt", "stop", "logit_bias", "json_schema", "other", "messages", "samplers", "lora", "tools"))
    many: tuple[Any, ...] = ([[]] * 500_000, {str(i): 0 for i in range(200_000)}, "x" * 7_000_000, [0] * 2_000_000)
    body: Body = {"prompt": "a", "n_predict": 1, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    return body | {"input": "a", "input_prefix": "a", "input_suffix": "", name: rng.choice((nested, *many))}


def _inputs(rng: Random, name: str) -> Body:
    count, size = rng.choice(((1, 1), (1, 60), (32, 20), (MAX_INPUTS, 1), (MAX_INPUTS + 1, 1), (1, 300_000)))
    return {
        name: [text(rng, size)] * count,
        "dimensions": rng.choice((1, 64, 65)),
        "embd_normalize": rng.choice((2, 99)),
    }


def _embeddings(rng: Random, leaves: bool) -> Body:
    return {**_inputs(rng, "input"), "encoding_format": rng.choice(("float", "base64"))}


def _embedding(rng: Random, leaves: bool) -> Body:
    return _inputs(rng, "content")


def _rerank(rng: Random, leaves: bool) -> Body:
    name = rng.choice(("documents", "texts"))
    query = rng.choice(("a", text(rng, 20), text(rng, 4_000), long_text(rng)))
    documents = _inputs(rng, name)[name]
    if rng.random() < 0.2:
        documents = [{"text": one} for one in documents]
    return {"query": query, name: documents, "top_n": rng.choice((0, 1, 2**31 - 1)), "return_documents": True}


GENERATING: tuple[Path, ...] = (
    ("/completion", _completion),
    ("/completion", _completion),
    ("/completion", _long),
    ("/completion", _odd),
    ("/v1/completions", _text_completion),
    ("/v1/chat/completions", chat),
    ("/v1/chat/completions", chat),
    ("/v1/chat/completions", _odd),
    ("/v1/responses", responses),
    ("/v1/responses", responses),
    ("/v1/responses", _odd),
    ("/v1/messages", anthropic),
    ("/v1/messages", anthropic),
    ("/v1/messages", _odd),
    ("/v1/messages/count_tokens", count_tokens),
    ("/infill", _infill),
    ("/infill", _odd),
    ("/v1/embeddings", _embeddings),
    ("/tokenize", _tokenize),
    ("/detokenize", _detokenize),
    ("/apply-template", template),
)
RANKING: tuple[Path, ...] = (("/v1/rerank", _rerank), ("/v1/embeddings", _embeddings), ("/embedding", _embedding))
