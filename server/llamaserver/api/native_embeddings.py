"""The llama.cpp endpoint for embeddings."""

from aiohttp import web

from ..errors import InvalidRequest, NotSupported
from ..interfaces.output import Embedded
from .body import dumps, long_response, read_fields
from .context import CONTEXT, Context
from .fields import Fields
from .submission import check_room
from .vectors import Inputs, Scaling, embed, read_inputs, read_scaling, require_embeddings, size_of


async def embedding(request: web.Request) -> web.StreamResponse:
    """POST /embedding and /embeddings: vectors of `content`, which is one text or an array of texts."""
    context = request.app[CONTEXT]
    check_room(request)
    inputs, many, scaling = await read_fields(request, lambda fields: _inputs(context, fields))
    results = await embed(request, inputs)
    return await long_response(request, lambda: _answer(results, many, scaling), size_of(results))


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
    return read_inputs(context, content if many else [content], name), many, read_scaling(context, fields)


def _answer(results: list[Embedded], many: bool, scaling: Scaling) -> bytes:
    vectors = [scaling(item.vectors[-1]) for item in results]
    if not many:
        return dumps({"embedding": vectors[0]})
    return dumps([{"index": i, "embedding": vector} for i, vector in enumerate(vectors)])


def add_routes(app: web.Application) -> None:
    """Mount the endpoint."""
    app.router.add_post("/embedding", embedding)
    app.router.add_post("/embeddings", embedding)
