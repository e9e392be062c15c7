"""Reranking: scores of documents for a query, with answers in the forms of Jina and of Text Embeddings Inference."""

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..errors import InvalidRequest, NotSupported
from ..interfaces.backend import Vocab
from ..interfaces.output import Embedded
from ..interfaces.params import Prompt
from .body import dumps, long_response, read_fields
from .context import CONTEXT, Context
from .fields import Fields
from .jobs import model_name
from .lanes import cancelled
from .pricing import check_product
from .prompt import check_length, numbered
from .submission import check_room
from .vectors import MAX_INPUTS, Inputs, embed

_TEMPLATE = "tokenizer.chat_template.rerank"  # in the model's metadata
_PLACES = re.compile(r"\{(query|document)\}")
_BYTES_OF_RESULT = 64  # as JSON, without the document


@dataclass(frozen=True, slots=True)
class _Call:
    inputs: Inputs
    plain: bool  # the answer is the list of Text Embeddings Inference
    top: int  # so many of the best
    shown: tuple[str, ...]  # the documents, if the answer has them


async def rerank(request: web.Request) -> web.StreamResponse:
    """POST /v1/rerank and its other names: the score of each document for a query, best first."""
    context = request.app[CONTEXT]
    check_room(request)
    call = await read_fields(request, lambda fields: _call(context, fields))
    shown = sum(map(len, call.shown))
    results = await embed(request, call.inputs, kept=shown)
    name = model_name(context)
    return await long_response(request, lambda: _answer(results, call, name), len(results) * _BYTES_OF_RESULT + shown)


def _call(context: Context, fields: Fields) -> _Call:
    if not (context.config.embedding and context.engine.info.pooling == "rank"):
        raise NotSupported("This server does not support reranking. Start it with `--reranking`")
    query = fields.string("query")
    if not query:
        raise InvalidRequest('"query" must be provided', field="query")
    field, documents = _documents(fields)
    top = fields.integer("top_n", default=len(documents), low=0)
    show = fields.boolean("return_text", "return_documents", default=False)
    prompt = _prompt(context, query)
    inputs: Inputs = []
    for name, document in zip(numbered(field, len(documents)), documents, strict=True):
        check_length([query, document], context.engine, name)
        inputs.append((Prompt(array("q", prompt(document))), name))
    return _Call(inputs, field == "texts", top, tuple(documents) if show else ())


def _documents(fields: Fields) -> tuple[str, list[str]]:
    """The documents, and the name of their field. Their number times the length of the query is bounded."""
    field, value = fields.get("documents", "texts")
    given = value if isinstance(value, list) else []
    items = [item.get("text") if isinstance(item, dict) else item for item in given]
    texts = [item for item in items if isinstance(item, str)]
    if not texts or len(texts) < len(items):
        raise InvalidRequest(f'"{field}" must be a non-empty string array', field=field)
    if len(items) > MAX_INPUTS:
        raise InvalidRequest(f"Field '{field}': at most {MAX_INPUTS} documents", field=field)
    check_product("query", len(fields.string("query")), len(items), "documents")
    return field, texts


def _prompt(context: Context, query: str) -> Callable[[str], list[int]]:
    """A function from a document to the tokens that are scored. It is that of llama-server.

    The model's own template has places for both texts. Without one, it is [BOS] query [EOS] [SEP] document [EOS].
    """
    vocab = context.engine.vocab
    if template := context.engine.info.metadata.get(_TEMPLATE):
        return lambda document: _filled(vocab, template, {"query": query, "document": document})
    end = vocab.sep if vocab.eos < 0 else vocab.eos
    close = [end] if vocab.add_eos else []
    begin = [vocab.bos] if vocab.add_bos else []
    begin += [*_tokens(vocab, query), *close, *([vocab.sep] if vocab.add_sep else [])]
    return lambda document: [*begin, *_tokens(vocab, document), *close]


def _filled(vocab: Vocab, template: str, texts: dict[str, str]) -> list[int]:
    text = _PLACES.sub(lambda place: texts[place[1]], template)
    return vocab.tokenize(text, add_special=False, parse_special=True, cancelled=cancelled)


def _tokens(vocab: Vocab, text: str) -> list[int]:
    return vocab.tokenize(text, add_special=False, parse_special=False, cancelled=cancelled)


def _answer(results: list[Embedded], call: _Call, model: str) -> bytes:
    scores = [float(result.vectors[-1][0]) for result in results]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: call.top]
    if call.plain:
        texts = [{"text": call.shown[index]} if call.shown else {} for index in best]
        return dumps([{"index": i, "score": scores[i], **text} for i, text in zip(best, texts, strict=True)])
    entries: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in best]
    for entry in entries if call.shown else ():
        entry["document"] = {"text": call.shown[entry["index"]]}
    tokens = sum(result.n_prompt for result in results)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return dumps({"model": model, "object": "list", "usage": usage, "results": entries})


def add_routes(app: web.Application) -> None:
    """Mount the endpoint under all its names."""
    for path in ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking"):
        app.router.add_post(path, rerank)
