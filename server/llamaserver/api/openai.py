"""OpenAI's endpoints for text: chat completions and completions."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..errors import InvalidRequest
from ..interfaces.output import Delta, Event, Finish, TokenProbs
from .answer import Answer, join, timings_json
from .body import body_size, dumps, encoded_response, json_response, read_fields
from .chat import chat_prompt, render_chat
from .context import CONTEXT, Context
from .fields import Fields
from .jobs import Input, Job, make_jobs, model_name, submit, text_inputs
from .openai_logprobs import ChatLogprobs, Logprobs, TextLogprobs
from .prompt import prompt_text, required_prompts
from .sse import gather, respond

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
_DEFAULTS = {"repeat_penalty": 1.0}  # OpenAI's API has no repeat penalty
_UNSUPPORTED = ("tools", "functions", "function_call", "audio", "modalities", "best_of", "suffix")


@dataclass(frozen=True, slots=True)
class Call:
    """One request of this dialect, ready for the engine."""

    jobs: list[Job]
    stream: bool
    usage: bool  # a last chunk with usage
    chat: bool
    logprobs: int | None  # number of alternatives for each token; None: no logprobs
    echoes: list[str]  # the text that each choice begins with
    id: str
    created: int
    model: str


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    return await _answer(request, _chat_call)


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    return await _answer(request, _text_call)


async def _answer(request: web.Request, read: Callable[[Context, Fields], Call]) -> web.StreamResponse:
    context = request.app[CONTEXT]
    fields = await read_fields(request, _DEFAULTS)
    context.require_ready()
    return await _run(request, await context.blocking(lambda: read(context, fields), body_size(request)))


async def apply_template(request: web.Request) -> web.StreamResponse:
    """POST /apply-template: the prompt that the template makes of a chat."""
    context = request.app[CONTEXT]
    fields = await read_fields(request)
    context.require_ready()
    chat = await context.blocking(lambda: render_chat(context, fields), body_size(request))
    return json_response({"prompt": chat.text})


# ---- reading


def _chat_call(context: Context, fields: Fields) -> Call:
    _check_supported(fields)
    chat = render_chat(context, fields)
    top = fields.integer("top_logprobs", default=0, low=0, high=MAX_TOP_LOGPROBS)
    logprobs = top if fields.boolean("logprobs", default=False) else None
    n, stream = _choices(fields, 1), fields.boolean("stream", default=False)
    jobs = make_jobs(
        context,
        _translated(fields, logprobs),
        lambda: [Input(chat_prompt(context, chat), chat.text, "prompt")],
        prompts=1,
        stream=stream,
        choices=n,
        stops=chat.stops,
        ends_with_slot=True,
    )
    return _call(context, fields, jobs, stream=stream, chat=True, logprobs=logprobs, echoes=[""] * n)


def _text_call(context: Context, fields: Fields) -> Call:
    _check_supported(fields)
    prompts = required_prompts(fields)
    logprobs = _text_logprobs(fields)
    n, stream = _choices(fields, len(prompts)), fields.boolean("stream", default=False)
    jobs = make_jobs(
        context,
        _translated(fields, logprobs),
        lambda: text_inputs(context, prompts),
        prompts=len(prompts),
        stream=stream,
        choices=n,
        ends_with_slot=True,
    )
    echo = fields.boolean("echo", default=False)
    echoes = [prompt_text(value, context.engine) if echo else "" for value in prompts for _ in range(n)]
    return _call(context, fields, jobs, stream=stream, chat=False, logprobs=logprobs, echoes=echoes)


def _text_logprobs(fields: Fields) -> int | None:
    """`logprobs` of a completion: a number of alternatives, or true for none beside the token itself."""
    _, value = fields.get("logprobs")
    if value is None or value is False:
        return None
    return 0 if value is True else fields.integer("logprobs", default=0, low=0, high=MAX_TOP_LOGPROBS)


def _check_supported(fields: Fields) -> None:
    for name in _UNSUPPORTED:
        _, value = fields.get(name)
        harmless = (name == "best_of" and value == 1) or (name == "modalities" and value == ["text"])
        if value not in (None, [], "") and not harmless:
            raise InvalidRequest(f"Field '{name}': is not supported by this server", field=name)
    if fields.get("tool_choice")[1] not in (None, "none", "auto"):
        raise InvalidRequest("Field 'tool_choice': is not supported by this server", field="tool_choice")
    fields.string("model")


def _translated(fields: Fields, logprobs: int | None) -> Fields:
    """The fields of OpenAI's API that are written in another way here."""
    values: dict[str, Any] = {}
    if logprobs is not None:  # the chosen token's own probability comes with any number
        values = {"n_probs": max(logprobs, 1), "post_sampling_probs": False}
    schema = _response_schema(fields)
    if schema is not None:
        values |= {"json_schema": schema, "grammar": None}
    return fields.replaced(values)


def _response_schema(fields: Fields) -> Any:
    """The schema that `response_format` asks for; None for text."""
    wanted = fields.object("response_format")
    kind = wanted.get("type") if wanted is not None else "text"
    if wanted is None or kind == "text":
        return None
    if fields.get("json_schema")[1] is not None:
        raise InvalidRequest("Field 'json_schema': give either response_format or json_schema", field="json_schema")
    if kind == "json_object":
        return wanted.get("schema") or {"type": "object"}
    if kind == "json_schema":
        holder = wanted.get("json_schema")
        schema = holder.get("schema") if isinstance(holder, dict) else wanted.get("schema")
        if schema is None:
            raise InvalidRequest("Field 'response_format.json_schema.schema': is required", field="response_format")
        return schema
    raise InvalidRequest(
        "Field 'response_format.type': must be text, json_object or json_schema", field="response_format"
    )


