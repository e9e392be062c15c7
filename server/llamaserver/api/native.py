"""The llama.cpp endpoints for text: completion and infill."""

from array import array
from contextlib import ExitStack
from typing import Any

from aiohttp import web

from ..errors import InvalidRequest, NotSupported
from ..interfaces.output import Delta, Event, Finish
from ..interfaces.params import Prompt
from .answer import Answer, join, probabilities_json, timings_json
from .body import body_size, dumps, encoded_response, read_fields
from .context import CONTEXT, Context
from .fields import Fields
from .jobs import Input, Job, make_jobs, submit, text_inputs
from .prompt import check_length, read_images, required_prompts
from .sse import gather, respond
from .system import apply_system_prompt

MAX_PROMPTS = 256
MAX_PROMPTS_WITH_IMAGES = 8  # every image is decoded for every prompt


async def completion(request: web.Request) -> web.StreamResponse:
    """POST /completion and /completions."""
    context = request.app[CONTEXT]
    fields = await read_fields(request)
    context.require_ready()
    await apply_system_prompt(request, fields)
    stream = fields.boolean("stream", default=False)
    jobs = await context.blocking(lambda: _completion_jobs(context, fields, stream), body_size(request))
    return await run(request, jobs, fields, stream=stream)


def _completion_jobs(context: Context, fields: Fields, stream: bool) -> list[Job]:
    prompts = required_prompts(fields)
    if len(prompts) > MAX_PROMPTS:
        raise InvalidRequest(f"Field 'prompt': at most {MAX_PROMPTS} prompts", field="prompt")
    return make_jobs(context, fields, lambda: _inputs(context, fields, prompts), prompts=len(prompts), stream=stream)


def _inputs(context: Context, fields: Fields, prompts: list[Any]) -> list[Input]:
    images = read_images(fields)
    if images and context.engine.media is None:
        raise NotSupported("This server does not support images: it was started without --mmproj")
    if images and len(prompts) > MAX_PROMPTS_WITH_IMAGES:
        raise InvalidRequest(f"Field 'prompt': at most {MAX_PROMPTS_WITH_IMAGES} prompts with images", field="prompt")
    return text_inputs(context, prompts, images)


async def run(request: web.Request, jobs: list[Job], fields: Fields, *, stream: bool) -> web.StreamResponse:
    """Send the jobs to the engine and answer in the document's shape."""
    context = request.app[CONTEXT]
    wanted = fields.strings("response_fields")
    with ExitStack() as stack:
        streams = [stack.enter_context(submit(request, job)) for job in jobs]
        if stream:
            return await respond(request, streams, lambda i, event: _encode(jobs[i], i, event, len(jobs) > 1, wanted))
        answers = [join(events) for events in await gather(streams)]

    def encode() -> bytes:
        pairs = enumerate(zip(jobs, answers, strict=True))
        results = [_select(_final(job, answer, i), wanted) for i, (job, answer) in pairs]
        return dumps(results[0] if len(results) == 1 else {"results": results})

    return encoded_response(await context.blocking(encode) if any(answer.probs for answer in answers) else encode())


def _encode(job: Job, index: int, event: Event, several: bool, wanted: tuple[str, ...]) -> bytes:
    if isinstance(event, Delta):
        return _partial(job, index, event, several)
    assert isinstance(event, Finish)
    answer = Answer(event.content, list(event.tokens), list(event.probs), event)
    return b"data: " + dumps(_select(_final(job, answer, index), wanted)) + b"\n\n"


def _partial(job: Job, index: int, delta: Delta, several: bool) -> bytes:
    """One event of a running stream. The usual one has two fields and is built by hand, for speed."""
    if not (delta.probs or delta.tokens or several):
        return b'data: {"content":' + dumps(delta.content) + b',"stop":false}\n\n'
    value: dict[str, Any] = {"content": delta.content, "stop": False}
    if several:
        value["index"] = index
    if job.request.params.return_tokens:
        value["tokens"] = delta.tokens
    if delta.probs:
        value["completion_probabilities"] = probabilities_json(delta.probs)
    return b"data: " + dumps(value) + b"\n\n"


def _final(job: Job, answer: Answer, index: int) -> dict[str, Any]:
    finish = answer.finish
    value: dict[str, Any] = {
        "index": index,
        "content": answer.content,
        "id_slot": finish.id_slot,
        "stop": True,
        "model": job.settings["model"],
        "tokens_predicted": finish.n_decoded,
        "tokens_evaluated": finish.n_prompt,
        "generation_settings": job.settings,
        "prompt": job.prompt,
        "truncated": finish.truncated,
        "stopped_eos": finish.reason == "eos",
        "stopped_word": finish.reason == "word",
        "stopped_limit": finish.reason == "limit",
        "stop_type": finish.reason or "none",
        "stopping_word": finish.stopping_word,
        "tokens_cached": finish.n_cached,
        "timings": timings_json(finish.timings),
    }
    if job.request.params.return_tokens:
        value["tokens"] = answer.tokens
    if job.request.params.sampling.n_probs:
        value["completion_probabilities"] = probabilities_json(answer.probs)
    return value


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
            chosen[path.split("/")[-1]] = found
    return chosen


async def infill(request: web.Request) -> web.StreamResponse:
    """POST /infill. It streams unless `stream` is false."""
    context = request.app[CONTEXT]
    fields = await read_fields(request)
    context.require_ready()
    stream = fields.boolean("stream", default=True)
    jobs = await context.blocking(lambda: _infill_jobs(context, fields, stream), body_size(request))
    return await run(request, jobs, fields, stream=stream)


def _infill_jobs(context: Context, fields: Fields, stream: bool) -> list[Job]:
    vocab = context.engine.vocab
    markers = (vocab.fim_pre, vocab.fim_suf, vocab.fim_mid)
    if min(markers) < 0:
        raise NotSupported("Infill is not supported by this model: it has no fill-in-middle tokens")
    prefix, suffix = fields.string("input_prefix"), fields.string("input_suffix")
    check_length([prefix, suffix], context.engine, "input_prefix")
    tokens = [vocab.bos] if vocab.add_bos and vocab.bos >= 0 else []
    before = vocab.tokenize(prefix, add_special=False, parse_special=False)
    after = vocab.tokenize(suffix.removeprefix(" "), add_special=False, parse_special=False)
    keys = [*tokens, vocab.fim_pre, *before, vocab.fim_suf, *after, vocab.fim_mid]
    entry = Input(Prompt(array("q", keys)), prefix, "input_prefix")
    return make_jobs(context, fields, lambda: [entry], prompts=1, stream=stream)


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_post("/completion", completion)
    app.router.add_post("/completions", completion)
    app.router.add_post("/infill", infill)
