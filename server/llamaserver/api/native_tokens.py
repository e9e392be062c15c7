"""The llama.cpp endpoints for tokens: tokenize and detokenize."""

from typing import Any

import orjson
from aiohttp import web

from ..interfaces.backend import Vocab
from .body import dumps, encoded_response, read_fields
from .context import CONTEXT, Context
from .fields import Fields, token_id, token_ids
from .lanes import cancelled
from .prompt import check_text


async def tokenize(request: web.Request) -> web.StreamResponse:
    """POST /tokenize: a string, or an array of strings and ids, without BOS unless `add_special` is true."""
    context = request.app[CONTEXT]
    return encoded_response(await read_fields(request, lambda fields: dumps(_tokenize(context, fields))))


def _tokenize(context: Context, fields: Fields) -> dict[str, Any]:
    vocab = context.engine.vocab
    special = fields.boolean("add_special", default=False)
    parse = fields.boolean("parse_special", default=True)
    names, items = _contents(fields)
    check_text(items, context.engine, "content")
    tokens: list[int] = []
    for index, (name, item) in enumerate(zip(names, items, strict=True)):
        if isinstance(item, str):
            tokens += vocab.tokenize(item, add_special=special and index == 0, parse_special=parse, cancelled=cancelled)
        else:
            tokens.append(token_id(item, vocab.n_vocab, name))
    if fields.boolean("with_pieces", default=False):
        encoded = {token: _encoded(vocab, token) for token in set(tokens)}  # as objects they take ten times the memory
        return {"tokens": [encoded[token] for token in tokens]}
    return {"tokens": tokens}


def _contents(fields: Fields) -> tuple[list[str], list[Any]]:
    """The entries of `content`, and their names in errors."""
    _, content = fields.get("content")
    if content is None:
        return [], []
    if isinstance(content, list):
        return [f"content.{index}" for index in range(len(content))], content
    return ["content"], [content]


def _encoded(vocab: Vocab, token: int) -> orjson.Fragment:
    """A token's id and piece as JSON. A piece that is no text becomes an array of its bytes."""
    piece = vocab.special_piece(token)
    try:
        return orjson.Fragment(dumps({"id": token, "piece": piece.decode("utf-8")}))
    except UnicodeDecodeError:
        return orjson.Fragment(dumps({"id": token, "piece": list(piece)}))


async def detokenize(request: web.Request) -> web.StreamResponse:
    """POST /detokenize."""
    context = request.app[CONTEXT]
    return encoded_response(await read_fields(request, lambda fields: dumps(_detokenize(context, fields))))


def _detokenize(context: Context, fields: Fields) -> dict[str, Any]:
    items, vocab = fields.array("tokens"), context.engine.vocab
    check_text(items, context.engine, "tokens")
    ids = token_ids(items, vocab.n_vocab, lambda place: f"tokens.{place}")
    return {"content": vocab.detokenize(ids)}


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/detokenize", detokenize)
