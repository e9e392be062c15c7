"""The LoRA adapters and their scales."""

from typing import Any

from aiohttp import web

from ..errors import InvalidRequest
from .body import json_response, read_value
from .context import CONTEXT, Context
from .fields import Fields
from .tenants import require_admin


async def lora_list(request: web.Request) -> web.StreamResponse:
    """GET /lora-adapters."""
    context = request.app[CONTEXT]
    context.require_ready()
    return json_response(
        [
            {"id": i, "path": path, "scale": scale}
            for i, ((path, _), scale) in enumerate(zip(context.config.lora, context.engine.lora_scales, strict=True))
        ]
    )


async def lora_set(request: web.Request) -> web.StreamResponse:
    """POST /lora-adapters: [{id, scale}]. Adapters that are not named are switched off."""
    require_admin(request, "POST /lora-adapters changes the answers of all keys, so it")
    context = request.app[CONTEXT]
    context.engine.set_lora(await read_value(request, lambda value: _scales(context, value)))
    return json_response({"success": True})


def _scales(context: Context, data: Any) -> tuple[float, ...]:
    if not isinstance(data, list):
        raise InvalidRequest("the body must be an array of {id, scale}")
    scales = [0.0] * context.engine.info.n_lora
    for item in data:
        fields = Fields(item if isinstance(item, dict) else {})
        number = fields.integer("id", default=-1)
        if not 0 <= number < len(scales):
            raise InvalidRequest(f"Field 'id': no such adapter. {len(scales)} adapters are loaded", field="id")
        scales[number] = fields.number("scale", default=1.0)
    return tuple(scales)


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_get("/lora-adapters", lora_list)
    app.router.add_post("/lora-adapters", lora_set)
