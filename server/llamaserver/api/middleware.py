"""The middlewares around every handler: origins, CORS, draining and errors. access.py and authorize.py have more."""

import asyncio
import logging

from aiohttp import web

from ..errors import Forbidden, HttpFailure, ServerError, Unauthorized, Unavailable
from .authorize import OPEN, Handler
from .body import HOLD, client_of, json_response
from .context import CONTEXT
from .error_format import error_json

_log = logging.getLogger(__name__)
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_HEADERS = "Authorization, Content-Type, X-Api-Key"  # to a preflight that names none
_EXPOSED = "Retry-After, WWW-Authenticate, Process-Start-Time-Unix, X-Request-Id, Request-Id, X-Schema-Weakened"
_REFUSED: web.RequestKey[bool] = web.RequestKey("refused", bool)  # on requests of origins that are not allowed


@web.middleware
async def known_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests of web pages that may not use this server (see origins.py). They cannot read the refusal."""
    try:
        request.app[CONTEXT].origins.check(request.headers.getall("Host", []), request.headers.getall("Origin", []))
    except Forbidden as error:
        request[_REFUSED] = True
        return error_response(request, error)
    return await handler(request)


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser's question before a request from another origin: everything is allowed, unless options limit it.

    Methods and headers are listed, because browsers take `*` for a name when credentials are allowed.
    """
    if request.method != "OPTIONS":
        return await handler(request)
    response = web.Response()
    _vary(response, "Access-Control-Request-Method", "Access-Control-Request-Headers")
    config = request.app[CONTEXT].config
    asked = dict.fromkeys([*_METHODS, _asked(request, "Access-Control-Request-Method", _METHODS[0])])
    headers = ", ".join(config.cors_headers) or _asked(request, "Access-Control-Request-Headers", _HEADERS)
    response.headers["Access-Control-Allow-Methods"] = ", ".join(config.cors_methods or asked)
    response.headers["Access-Control-Allow-Headers"] = headers
    return response


async def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Let pages of any origin that is allowed read an answer. aiohttp calls this before it sends one."""
    _vary(response, "Origin")
    if _REFUSED in request:
        return
    origin = _asked(request, "Origin", "*")
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    if origin != "*" and request.app[CONTEXT].config.cors_credentials:
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
    """Turn every failure into an answer of the form that error_format.py chooses."""
    try:
        return await handler(request)
    except ServerError as error:
        return error_response(request, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _from_http(request, error)
    except (ConnectionResetError, ConnectionAbortedError):
        # The client has gone, and a write has found that out first. aiohttp would log it as an error of the server.
        raise asyncio.CancelledError from None
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return error_response(request, ServerError("internal error. See the server's log"))


def error_response(request: web.Request, error: ServerError) -> web.Response:
    """The answer for one of our errors."""
    response = json_response(error_json(request, error), error.status)
    if isinstance(error, Unavailable) and error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
        if error.closes:
            response.force_close()
    if error.status == web.HTTPUnsupportedMediaType.status_code:
        response.headers["Accept-Encoding"] = "identity"  # RFC 9110, 15.5.16
    return response


def _from_http(request: web.Request, error: web.HTTPException) -> web.Response:
    messages = {
        404: f"no such path: {request.path}",
        408: "the body did not arrive within --timeout seconds",
        405: f"{request.path} does not take {request.method}",
        413: "the body exceeds --max-body",
    }
    response = error_response(request, HttpFailure(error.status, messages.get(error.status, error.reason)))
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
    elif request.path in OPEN:
        response = await handler(request)
    else:
        response = error_response(request, Unavailable("the server is shutting down", retry_after=5))
    # The head of an answer that was sent before the drain did not close the connection: leave it open.
    if not response.prepared and drain.closes(request):
        response.force_close()
    return response


@web.middleware
async def count_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the bytes of the body, as it is read, until the request is answered."""
    with request.app[CONTEXT].bodies.hold(client_of(request)) as hold:
        request[HOLD] = hold
        return await handler(request)
