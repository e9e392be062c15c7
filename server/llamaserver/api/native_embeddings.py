"""The llama.cpp endpoint for embeddings."""

from aiohttp import web

from ..errors import InvalidRequest, NotSupported
from .body import json_response, read_fields
from .context import CONTEXT
from .vectors import embed, unit


async def embedding(request: web.Request) -> web.StreamResponse:
    """POST /embedding and /embeddings: unit vectors of `content`, which is one text or an array of texts."""
    context = request.app[CONTEXT]
    fields = await read_fields(request)
    context.require_ready()
    if not context.config.embedding:
        raise NotSupported("This server does not support embeddings. Start it with `--embedding`")
    if fields.array("image_data"):
        raise NotSupported(
            "Field 'image_data': images cannot be embedded. The library computes embeddings of token rows only",
            field="image_data",
        )
    name, content = fields.get("content", "input")
    if content is None:
        raise InvalidRequest("Field 'content': is required", field="content")
    many = isinstance(content, list) and bool(content) and all(isinstance(item, str | list) for item in content)
    results = await embed(request, content if many else [content], name)
    vectors = [unit(item.vectors[-1]) for item in results]
    if not many:
        return json_response({"embedding": vectors[0]})
    return json_response([{"index": i, "embedding": vector} for i, vector in enumerate(vectors)])


def add_routes(app: web.Application) -> None:
    """Mount the endpoint."""
    app.router.add_post("/embedding", embedding)
    app.router.add_post("/embeddings", embedding)
