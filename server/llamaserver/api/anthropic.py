"""Anthropic's Messages API, which Claude Code and Anthropic's SDKs speak. It is another form of chats."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from aiohttp import web

from ..errors import InvalidRequest, NotSupported, ServerError
from ..interfaces.output import Delta, Event, Finish
from .answer import join, size_of
from .answer_reader import AnswerReader
from .anthropic_answer import PING, Ending, Head, Stream, event, whole
from .anthropic_request import read_request
from .body import dumps, encoded_response, long_response, read_fields
from .chat import count_tokens
from .chat_call import ChatCall, chat_call
from .context import CONTEXT, Context
from .error_format import error_json
from .field_names import FieldNames
from .fields import DIALECT_DEFAULTS, Fields
from .jobs import model_name, submit
from .sse import gather, respond
from .submission import check_room

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@dataclass(frozen=True, slots=True)
class _Request:
    """One request. `stops` are the stop strings that the client gave."""

    call: ChatCall
    names: FieldNames
    stops: tuple[str, ...]
    head: Head
    stream: bool

    def ending(self, reader: AnswerReader) -> Ending:
        """How the answer has ended."""
        reason, word = reader.stop_reason, reader.stopping_word
        if reason == "stop" and word in self.stops:
            return Ending(reader.finish, "stop_sequence", word)
        return Ending(reader.finish, _REASONS[reason], None)


async def messages(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages."""
    check_room(request)
    context = request.app[CONTEXT]
    asked = await read_fields(request, lambda fields: _read(context, fields), DIALECT_DEFAULTS)
    with _client_errors(asked.names):
        return await _run(request, asked)


async def count(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages/count_tokens: how many tokens the prompt of a message has."""
    context = request.app[CONTEXT]
    tokens = await read_fields(request, lambda fields: _count(context, fields))
    return encoded_response(dumps({"input_tokens": tokens}))


def _read(context: Context, fields: Fields) -> _Request:
    """Translate, check and price a request (worker thread)."""
    fields.string("model")
    stream = fields.boolean("stream", default=False)
    asked = read_request(fields)
    with _client_errors(asked.names):
        call = chat_call(context, asked.chat, stream=stream)
    head = Head(model_name(context), len(call.jobs[0].request.prompt))
    return _Request(call, asked.names, asked.stops, head, stream)


def _count(context: Context, fields: Fields) -> int:
    asked = read_request(fields)
    with _client_errors(asked.names):
        return count_tokens(context, asked.chat)


@contextmanager
def _client_errors(names: FieldNames) -> Iterator[None]:
    """Errors with the client's names of the fields. Clients of this API try again after each 5xx, also after a 501."""
    try:
        yield
    except InvalidRequest as error:
        raise names.renamed(error) from error
    except NotSupported as error:
        raise InvalidRequest(error.message, field="messages") from error


async def _run(request: web.Request, asked: _Request) -> web.StreamResponse:
    reader, writer = asked.call.reader(0), Stream(asked.head)

    def encode(_: int, found: Event) -> bytes:
        assert isinstance(found, Delta | Finish)
        begin = b"" if writer.begun else writer.begin(max(0, asked.head.n_prompt - streams[0].evaluated))
        written = begin + writer.add(reader.feed(found))
        return written + writer.end(asked.ending(reader)) if isinstance(found, Finish) else written

    def fail(error: ServerError) -> bytes:
        return event("error", error_json(request, error))

    with ExitStack() as stack:
        streams = submit(request, asked.call.jobs, stack)
        if asked.stream:
            return await respond(request, streams, encode, fail=fail, ping=lambda: PING, held=lambda: reader.held)
        [events] = await gather(streams)
    answer = join(events)

    def encoded() -> bytes:
        found = reader.feed(Delta(answer.content)) + reader.feed(replace(answer.finish, content=""))
        return whole(asked.head, found, asked.ending(reader))

    return await long_response(request, encoded, reader.cost(size_of([answer])))


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_post("/v1/messages", messages)
    app.router.add_post("/v1/messages/count_tokens", count)