def _call(
    context: Context,
    fields: Fields,
    jobs: list[Job],
    *,
    stream: bool,
    chat: bool,
    logprobs: int | None,
    echoes: list[str],
) -> Call:
    options = fields.object("stream_options") or {}
    return Call(
        jobs=jobs,
        stream=stream,
        usage=bool(options.get("include_usage")),
        chat=chat,
        logprobs=logprobs,
        echoes=echoes,
        id=("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex,
        created=int(time.time()),
        model=model_name(context),
    )


def _choices(fields: Fields, prompts: int) -> int:
    """`n`, the answers to each prompt; checked before anything is built for them."""
    n = fields.integer("n", default=1, low=1, high=MAX_CHOICES)
    if n * prompts > MAX_CHOICES:
        raise InvalidRequest(f"Field 'n': more than {MAX_CHOICES} choices in all", field="n")
    return n


# ---- answering


async def _run(request: web.Request, call: Call) -> web.StreamResponse:
    context = request.app[CONTEXT]
    with ExitStack() as stack:
        streams = [stack.enter_context(submit(context, job)) for job in call.jobs]
        if call.stream:
            writer = _Chunks(call)
            return await respond(request, streams, writer.encode, head=writer.head(), tail=b"data: [DONE]\n\n")
        answers = [join(events) for events in await gather(streams)]
    return encoded_response(
        await context.blocking(lambda: _whole(call, answers)) if call.logprobs is not None else _whole(call, answers)
    )


def _whole(call: Call, answers: list[Answer]) -> bytes:
    value = _head(call, "chat.completion" if call.chat else "text_completion")
    value["choices"] = [_choice(call, i, answer) for i, answer in enumerate(answers)]
    value["usage"] = _usage([answer.finish for answer in answers])
    value["timings"] = timings_json(answers[0].finish.timings)
    return dumps(value)


def _head(call: Call, kind: str) -> dict[str, Any]:
    return {
        "id": call.id,
        "object": kind,
        "created": call.created,
        "model": call.model,
        "system_fingerprint": "llamaserver",
    }


def _choice(call: Call, index: int, answer: Answer) -> dict[str, Any]:
    logprobs = of(answer.probs) if (of := _logprobs(call, index)) else None
    reason = _finish_reason(answer.finish)
    if call.chat:
        message = {"role": "assistant", "content": answer.content, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}
    return {"index": index, "text": call.echoes[index] + answer.content, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(call: Call, index: int) -> Logprobs | None:
    """The form of the probabilities of a choice; None if they were not asked for."""
    if call.logprobs is None:
        return None
    return ChatLogprobs(call.logprobs) if call.chat else TextLogprobs(call.logprobs, len(call.echoes[index]))


def _finish_reason(finish: Finish) -> str:
    return "length" if finish.reason == "limit" else "stop"


def _usage(finishes: list[Finish]) -> dict[str, Any]:
    prompt = sum(finish.n_prompt for finish in finishes)
    completion = sum(finish.n_decoded for finish in finishes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(finish.n_cached for finish in finishes)},
    }


class _Chunks:
    """Encodes the events of one call as chunks."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._left = len(call.jobs)
        self._finishes: list[Finish] = []
        self._logprobs = [_logprobs(call, i) for i in range(len(call.jobs))]
        kind = "chat.completion.chunk" if call.chat else "text_completion"
        self._head = dumps(_head(call, kind))[:-1]  # open object: choices follow
        self._before = [self._head + b',"choices":[{"index":%d,' % i for i in range(len(call.jobs))]
        self._field = b'"delta":{"content":' if call.chat else b'"text":'
        self._after = b'},"finish_reason":null}]}\n\n' if call.chat else b',"finish_reason":null}]}\n\n'

    def head(self) -> bytes:
        """The start of a stream: the role of each choice in a chat, or the prompt where `echo` is set."""
        if not self._call.chat:
            return b"".join(self._text(i, text, []) for i, text in enumerate(self._call.echoes) if text)
        delta = b'"delta":{"role":"assistant","content":null,"refusal":null},"finish_reason":null}]}\n\n'
        return b"".join(b"data: " + before + delta for before in self._before)

    def encode(self, index: int, event: Event) -> bytes:
        """Encode one event. The last event of all choices adds usage, if it was asked for."""
        if isinstance(event, Delta):
            return self._text(index, event.content, event.probs)
        assert isinstance(event, Finish)
        text = self._text(index, event.content, list(event.probs)) if event.content or event.probs else b""
        return text + self._end(index, event)

    def _text(self, index: int, content: str, probs: list[TokenProbs]) -> bytes:
        start = b"data: " + self._before[index]
        if of := self._logprobs[index]:
            start += b'"logprobs":' + dumps(of(probs) if probs else None) + b","
        return start + self._field + dumps(content) + self._after

    def _end(self, index: int, finish: Finish) -> bytes:
        self._finishes.append(finish)
        self._left -= 1
        reason = dumps(_finish_reason(finish))
        empty = b'"delta":{}' if self._call.chat else b'"text":""'
        timings = b',"timings":' + dumps(timings_json(finish.timings))
        chunk = b"data: " + self._before[index] + empty + b',"finish_reason":' + reason + b"}]" + timings + b"}\n\n"
        if self._left == 0 and self._call.usage:
            chunk += b"data: " + self._head + b',"choices":[],"usage":' + dumps(_usage(self._finishes)) + b"}\n\n"
        return chunk


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_post("/v1/chat/completions", chat_completions)
    app.router.add_post("/chat/completions", chat_completions)
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/apply-template", apply_template)
