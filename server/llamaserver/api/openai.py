"""OpenAI's endpoints for text: chat completions and completions."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from aiohttp import web

from ..errors import InvalidRequest
from ..interfaces.params import Prompt
from .answer import join
from .body import dumps, encoded_response, long_response, read_fields
from .chat import render_chat
from .chat_call import chat_call
from .chat_control import controlled
from .context import CONTEXT, Context
from .fields import DIALECT_DEFAULTS, Fields
from .fill_in import check_fill_in, fill_in_prompt
from .jobs import Input, Job, make_jobs, model_name, submit, text_inputs
from .openai_answer import Call, Echo, Head, TextCall
from .openai_chat_answer import Chat
from .openai_logprobs import MAX_TOP_LOGPROBS, probabilities
from .pricing import check_echo, check_product, check_scores
from .prompt import numbered, prompt_text, required_prompts
from .response_format import with_response_format
from .sse import gather, ping_after, respond
from .submission import check_room
from .tool_use import read_tool_use, uses_functions

MAX_CHOICES = 128
_UNSUPPORTED = {  # fields and the values of them that change nothing
    "audio": (),
    "modalities": (["text"],),
    "best_of": (1,),
}


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    return await _answer(request, _chat_call)


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    return await _answer(request, _text_call)


async def _answer(request: web.Request, read: Callable[[Context, Fields], Call]) -> web.StreamResponse:
    check_room(request)
    context = request.app[CONTEXT]
    return await _run(request, await read_fields(request, lambda fields: read(context, fields), DIALECT_DEFAULTS))


async def apply_template(request: web.Request) -> web.StreamResponse:
    """POST /apply-template: the prompt that the template makes of a chat."""
    context = request.app[CONTEXT]
    prompt = await read_fields(request, lambda fields: dumps({"prompt": render_chat(context, fields).text}))
    return encoded_response(prompt)


def _chat_call(context: Context, fields: Fields) -> Call:
    _check_supported(fields)
    top = fields.integer("top_logprobs", default=0, low=0, high=MAX_TOP_LOGPROBS)
    logprobs = top if fields.boolean("logprobs", default=False) else None
    n, stream = _choices(fields, 1), fields.boolean("stream", default=False)
    if stream and logprobs is not None and read_tool_use(fields).tools:
        raise InvalidRequest("logprobs is not supported with tools + stream", field="logprobs")
    call = chat_call(context, fields.replaced(probabilities(logprobs)), stream=stream, choices=n)
    return Chat(
        _head(context, fields, stream=stream, id_prefix="chatcmpl-"), call, logprobs, functions=uses_functions(fields)
    )


def _text_call(context: Context, fields: Fields) -> Call:
    _check_supported(fields)
    prompts = required_prompts(fields)
    logprobs = _text_logprobs(fields)
    n, stream = _choices(fields, len(prompts)), fields.boolean("stream", default=False)
    echo = fields.boolean("echo", default=False)

    def inputs() -> list[Input]:
        found = _text_inputs(context, fields, prompts)
        return _scored(context, fields, found, n, logprobs) if echo and logprobs is not None else found

    jobs = make_jobs(
        context,
        with_response_format(fields.replaced(probabilities(logprobs))),
        inputs,
        prompts=len(prompts),
        stream=stream,
        choices=n,
        ends_with_slot=True,
    )
    texts = [prompt_text(value, context.engine) if echo else "" for value in prompts]
    check_echo(texts, n)
    echoes = [_echo(context, job, text) for job, text in zip(jobs, (t for t in texts for _ in range(n)), strict=True)]
    return TextCall(_head(context, fields, stream=stream, id_prefix="cmpl-"), jobs, logprobs, echoes)


def _text_inputs(context: Context, fields: Fields, prompts: list[Any]) -> list[Input]:
    """The prompts. With a `suffix`, the answer is what comes between a prompt and it."""
    suffix = fields.string("suffix")
    if not suffix:
        return text_inputs(context, prompts, context.system.tokens)
    check_fill_in(context.engine.vocab)
    check_product("suffix", len(suffix), len(prompts), "prompts")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidRequest("Field 'prompt': must be a string where a suffix is given", field="prompt")
    names = numbered("prompt", len(prompts))
    return [
        Input(Prompt.of(fill_in_prompt(context, prompt, suffix)), prompt, name)
        for prompt, name in zip(prompts, names, strict=True)
    ]


def _scored(context: Context, fields: Fields, inputs: list[Input], choices: int, logprobs: int) -> list[Input]:
    """The prompts with the number of their tokens that get logprobs: without the system prompt and BOS."""
    if fields.string("suffix"):
        raise InvalidRequest("Field 'echo': cannot be used with logprobs and suffix together", field="echo")
    vocab = context.engine.vocab
    found = []
    for entry in inputs:
        begins_with_text = isinstance(entry.echo, str) or (bool(entry.echo) and isinstance(entry.echo[0], str))
        own = entry.prompt.keys[entry.prompt.common :]
        bos = begins_with_text and not entry.prompt.common and vocab.add_bos and own[:1].tolist() == [vocab.bos]
        found.append(replace(entry, n_scored=len(own) - bos))
    check_scores(sum(entry.n_scored for entry in found), choices, 1 + max(logprobs, 1))
    return found


def _echo(context: Context, job: Job, text: str) -> Echo:
    keys, n_scored = job.request.prompt.keys, job.request.n_scored
    first = context.engine.vocab.special_piece(keys[0]) if n_scored and n_scored == len(keys) else None
    return Echo(text, n_scored > 0, first)


def _text_logprobs(fields: Fields) -> int | None:
    """`logprobs` of a completion: a number of alternatives, or true for none beside the token itself."""
    _, value = fields.get("logprobs")
    if value is None or value is False:
        return None
    return 0 if value is True else fields.integer("logprobs", default=0, low=0, high=MAX_TOP_LOGPROBS)


def _check_supported(fields: Fields) -> None:
    for name, harmless in _UNSUPPORTED.items():
        if fields.get(name)[1] not in (None, [], "", *harmless):
            raise InvalidRequest(f"Field '{name}': is not supported by this server", field=name)
    fields.string("model")


def _head(context: Context, fields: Fields, *, stream: bool, id_prefix: str) -> Head:
    options = fields.object("stream_options") or {}
    return Head(
        stream=stream,
        verbose=fields.boolean("verbose", default=False),
        usage=bool(options.get("include_usage")),
        ping_after=ping_after(fields),
        id=id_prefix + uuid.uuid4().hex,
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
        stack.enter_context(controlled(request, call.head.id, call.jobs))
        if call.head.stream:
            chunks = call.chunks()
            return await respond(
                request,
                streams,
                chunks.encode,
                head=chunks.begin(),
                tail=b"data: [DONE]\n\n",
                ping_after=call.head.ping_after,
                held=chunks.held,
            )
        answers = [join(events) for events in await gather(streams)]
    return await long_response(request, lambda: call.whole(answers), call.cost(answers))


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_post("/v1/chat/completions", chat_completions)
    app.router.add_post("/chat/completions", chat_completions)
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/apply-template", apply_template)
