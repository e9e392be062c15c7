"""Request bodies, which are JSON whatever their Content-Type is, and answers as JSON."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from ..errors import InvalidRequest
from .context import CONTEXT
from .fields import Fields

_SIZE = web.RequestKey("size", int)
_THREAD_PARSES_FROM = 1_000_000  # bytes of a body: larger ones are parsed by a worker thread
_BOM = b"\xef\xbb\xbf"  # .NET and PowerShell write it before UTF-8
_FIRST, _SECOND = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = re.compile(rb"%b(?!%b)|%b(?<!%b%b)" % (_FIRST, _SECOND, _SECOND, _FIRST, _SECOND))
_MOST_HALVES = 10_000


async def read_fields(request: web.Request, defaults: Mapping[str, Any] | None = None) -> Fields:
    """Read the body, which must be a JSON object. An empty body is an empty object. Raises InvalidRequest."""
    return Fields(_object(await read_value(request)), defaults)


async def read_value(request: web.Request) -> Any:
    """Read the body as any JSON value, {} if it is empty. Waits at most --timeout seconds for it."""
    context = request.app[CONTEXT]
    announced, most = request.content_length or 0, context.config.max_body
    if announced > most:  # refused before it is read
        raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=announced)
    try:
        async with asyncio.timeout(context.config.timeout or None):
            data = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from error
    request[_SIZE] = len(data)
    if not data.removeprefix(_BOM).strip():
        return {}
    if len(data) > _THREAD_PARSES_FROM:
        return await context.blocking(lambda: _value(data), len(data))
    return _value(data)


def body_size(request: web.Request) -> int:
    """Bytes of the body as it was read, which can be more than its headers announced."""
    size: int = request.get(_SIZE, 0)
    return size


def parse(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. The parser refuses invalid UTF-8 and nesting deeper than 1,024. Raises InvalidRequest."""
    return _object(_value(data))


def _value(data: bytes) -> Any:
    data = data.removeprefix(_BOM)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in str(error) or b"\0" in data:
            raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    try:
        return orjson.loads(_without_halves(data))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error


def _without_halves(data: bytes) -> bytes:
    """Replace half an emoji, as in text that was cut inside one, by U+FFFD: the parser refuses it.

    Escaped backslashes are hidden first, because the letters after them are no escape.
    """
    hidden = data.replace(rb"\\", b"\0\0")
    return _HALF.sub(rb"\\ufffd", hidden, count=_MOST_HALVES).replace(b"\0\0", rb"\\")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def dumps(value: Any) -> bytes:
    """JSON bytes. Numbers that JSON cannot hold become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def json_response(value: Any, status: int = 200) -> web.Response:
    """An application/json answer."""
    return encoded_response(dumps(value), status)


def encoded_response(data: bytes, status: int = 200) -> web.Response:
    """An answer that is JSON already. Large answers are encoded by worker threads."""
    return web.Response(body=data, status=status, content_type="application/json", charset="utf-8")
