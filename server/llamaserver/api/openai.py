"""OpenAI's endpoints for text: chat completions and completions."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from aiohttp import web

from ..errors import InvalidRequest
from .answer import join, size_of
from .body import dumps, encoded_response, long_response, read_fields
from .chat import chat_prompt, render_chat
from .context import CONTEXT, Context
from .fields import Fields
from .jobs import Input, Job, make_jobs, model_name, submit, text_inputs
from .openai_answer import Call, Chunks, whole
from .pricing import check_echo
from .prompt import prompt_text, required_prompts
from .sse import gather, respond
from .submission import check_room

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
_DEFAULTS = {"repeat_penalty": 1.0}  # OpenAI's API has no repeat penalty
_UNSUPPORTED = ("tools", "functions", "function_call", "audio", "modalities", "best_of", "suffix")


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    return await _answer(request, _chat_call)


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    return await _answer(request, _text_call)


async def _answer(request: web.Request, read: Callable[[Context, Fields], Call]) -> web.StreamResponse:
    check_room(request)
    context = request.app[CONTEXT]
    return await _run(request, await read_fields(request, lambda fields: read(context, fields), _DEFAULTS))


async def apply_template(request: web.Request) -> web.StreamResponse:
    """POST /apply-template: the prompt that the template makes of a chat."""
    context = request.app[CONTEXT]
    prompt = await read_fields(request, lambda fields: dumps({"prompt": render_chat(context, fields).text}))
    return encoded_response(prompt)


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
        lambda: text_inputs(context, prompts, context.system.tokens),
        prompts=len(prompts),
        stream=stream,
        choices=n,
        ends_with_slot=True,
    )
    echo = fields.boolean("echo", default=False)
    texts = [prompt_text(value, context.engine) if echo else "" for value in prompts]
    check_echo(texts, n)
    echoes = [text for text in texts for _ in range(n)]
    return _call(context, fields, jobs, stream=stream, chat=False, logprobs=logprobs, echoes=echoes)


def _text_logprobs(fields: Fields) -> int | None:
    """`logprobs` of a completion: a number of alternatives, or true for none beside the token itself."""
    _, value = fields.get("logprobs")
    if value is None or value is False:
        return None
    return 0 if value is True else fields.integer("logprobs", default=0, low=0, high=MAX_TOP_LOGPROBS)


def _check_supported(fields: Fields) -> None:
    harmless = {"best_of": (1,), "modalities": (["text"],), "function_call": ("none",)}
    calls_nothing = "none" in (fields.get("tool_choice")[1], fields.get("function_call")[1])
    for name in _UNSUPPORTED:
        _, value = fields.get(name)
        only_shown = calls_nothing and name in ("tools", "functions")  # to the template
        if value not in (None, [], "", *harmless.get(name, ())) and not only_shown:
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
    """`n`, the number of answers to each prompt. It is checked before anything is built for them."""
    n = fields.integer("n", default=1, low=1, high=MAX_CHOICES)
    if n * prompts > MAX_CHOICES:
        raise InvalidRequest(f"Field 'n': more than {MAX_CHOICES} choices in all", field="n")
    return n


async def _run(request: web.Request, call: Call) -> web.StreamResponse:
    with ExitStack() as stack:
        streams = submit(request, call.jobs, stack)
        if call.stream:
            writer = Chunks(call)
            return await respond(request, streams, writer.encode, head=writer.head(), tail=b"data: [DONE]\n\n")
        answers = [join(events) for events in await gather(streams)]
    return await long_response(request, lambda: whole(call, answers), size_of(answers) + sum(map(len, call.echoes)))


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_post("/v1/chat/completions", chat_completions)
    app.router.add_post("/chat/completions", chat_completions)
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/apply-template", apply_template)
