"""OpenAI's embeddings endpoint."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ..errors import InvalidRequest
from ..interfaces.output import Embedded
from .body import dumps, long_response, read_fields
from .context import CONTEXT, Context
from .fields import Fields
from .jobs import model_name
from .submission import check_room
from .vectors import Inputs, Scaling, embed, per_token, read_inputs, read_scaling, require_embeddings, size_of


@dataclass(frozen=True, slots=True)
class _Call:
    inputs: Inputs
    form: str  # of the vectors: float or base64
    scaling: Scaling


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings: vectors of a text, texts, token ids or arrays of them."""
    context = request.app[CONTEXT]
    check_room(request)
    call = await read_fields(request, lambda fields: _call(context, fields))
    results = await embed(request, call.inputs)
    name = model_name(context)
    return await long_response(request, lambda: _answer(results, call, name), size_of(results))


def _call(context: Context, fields: Fields) -> _Call:
    require_embeddings(context)
    if per_token(context):
        raise InvalidRequest("Pooling type 'none' is not OAI compatible. Please use a different pooling type")
    form = fields.string("encoding_format", default="float")
    if form not in ("float", "base64"):
        raise InvalidRequest("Field 'encoding_format': must be float or base64", field="encoding_format")
    scaling = read_scaling(context, fields)
    return _Call(read_inputs(context, _inputs(fields), "input"), form, scaling)


def _answer(results: list[Embedded], call: _Call, model: str) -> bytes:
    data = [
        {"object": "embedding", "index": i, "embedding": _encoded(call.scaling(result.vectors[-1]), call.form)}
        for i, result in enumerate(results)
    ]
    tokens = sum(result.n_prompt for result in results)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return dumps({"object": "list", "data": data, "model": model, "usage": usage})


def _inputs(fields: Fields) -> list[Any]:
    name, value = fields.get("input", "content")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise InvalidRequest("Field 'input': must be a string or a non-empty array", field=name)
    return [value] if all(isinstance(item, int) for item in value) else value


def _encoded(vector: npt.NDArray[np.float32], form: str) -> Any:
    """The vector as JSON numbers, or its little-endian bytes in base64."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector


def add_routes(app: web.Application) -> None:
    """Mount the endpoint."""
    app.router.add_post("/v1/embeddings", embeddings)
