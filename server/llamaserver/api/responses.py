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
from .fields import DIALECT_DEFAULTS, Fields
from .jobs import model_name, submit
from .kept_responses import Earlier, Kept
from .responses_answer import Answer, Ending, Head
from .responses_request import read_request
from .sse import EventStream, gather, respond
from .submission import check_room
from .tenants import key_of


@dataclass(frozen=True, slots=True)
class _Request:
    """One request. If its conversation is too long, `call` is the error. `previous` and `kept` are as in Asked."""

    call: ChatCall | ContextExceeded
    names: FieldNames
    head: Head
    stream: bool
    previous: str
    kept: bytes


async def responses(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses."""
    check_room(request)
    context, earlier = request.app[CONTEXT], _earlier(request)
    asked = await read_fields(request, lambda fields: _read(context, fields, earlier), DIALECT_DEFAULTS)
    answer = Answer(asked.head)
    try:
        return await _run(request, asked, answer)
    except ContextExceeded as error:
        renamed = asked.names.renamed(error)
        if not asked.stream:
            raise renamed from error
        # Codex makes room in its conversation if a stream says this. A plain 400 ends its turn.
        out = EventStream(request)
        await out.write(answer.fail(renamed))
        return await out.finish()
    except InvalidRequest as error:
        raise asked.names.renamed(error) from error


async def input_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses/input_tokens: how many tokens a request would take."""
    context, earlier = request.app[CONTEXT], _earlier(request)
    return _counted(await read_fields(request, lambda fields: _count(context, fields, earlier)))


async def chat_input_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions/input_tokens: the same for a chat."""
    context = request.app[CONTEXT]
    return _counted(await read_fields(request, lambda fields: count_tokens(context, fields)))


def _counted(count: int) -> web.Response:
    return encoded_response(dumps({"object": "response.input_tokens", "input_tokens": count}))


def _earlier(request: web.Request) -> Earlier:
    context = request.app[CONTEXT]
    return Earlier(context.responses, key_of(request).identity, context.config.largest_body)


def _count(context: Context, fields: Fields, earlier: Earlier) -> int:
    asked = read_request(fields, earlier)
    try:
        return count_tokens(context, asked.chat)
    except InvalidRequest as error:
        raise asked.names.renamed(error) from error


def _read(context: Context, fields: Fields, earlier: Earlier) -> _Request:
    """Translate, check and price a request (worker thread)."""
    fields.string("model")
    stream = fields.boolean("stream", default=False)
    asked = read_request(fields, earlier)
    call: ChatCall | ContextExceeded
    try:
        # The end of a stream repeats all of it. So it is bounded as an answer in one piece, if it has probabilities.
        call = chat_call(context, asked.chat, stream=stream and asked.form.logprobs is None, arguments=asked.arguments)
    except ContextExceeded as error:
        call = error
    except InvalidRequest as error:
        raise asked.names.renamed(error) from error
    head = Head(model_name(context), asked.echo, asked.form)
    return _Request(call, asked.names, head, stream, asked.previous, asked.kept)


async def _run(request: web.Request, asked: _Request, answer: Answer) -> web.StreamResponse:
    call = asked.call
    if isinstance(call, ContextExceeded):
        raise call
    reader = call.reader(0)

    def ending() -> Ending:
        return Ending(reader.finish, cut=reader.stop_reason == "length", reasoning_tokens=reader.reasoning_tokens)

    def encode(_: int, event: Event) -> bytes:
        assert isinstance(event, Delta | Finish)
        sent = answer.add(reader.feed(event), event.probs)
        if isinstance(event, Finish):
            sent += answer.end(ending())
            _keep(request, asked, answer)
        return sent

    with ExitStack() as stack:
        streams = submit(request, call.jobs, stack)
        request[HOLD].add(len(asked.head.echo) + len(asked.kept))
        if asked.stream:
            return await respond(request, streams, encode, fail=answer.fail, ping=answer.ping, held=lambda: reader.held)
        [events] = await gather(streams)
    whole = join(events)

    def encoded() -> bytes:
        written = reader.feed(Delta(whole.content)) + reader.feed(replace(whole.finish, content=""))
        data = answer.whole(written, ending(), whole.probs)
        _keep(request, asked, answer)
        return data

    return await long_response(request, encoded, reader.cost(size_of([whole])) + len(asked.head.echo))


def _keep(request: web.Request, asked: _Request, answer: Answer) -> None:
    """Keep a response, if its client wants that."""
    if asked.kept:
        ids = tuple(item["id"] for item in answer.items)
        kept = Kept(asked.previous, asked.kept, answer.output, ids, answer.rest)
        request.app[CONTEXT].responses.keep(key_of(request).identity, asked.head.id, kept)


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    for prefix in ("/v1", ""):
        app.router.add_post(f"{prefix}/responses", responses)
        app.router.add_post(f"{prefix}/responses/input_tokens", input_tokens)
        app.router.add_post(f"{prefix}/chat/completions/input_tokens", chat_input_tokens)
