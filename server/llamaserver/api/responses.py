"""OpenAI's Responses API, which Codex and the SDKs for agents speak. It is another form of chats."""

from contextlib import ExitStack
from dataclasses import dataclass, replace

from aiohttp import web

from ..errors import ContextExceeded, InvalidRequest
from ..interfaces.output import Delta, Event, Finish
from .answer import join, size_of
from .body import HOLD, dumps, encoded_response, long_response, read_fields
from .chat import count_tokens
from .chat_call import ChatCall, chat_call
from .context import CONTEXT, Context
from .field_names import FieldNames
from .fields import Fields
from .jobs import model_name, submit
from .responses_answer import Answer, Ending, Head
from .responses_request import read_request
from .sse import EventStream, gather, respond
from .submission import check_room

_DEFAULTS = {"repeat_penalty": 1.0}  # OpenAI's API has no repeat penalty


@dataclass(frozen=True, slots=True)
class _Request:
    """One request. If its conversation is too long, `call` is the error."""

    call: ChatCall | ContextExceeded
    names: FieldNames
    head: Head
    stream: bool


async def responses(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses."""
    check_room(request)
    context = request.app[CONTEXT]
    asked = await read_fields(request, lambda fields: _read(context, fields), _DEFAULTS)
    answer = Answer(asked.head)
    try:
        return await _run(request, asked, answer)
    except ContextExceeded as error:
        renamed = asked.names.renamed(error)
        if not asked.stream:
            raise renamed from error
        # Codex makes room in its conversation if a stream says this. A plain 400 ends its turn.
        out = EventStream(request)
        await out.write(answer.begin() + answer.fail(renamed))
        return await out.finish()
    except InvalidRequest as error:
        raise asked.names.renamed(error) from error


async def input_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses/input_tokens: how many tokens a request would take."""
    context = request.app[CONTEXT]
    return _counted(await read_fields(request, lambda fields: _count(context, fields)))


async def chat_input_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions/input_tokens: the same for a chat."""
    context = request.app[CONTEXT]
    return _counted(await read_fields(request, lambda fields: count_tokens(context, fields)))


def _counted(count: int) -> web.Response:
    return encoded_response(dumps({"object": "response.input_tokens", "input_tokens": count}))


def _count(context: Context, fields: Fields) -> int:
    asked = read_request(fields)
    try:
        return count_tokens(context, asked.chat)
    except InvalidRequest as error:
        raise asked.names.renamed(error) from error


def _read(context: Context, fields: Fields) -> _Request:
    """Translate, check and price a request (worker thread)."""
    fields.string("model")
    stream = fields.boolean("stream", default=False)
    asked = read_request(fields)
    call: ChatCall | ContextExceeded
    try:
        call = chat_call(context, asked.chat, stream=stream)
    except ContextExceeded as error:
        call = error
    except InvalidRequest as error:
        raise asked.names.renamed(error) from error
    return _Request(call, asked.names, Head(model_name(context), asked.echo, asked.form), stream)


async def _run(request: web.Request, asked: _Request, answer: Answer) -> web.StreamResponse:
    call = asked.call
    if isinstance(call, ContextExceeded):
        raise call
    reader = call.reader(0)

    def ending() -> Ending:
        return Ending(reader.finish, cut=reader.stop_reason == "length", reasoning_tokens=reader.reasoning_tokens)

    def encode(_: int, event: Event) -> bytes:
        assert isinstance(event, Delta | Finish)
        sent = answer.add(reader.feed(event))
        return sent + answer.end(ending()) if isinstance(event, Finish) else sent

    with ExitStack() as stack:
        streams = submit(request, call.jobs, stack)
        request[HOLD].add(len(asked.head.echo))
        if asked.stream:
            return await respond(request, streams, encode, head=answer.begin(), fail=answer.fail)
        [events] = await gather(streams)
    whole = join(events)

    def encoded() -> bytes:
        written = reader.feed(Delta(whole.content)) + reader.feed(replace(whole.finish, content=""))
        return answer.whole(written, ending())

    return await long_response(request, encoded, size_of([whole]) + len(asked.head.echo))


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    for prefix in ("/v1", ""):
        app.router.add_post(f"{prefix}/responses", responses)
        app.router.add_post(f"{prefix}/responses/input_tokens", input_tokens)
        app.router.add_post(f"{prefix}/chat/completions/input_tokens", chat_input_tokens)
