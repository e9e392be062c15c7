"""The description of this API that the server itself offers."""

from functools import cache
from pathlib import Path

import yaml
from aiohttp import web

from .body import dumps


@cache
def _document() -> bytes:
    text = Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    return dumps(yaml.safe_load(text))


async def openapi(request: web.Request) -> web.StreamResponse:
    """GET /openapi.json."""
    return web.Response(body=_document(), content_type="application/json", charset="utf-8")


def add_routes(app: web.Application) -> None:
    """Mount the endpoint of this file."""
    app.router.add_get("/openapi.json", openapi)
