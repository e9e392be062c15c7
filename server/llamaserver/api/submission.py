"""The way of every request into the engine: with its tenant, within the limits of its key."""

from dataclasses import replace

from aiohttp import web

from ..engine.loop import Request, Stream
from ..errors import RateLimited
from ..interfaces.tenant import Tenant
from .context import CONTEXT
from .tenants import key_of
from .traffic import RECORD


def check_room(request: web.Request) -> None:
    """Raise Unavailable or RateLimited if no request of this key can be queued now. Called before the body is read."""
    context, key = request.app[CONTEXT], key_of(request)
    context.engine.check_queue(key.identity)
    try:
        context.limits.check(key, context.engine.settings.n_slots)
    except RateLimited as error:
        raise _in_dialect(request, error) from error


def submit(request: web.Request, asked: Request) -> Stream:
    """Queue what a client asks for. Raises RateLimited, and the errors of Engine.submit."""
    context, key, n_prompt = request.app[CONTEXT], key_of(request), len(asked.prompt)
    try:
        context.limits.begin(key, context.engine.settings.n_slots, n_prompt)
    except RateLimited as error:
        raise _in_dialect(request, error) from error
    try:
        stream = context.engine.submit(replace(asked, tenant=tenant_of(request, asked.params.cache_salt)))
    except BaseException:
        context.limits.end(key, n_prompt, 0)
        raise
    stream.on_exit = lambda: _end(request, stream, n_prompt)
    return stream


def _end(request: web.Request, stream: Stream, n_prompt: int) -> None:
    """The answer has been sent, or its client has left: settle its cost."""
    request.app[CONTEXT].limits.end(key_of(request), n_prompt, stream.evaluated + stream.generated)
    record = request[RECORD]
    record.prompt += n_prompt
    record.evaluated += stream.evaluated
    record.generated += stream.generated
    if stream.waited is not None:
        record.first_token = min(stream.waited, record.first_token or stream.waited)


def _in_dialect(request: web.Request, error: RateLimited) -> RateLimited:
    """The error with OpenAI's code, where OpenAI's clients see it."""
    if request.path.startswith("/v1/"):
        error.extra["code"] = "rate_limit_exceeded"
    return error


def tenant_of(request: web.Request, salt: str = "") -> Tenant:
    """The tenant of a request, for scheduling and for the cache. `salt` is its `cache_salt`."""
    key, isolated = key_of(request), request.app[CONTEXT].config.cache_isolation == "per-key"
    return Tenant(key.identity, _domain(key.domain if isolated else "", salt), key.limits.requests or 0)


def _domain(name: str, salt: str) -> bytes:
    """The cache domain of a name, narrowed by a salt. Without both, it is the one that all requests share."""
    return f"{name}\0{salt}".encode("utf-8", "surrogatepass") if name or salt else b""
