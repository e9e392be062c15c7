"""The way of every request into the engine: with its tenant, within the limits of its key."""

from dataclasses import replace

from aiohttp import web

from ..engine.loop import Request, Stream
from ..errors import RateLimited
from .context import CONTEXT
from .tenants import key_of, tenant_of
from .traffic import RECORD


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
