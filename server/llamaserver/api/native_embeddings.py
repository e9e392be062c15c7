"""The llama.cpp endpoint for embeddings."""

from functools import partial

import numpy as np
from aiohttp import web

from ..errors import InvalidRequest, NotSupported
from ..interfaces.output import Embedded
from .body import dumps, long_response, read_fields
from .context import CONTEXT, Context
from .fields import Fields
from .submission import check_room
from .vectors import (
    Inputs,
    Scaling,
    check_numbers,
    embed,
    per_token,
    read_inputs,
    read_scaling,
    require_embeddings,
    size_of,
)


async def embedding(request: web.Request) -> web.StreamResponse:
    """POST /embedding and /embeddings: vectors of `content`, which is one text or an array of texts.

    With --pooling none, there is one for each token, and the answer has the form of today's llama-server.
    """
    context = request.app[CONTEXT]
    check_room(request)
    inputs, many, scaling = await read_fields(request, lambda fields: _inputs(context, fields))
    every = per_token(context)
    results = await embed(request, inputs, every=every)
    encode = partial(_all_vectors, results, scaling) if every else partial(_answer, results, many, scaling)
    return await long_response(request, encode, size_of(results))


def _inputs(context: Context, fields: Fields) -> tuple[Inputs, bool, Scaling]:
    """The prompts, whether the answer is an array, and how the vectors are scaled."""
    require_embeddings(context)
    if fields.array("image_data"):
        raise NotSupported(
            "Field 'image_data': images cannot be embedded. The library computes embeddings of token rows only",
            field="image_data",
        )
    name, content = fields.get("content", "input")
    if content is None:
        raise InvalidRequest("Field 'content': is required", field="content")
    many = isinstance(content, list) and bool(content) and all(isinstance(item, str | list) for item in content)
    inputs = read_inputs(context, content if many else [content], name)
    if per_token(context):
        check_numbers(context, inputs)
    return inputs, many, read_scaling(context, fields)


def _answer(results: list[Embedded], many: bool, scaling: Scaling) -> bytes:
    vectors = [scaling(item.vectors[-1]) for item in results]
    if not many:
        return dumps({"embedding": vectors[0]})
    return dumps([{"index": i, "embedding": vector} for i, vector in enumerate(vectors)])


def _all_vectors(results: list[Embedded], scaling: Scaling) -> bytes:
    """The vectors of all tokens. Their norms stay."""
    vectors = [np.ascontiguousarray(item.vectors[:, : scaling.dimensions]) for item in results]
    return dumps([{"index": i, "embedding": rows} for i, rows in enumerate(vectors)])


def add_routes(app: web.Application) -> None:
    """Mount the endpoint."""
    app.router.add_post("/embedding", embedding)
    app.router.add_post("/embeddings", embedding)
