"""The middlewares around every handler: access log, origins, CORS, draining, errors and API keys."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

from ..errors import Forbidden, HttpFailure, ServerError, Unauthorized, Unavailable
from .body import json_response
from .context import CONTEXT
from .key_file import Key
from .keys import KeyStore
from .tenants import KEY

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = logging.getLogger(__name__)
_access = logging.getLogger("llamaserver.access")
_OPEN = frozenset({"/health", "/v1/health"})
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_HEADERS = "Authorization, Content-Type, X-Api-Key"  # to a preflight that names none
_EXPOSED = "Retry-After, WWW-Authenticate, Process-Start-Time-Unix"
_REFUSED: web.RequestKey[bool] = web.RequestKey("refused", bool)  # on requests of origins that are not allowed


@web.middleware
async def access_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Write one log line per request: method, path, status, milliseconds."""
    began = time.monotonic()
    status = 499  # the client closed the connection; nginx uses this number
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        level = logging.DEBUG if request.path in _OPEN or request.path == "/metrics" else logging.INFO
        if _access.isEnabledFor(level):
            took = round((time.monotonic() - began) * 1000, 1)
            fields = {"method": request.method, "path": request.path, "status": status, "ms": took}
            _access.log(level, "%s %s %s %sms", *fields.values(), extra={"fields": fields})


@web.middleware
async def known_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests of web pages that may not use this server (see origins.py). They cannot read the refusal."""
    try:
        request.app[CONTEXT].origins.check(request.headers.getall("Host", []), request.headers.getall("Origin", []))
    except Forbidden as error:
        request[_REFUSED] = True
        return error_response(error)
    return await handler(request)


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser's question before a request from another origin: everything is allowed.

    Methods and headers are listed, because browsers take `*` for a name when credentials are allowed.
    """
    if request.method != "OPTIONS":
        return await handler(request)
    response = web.Response()
    _vary(response, "Access-Control-Request-Method", "Access-Control-Request-Headers")
    methods = dict.fromkeys([*_METHODS, _asked(request, "Access-Control-Request-Method", _METHODS[0])])
    response.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
    response.headers["Access-Control-Allow-Headers"] = _asked(request, "Access-Control-Request-Headers", _HEADERS)
    return response


async def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Let pages of any origin that is allowed read an answer. aiohttp calls this before it sends one."""
    _vary(response, "Origin")
    if _REFUSED in request:
        return
    origin = _asked(request, "Origin", "*")
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    if origin != "*":
        response.headers["Access-Control-Allow-Credentials"] = "true"


def _asked(request: web.Request, name: str, otherwise: str) -> str:
    """A header of the request, if an answer can repeat it safely."""
    value = request.headers.get(name, "")
    return value if value and value.isascii() and value.isprintable() else otherwise


def _vary(response: web.StreamResponse, *names: str) -> None:
    """Tell caches that the answer depends on these headers of the request."""
    response.headers["Vary"] = ", ".join([*response.headers.getall("Vary", []), *names])


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into `{"error": {code, message, type}}`."""
    try:
        return await handler(request)
    except ServerError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _from_http(request, error)
    except (ConnectionResetError, ConnectionAbortedError):
        raise
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return error_response(ServerError("internal error. See the server's log"))


def error_response(error: ServerError) -> web.Response:
    """The answer for one of our errors."""
    response = json_response(error.body(), error.status)
    if isinstance(error, Unavailable) and error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _from_http(request: web.Request, error: web.HTTPException) -> web.Response:
    messages = {
        404: f"no such path: {request.path}",
        408: "the body did not arrive within --timeout seconds",
        405: f"{request.path} does not take {request.method}",
        413: "the body exceeds --max-body",
    }
    response = error_response(HttpFailure(error.status, messages.get(error.status, error.reason)))
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


@web.middleware
async def draining(request: web.Request, handler: Handler) -> web.StreamResponse:
    """During a drain, close connections after their answer and refuse requests (see drain.py)."""
    drain = request.app[CONTEXT].drain
    if not drain.refuses(request.protocol):
        with drain.running(request.protocol):
            response = await handler(request)
    elif request.path in _OPEN:
        response = await handler(request)
    else:
        response = error_response(Unavailable("the server is shutting down", retry_after=5))
    # The head of an answer that was sent before the drain did not close the connection: leave it open.
    if not response.prepared and drain.closes(request):
        response.force_close()
    return response


@web.middleware
async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find the API key of a request. Refuse requests without a valid one, where keys are configured."""
    keys = request.app[CONTEXT].keys
    if keys.required and not _open_to_all(request):
        request[KEY] = _key(request, keys)
    return await handler(request)


def _open_to_all(request: web.Request) -> bool:
    if request.path in _OPEN:
        return "include_slots" not in request.query
    return request.get("public", False) or getattr(request.match_info.handler, "public", False)


def _key(request: web.Request, keys: KeyStore) -> Key:
    """The first valid key. A proxy may have sent its own beside the client's. Raises Unauthorized."""
    for offered in _offered(request):
        if (key := keys.find(offered)) is not None:
            return key
    raise Unauthorized("Invalid API Key")


def _offered(request: web.Request) -> Iterator[str]:
    for authorization in request.headers.getall("Authorization", []):
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            yield token.strip()
    yield from filter(None, request.headers.getall("X-Api-Key", []))
