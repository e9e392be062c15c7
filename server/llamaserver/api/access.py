"""The access log: one line for each request, with its key's name and its id, and never with its content."""

import logging
import re
import time
import uuid
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .authorize import OPEN, Handler
from .context import CONTEXT
from .error_format import is_anthropic
from .paths import path_of
from .tenants import KEY
from .traffic import RECORD, Record

_access = logging.getLogger("llamaserver.access")
_QUIET = OPEN | {"/metrics"}
_ID = re.compile(r"[A-Za-z0-9_.:~/+=@-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_CLIENT_LEFT = 499  # the client closed the connection; nginx uses this number


@web.middleware
async def access_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request and write its line: who sent it, what came of it, its tokens and times."""
    began = time.monotonic()
    record = request[RECORD] = Record(_id(request))
    status = _CLIENT_LEFT
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        key = request[KEY].name if KEY in request else ""
        request.app[CONTEXT].traffic.add(key, status, record)
        level = logging.DEBUG if path_of(request) in _QUIET else logging.INFO
        if _access.isEnabledFor(level):
            took = round((time.monotonic() - began) * 1000, 1)
            fields = {"method": request.method, "path": request.path, "status": status, "ms": took}
            text = "%s %s %s %sms"
            fields |= _about(request, key, record)
            text += "".join(f" {name}=%s" for name in [*fields][4:])
            _access.log(level, text, *fields.values(), extra={"fields": fields})


def _about(request: web.Request, key: str, record: Record) -> dict[str, Any]:
    """The parts of a line that not every request has."""
    found: dict[str, Any] = {"key": key} if key else {}
    found |= {"peer": request.remote or "", "request_id": record.id}
    if record.prompt:
        found |= {
            "prompt_tokens": record.prompt,
            "evaluated_tokens": record.evaluated,
            "generated_tokens": record.generated,
        }
    if record.first_token is not None:
        found["first_token_ms"] = round(record.first_token * 1000, 1)
    return found


def _id(request: web.Request) -> str:
    """The id that a client or proxy has given the request, else a new one."""
    given = request.headers.get("X-Request-Id", "")
    if _ID.fullmatch(given):
        return given
    trace = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    return trace[1] if trace else uuid.uuid4().hex


def without_content(record: logging.LogRecord) -> bool:
    """A filter for aiohttp's log of requests that it cannot parse. Their bytes, which it shows, can be an API key."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = f"a request is no valid HTTP: {type(error).__name__}", ()
        record.exc_info = record.exc_text = None
    return True


async def answer_id(request: web.Request, response: web.StreamResponse) -> None:
    """Send the id back. aiohttp calls this before it sends an answer."""
    if RECORD in request:
        response.headers["X-Request-Id"] = request[RECORD].id
        if is_anthropic(request):
            response.headers["Request-Id"] = request[RECORD].id  # where Anthropic's SDKs look for it
