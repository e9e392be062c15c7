"""The llama.cpp endpoints for text: completion and infill."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..errors import InvalidRequest, NotSupported
from ..interfaces.output import Delta, Event, Finish
from ..interfaces.params import Prompt
from .answer import Answer, join, probabilities_json, size_of, stream_json
from .body import HOLD, dumps, long_response, read_fields
from .context import CONTEXT, Context, SystemPrompt
from .fields import Fields
from .fill_in import check_fill_in, fill_in_prompt, optional_text, read_chunks, required_text
from .jobs import Input, Job, make_jobs, submit, text_inputs
from .native_answer import native_json
from .pricing import check_product
from .prompt import read_images, required_prompts
from .sse import gather, ping_after, respond
from .submission import check_room
from .system import requested_system_prompt, set_system_prompt

MAX_PROMPTS = 256
MAX_PROMPTS_WITH_IMAGES = 8  # every image is decoded for every prompt


@dataclass(frozen=True, slots=True)
class Call:
    """One request of this dialect, ready for the engine."""

    jobs: list[Job]
    stream: bool
    wanted: tuple[str, ...]  # response_fields
    ping_after: float | None  # seconds, as in EventStream
    system: SystemPrompt | None = None  # for this request and all later ones. None: the present one


async def completion(request: web.Request) -> web.StreamResponse:
    """POST /completion and /completions."""
    check_room(request)
    call = await read_fields(request, lambda fields: _completion_call(request, fields))
    if call.system is not None:
        set_system_prompt(request, call.system)
    return await _run(request, call)


def _completion_call(request: web.Request, fields: Fields) -> Call:
    context, changed = request.app[CONTEXT], requested_system_prompt(request, fields)
    system = changed or context.system
    stream = fields.boolean("stream", default=False)
    prompts = required_prompts(fields)
    if len(prompts) > MAX_PROMPTS:
        raise InvalidRequest(f"Field 'prompt': at most {MAX_PROMPTS} prompts", field="prompt")
    choices = _choices(context, fields)
    if choices > 1:  # each answer repeats its prompt
        check_product("n_cmpl", sum(len(prompt) for prompt in prompts if isinstance(prompt, str)), choices, "choices")
    jobs = make_jobs(
        context,
        fields,
        lambda: _inputs(context, fields, prompts, system),
        prompts=len(prompts),
        stream=stream,
        choices=choices,
    )
    return Call(jobs, stream, fields.strings("response_fields"), ping_after(fields), changed)


def _choices(context: Context, fields: Fields) -> int:
    """`n_cmpl`, the number of answers to each prompt: at most one for each slot, as in llama-server."""
    return fields.integer("n_cmpl", "n", default=1, low=1, high=context.engine.settings.n_slots)


def _inputs(context: Context, fields: Fields, prompts: list[Any], system: SystemPrompt) -> list[Input]:
    images = read_images(fields)
    if images.files and context.engine.media is None:
        raise NotSupported("This server does not support images: it was started without --mmproj")
    has_images = images.files or any(isinstance(prompt, dict) for prompt in prompts)
    if has_images and len(prompts) > MAX_PROMPTS_WITH_IMAGES:
        raise InvalidRequest(f"Field 'prompt': at most {MAX_PROMPTS_WITH_IMAGES} prompts with images", field="prompt")
    return text_inputs(context, prompts, system.tokens, images)


async def _run(request: web.Request, call: Call) -> web.StreamResponse:
    """Send the jobs to the engine and answer in the document's shape."""
    jobs, wanted = call.jobs, call.wanted
    with ExitStack() as stack:
        streams = submit(request, jobs, stack)
        if call.stream:
            several = len(jobs) > 1
            return await respond(
                request,
                streams,
                lambda i, event: _encode(jobs[i], i, event, several, wanted),
                ping_after=call.ping_after,
            )
        answers = [join(events) for events in await gather(streams)]

    def encode() -> bytes:
        pairs = enumerate(zip(jobs, answers, strict=True))
        results = [_select(native_json(job, answer, i), wanted) for i, (job, answer) in pairs]
        return dumps(results[0] if len(results) == 1 else results)

    return await long_response(request, encode, size_of(answers) + len(jobs) * request[HOLD].count)


def _encode(job: Job, index: int, event: Event, several: bool, wanted: tuple[str, ...]) -> bytes:
    if isinstance(event, Delta):
        return _partial(job, index, event, several)
    assert isinstance(event, Finish)
    answer = Answer(event.content, list(event.tokens), list(event.probs), event)
    return b"data: " + dumps(_select(native_json(job, answer, index), wanted)) + b"\n\n"


def _partial(job: Job, index: int, delta: Delta, several: bool) -> bytes:
    """One event of a running stream. The usual one has two fields and is built by hand, for speed."""
    more = stream_json(delta)
    if not (delta.probs or delta.tokens or several or more):
        return b'data: {"content":' + dumps(delta.content) + b',"stop":false}\n\n'
    value: dict[str, Any] = {"content": delta.content, "stop": False, **more}
    if several:
        value["index"] = index
    if job.request.params.return_tokens:
        value["tokens"] = delta.tokens
    if delta.probs:
        value["completion_probabilities"] = probabilities_json(delta.probs)
    return b"data: " + dumps(value) + b"\n\n"


def _select(value: dict[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    """Keep only the fields that `response_fields` names. A path with slashes names a nested field."""
    if not wanted:
        return value
    chosen: dict[str, Any] = {}
    for path in wanted:
        found: Any = value
        for part in path.split("/"):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            chosen[path] = found
    return chosen


async def infill(request: web.Request) -> web.StreamResponse:
    """POST /infill. It streams unless `stream` is false."""
    check_room(request)
    context = request.app[CONTEXT]
    return await _run(request, await read_fields(request, lambda fields: _infill_call(context, fields)))


def _infill_call(context: Context, fields: Fields) -> Call:
    check_fill_in(context.engine.vocab)
    stream = fields.boolean("stream", default=True)
    prefix, suffix = required_text(fields, "input_prefix"), required_text(fields, "input_suffix")
    middle, chunks = optional_text(fields, "prompt"), read_chunks(fields)

    def inputs() -> list[Input]:
        tokens = fill_in_prompt(context, prefix, suffix, middle=middle, chunks=chunks)
        return [Input(Prompt.of(tokens), prefix, "input_prefix")]

    choices = _choices(context, fields)
    jobs = make_jobs(context, fields, inputs, prompts=1, stream=stream, choices=choices, ends_with_slot=True)
    return Call(jobs, stream, fields.strings("response_fields"), ping_after(fields))


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_post("/completion", completion)
    app.router.add_post("/completions", completion)
    app.router.add_post("/infill", infill)
