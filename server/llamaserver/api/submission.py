"""The way of every request into the engine: with its tenant, within the limits of its key."""

from dataclasses import replace

from aiohttp import web

from ..engine.loop import Request, Stream
from ..errors import RateLimited
from ..interfaces.tenant import Tenant
from .context import CONTEXT
from .paths import path_of
from .tenants import key_of
from .traffic import RECORD


def check_room(request: web.Request) -> None:
    """Raise Unavailable or RateLimited if no request of this key can be queued now. Called before the body is read."""
    request.app[CONTEXT].engine.check_queue(key_of(request).identity)
    check_limits(request)


def check_limits(request: web.Request, answers: int = 1) -> None:
    """Raise RateLimited if the key may not begin so many answers now, InvalidRequest if it never may.

    A request is checked as a whole: then all of its answers begin.
    """
    context = request.app[CONTEXT]
    try:
        context.limits.check(key_of(request), context.engine.settings.n_slots, answers)
    except RateLimited as error:
        if path_of(request).startswith("/v1/"):
            error.extra["code"] = "rate_limit_exceeded"  # as OpenAI's clients know it
        raise


def submit(request: web.Request, asked: Request, *, paid: bool = False) -> Stream:
    """Queue what a client asks for, after `check_limits`. `paid`: another answer to the same prompt has paid for it.

    Raises the errors of Engine.submit.
    """
    context, key, n_prompt = request.app[CONTEXT], key_of(request), len(asked.prompt)
    in_advance = 0 if paid else n_prompt
    context.limits.begin(key, in_advance)
    try:
        stream = context.engine.submit(replace(asked, tenant=tenant_of(request, asked.params.cache_salt)))
    except BaseException:
        context.limits.end(key, in_advance, 0)
        raise
    stream.on_exit = lambda: _end(request, stream, n_prompt, in_advance)
    return stream


def _end(request: web.Request, stream: Stream, n_prompt: int, in_advance: int) -> None:
    """The answer has been sent, or its client has left: settle its cost."""
    request.app[CONTEXT].limits.end(key_of(request), in_advance, stream.evaluated + stream.generated)
    record = request[RECORD]
    record.prompt += n_prompt
    record.evaluated += stream.evaluated
    record.generated += stream.generated
    if stream.waited is not None:
        record.first_token = min(stream.waited, record.first_token or stream.waited)


def tenant_of(request: web.Request, salt: str = "") -> Tenant:
    """The tenant of a request, for scheduling and for the cache. `salt` is its `cache_salt`."""
    key, isolated = key_of(request), request.app[CONTEXT].config.cache_isolation == "per-key"
    return Tenant(key.identity, _domain(key.domain if isolated else "", salt), key.limits.requests or 0)


def has_salt(domain: bytes) -> bool:
    """Whether a cache domain is that of a `cache_salt`."""
    return bool(domain.partition(b"\0")[2])


def _domain(name: str, salt: str) -> bytes:
    """The cache domain of a name, narrowed by a salt. Without both, it is the one that all requests share."""
    return f"{name}\0{salt}".encode("utf-8", "surrogatepass") if name or salt else b""
