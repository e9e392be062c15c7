"""Request bodies, which are JSON whatever their Content-Type is, and answers as JSON.

A body is read on the event loop, and parsed on a worker thread, in the call that uses it. So the parsed value, which
can be much larger than the text, does not live longer than that call.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import orjson
from aiohttp import web

from ..errors import HttpFailure, InvalidRequest
from .body_bytes import Hold
from .context import CONTEXT
from .fields import Fields
from .json_size import check_size
from .remote_images import Urls, image_urls, put_images
from .tenants import key_of

T = TypeVar("T")
HOLD = web.RequestKey("hold", Hold)
_BOM = b"\xef\xbb\xbf"  # .NET and PowerShell write it before UTF-8
_FIRST, _SECOND = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = re.compile(rb"%b(?!%b)|%b(?<!%b%b)" % (_FIRST, _SECOND, _SECOND, _FIRST, _SECOND))
_PAIR = len(rb"\ud83d\ude00")
_MOST_HALVES = 10_000
_STEP = 1 << 18  # bytes that are searched in one piece
_IMAGE_FIELDS = (b"image_url", b"image_data", b"multimodal_data", b'"image"')
_SCHEMES = (b"http", b"HTTP")
_ENCODED_BY_THREAD_FROM = 1 << 16  # bytes of an answer


async def read_fields(request: web.Request, use: Callable[[Fields], T], defaults: Mapping[str, Any] | None = None) -> T:
    """Read the body, a JSON object, and run `use` with its fields on a worker thread. An empty body is an empty object.

    `use` runs only if the server is ready. Its result must not refer to more of the fields than it needs.
    Raises InvalidRequest or Unavailable.
    """
    return await read_value(request, lambda value: use(Fields(_object(value), defaults)))


async def read_value(request: web.Request, use: Callable[[Any], T]) -> T:
    """Read the body as any JSON value, {} if it is empty, and run `use` with it. Else like `read_fields`."""
    context, client = request.app[CONTEXT], client_of(request)
    data = await _read(request)
    has_images = bool(context.config.mmproj) and any(name in data for name in _IMAGE_FIELDS)
    images: dict[str, bytes] = {}

    def find_urls() -> Urls:
        context.require_ready()
        return image_urls(_value(data))

    def work() -> T:
        value = _value(data)
        data.clear()
        context.require_ready()
        put_images(value, images, context.config.largest_body)
        images.clear()
        try:
            return use(value)
        except RecursionError:
            raise InvalidRequest("the request is nested too deeply") from None

    if has_images and context.config.image_hosts and any(scheme in data for scheme in _SCHEMES):
        urls = await context.blocking(find_urls, len(data), client)
        images |= await context.remote_images.fetch(urls, client, request[HOLD])
    return await context.blocking(work, len(data), client, images=has_images)


async def _read(request: web.Request) -> bytearray:
    """The bytes of the body. Waits at most --timeout seconds for them. They are counted until the request ends."""
    config = request.app[CONTEXT].config
    hold, most, announced = request[HOLD], config.largest_body, request.content_length or 0
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":  # a few bytes could become gigabytes
        raise HttpFailure(415, f"the body must not be compressed, but its Content-Encoding is {encoding[:40]!r}")
    if announced > most:
        raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=announced)
    hold.check(announced)  # refused before it is read
    data = bytearray()
    try:
        async with asyncio.timeout(config.timeout or None):
            while piece := await request.content.readany():
                hold.add(len(piece))
                data += piece
                if len(data) > most:
                    raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=len(data))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from error
    return data


def client_of(request: web.Request) -> str:
    """Who shares threads and memory fairly with others: a tenant, or an address where there are no keys."""
    return key_of(request).identity or request.remote or ""


def parse(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. The parser refuses invalid UTF-8 and nesting deeper than 1,024. Raises InvalidRequest."""
    return _object(_value(data))


def _value(data: bytes | bytearray) -> Any:
    if data.startswith(_BOM):
        data = data.removeprefix(_BOM)
    if not data or data.isspace():
        return {}
    check_size(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in str(error) or b"\0" in data:
            raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    try:
        return orjson.loads(_without_halves(data))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error


def _without_halves(data: bytes | bytearray) -> bytes:
    """Replace half an emoji, as in text that was cut inside one, by U+FFFD: the parser refuses it.

    Escaped backslashes are hidden first, because the letters after them are no escape.
    """
    hidden = data.replace(rb"\\", b"\0\0")
    parts: list[bytes | bytearray] = []
    at = 0
    for half in islice(_halves(hidden), _MOST_HALVES):
        parts += [hidden[at : half.start()], rb"\ufffd"]
        at = half.end()
    return b"".join([*parts, hidden[at:]]).replace(b"\0\0", rb"\\")


def _halves(text: bytes | bytearray) -> Iterator[re.Match[bytes]]:
    """Find all halves in order. Each search is short, because it holds the interpreter."""
    for start in range(0, len(text), _STEP):
        end = start + _STEP
        for half in _HALF.finditer(text, start, end + _PAIR):
            if half.start() >= end:
                break
            yield half


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def dumps(value: Any) -> bytes:
    """JSON bytes. Numbers that JSON cannot hold become null.

    Raises InvalidRequest for more than 254 levels: only values that a client has sent can have so many.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        if "ecursion" not in str(error):
            raise
        raise InvalidRequest("the request is nested too deeply") from error


def json_response(value: Any, status: int = 200) -> web.Response:
    """A short application/json answer."""
    return encoded_response(dumps(value), status)


async def long_response(request: web.Request, encode: Callable[[], bytes], size: int) -> web.Response:
    """An answer of about `size` bytes. A worker thread encodes it if that takes long."""
    if size < _ENCODED_BY_THREAD_FROM:
        return encoded_response(encode())
    return encoded_response(await request.app[CONTEXT].blocking(encode, client=client_of(request)))


def encoded_response(data: bytes, status: int = 200) -> web.Response:
    """An answer that is JSON already."""
    return web.Response(body=data, status=status, content_type="application/json", charset="utf-8")
