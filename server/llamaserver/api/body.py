"""Request bodies: JSON with any Content-Type or none, and answers as JSON."""

from typing import Any

import orjson
from aiohttp import web

from ..errors import InvalidRequest
from .context import CONTEXT

_LARGE = 1_000_000  # bytes from which on parsing leaves the event loop


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body as an object; InvalidRequest for anything else. An empty body is an empty object."""
    data = await request.read()
    if not data.strip():
        return {}
    if len(data) > _LARGE:
        return await request.app[CONTEXT].blocking(lambda: parse(data), len(data))
    return parse(data)


def parse(data: bytes) -> dict[str, Any]:
    """Parse an object; the parser itself refuses invalid UTF-8 and nesting beyond 1,024."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body


def dumps(value: Any) -> bytes:
    """JSON bytes; numbers that JSON cannot hold become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def json_response(value: Any, status: int = 200) -> web.Response:
    """An application/json answer."""
    return web.Response(body=dumps(value), status=status, content_type="application/json", charset="utf-8")
