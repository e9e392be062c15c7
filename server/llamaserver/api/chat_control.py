"""POST /v1/chat/completions/control: end the thought of an answer that is being generated."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aiohttp import web

from ..errors import InvalidRequest
from .body import dumps, encoded_response, read_fields
from .context import CONTEXT
from .fields import Fields
from .jobs import Job
from .tenants import key_of


@contextmanager
def controlled(request: web.Request, name: str, jobs: Sequence[Job]) -> Iterator[None]:
    """Let clients with the same key control a completion of that id, while it lasts."""
    running, place = request.app[CONTEXT].running, (key_of(request).identity, name)
    running[place] = [job.request.sampler for job in jobs if job.request.sampler is not None]
    try:
        yield
    finally:
        del running[place]


async def control(request: web.Request) -> web.StreamResponse:
    """End the thoughts of all choices of a completion. `success` is false if nothing was there to be ended."""
    name = await read_fields(request, _wanted)
    samplers = request.app[CONTEXT].running.get((key_of(request).identity, name))
    if samplers is None:
        return encoded_response(dumps({"success": False, "message": "no completion with this id is running"}))
    ended = [sampler.end_thought() for sampler in samplers]
    if any(ended):
        return encoded_response(dumps({"success": True}))
    return encoded_response(dumps({"success": False, "message": "the model is not thinking"}))


def _wanted(fields: Fields) -> str:
    """The id of the completion."""
    name = fields.string("id")
    if not name:
        raise InvalidRequest("missing completion id", field="id")
    if fields.string("action") != "reasoning_end":
        raise InvalidRequest("unknown control action", field="action")
    return name


def add_routes(app: web.Application) -> None:
    """Mount the endpoint of this file."""
    app.router.add_post("/v1/chat/completions/control", control)
    app.router.add_post("/chat/completions/control", control)
