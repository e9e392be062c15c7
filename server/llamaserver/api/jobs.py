"""From a checked request to jobs of the engine. The base of every dialect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from ..engine.loop import Request
from ..engine.stream import Stream
from ..errors import InvalidRequest
from ..interfaces.params import GenerationParams, Prompt
from . import submission
from .body import dumps
from .context import Context
from .fields import Fields
from .prompt import build_prompt, numbered
from .schema import RANDOM_SEED, Limits, parse_generation
from .settings import generation_settings

MAX_PROBABILITIES = 1 << 18  # candidates that an answer may carry when it comes in one piece


@dataclass(frozen=True, slots=True)
class Input:
    """One prompt of a request."""

    prompt: Prompt
    echo: Any  # the prompt as the client sent it, for the answer
    field: str  # the request's field that it came in, for errors


@dataclass(frozen=True, slots=True)
class Job:
    """One completion ready for the engine, and what its answer repeats."""

    request: Request
    settings: dict[str, Any]
    prompt: Any
    field: str  # as in Input


@dataclass(frozen=True, slots=True)
class Tag:
    """The part of a request that /slots shows beside the engine's own numbers."""

    settings: dict[str, Any]
    prompt: str


def model_name(context: Context) -> str:
    """The model's alias, or its path."""
    return context.config.alias or context.engine.info.path


def text_inputs(context: Context, prompts: list[Any], images: Mapping[int, bytes] | None = None) -> list[Input]:
    """Tokenize the prompts of the field `prompt`, each after the system prompt. Raises InvalidRequest."""
    engine, system = context.engine, context.system.tokens
    return [
        Input(build_prompt(value, engine, system=system, images=images, field=name), value, name)
        for value, name in zip(prompts, numbered("prompt", len(prompts)), strict=True)
    ]


def make_jobs(
    context: Context,
    fields: Fields,
    inputs: Callable[[], list[Input]],
    *,
    prompts: int,
    stream: bool,
    choices: int = 1,
    stops: tuple[str, ...] = (),
    ends_with_slot: bool = False,
) -> list[Job]:
    """Check the options of a request, tokenize its prompts, and make `choices` jobs of each (executor thread).

    `inputs` tokenizes the `prompts` prompts. It is called after the check, so that a wrong option costs little.
    Each choice has its own seed. `stops` are further stop strings. `ends_with_slot` limits answers without
    n_predict to what the slot holds. Raises InvalidRequest.
    """
    engine = context.engine
    params = parse_generation(fields, Limits(engine.vocab, engine.settings.n_slots, engine.info.n_lora))
    if stops:
        params = replace(params, stop=(*params.stop, *stops))
    if not stream:
        params = _bounded(params, prompts * choices)
    variants = [(variant, _settings(context, variant, stream=stream)) for variant in _variants(params, choices)]
    jobs: list[Job] = []
    for entry in inputs():
        for variant, settings in variants:
            limited = _until_slot_ends(variant, entry.prompt, engine.settings.slot_ctx) if ends_with_slot else variant
            jobs.append(_job(context, entry, limited, settings))
    return jobs


def _bounded(params: GenerationParams, answers: int) -> GenerationParams:
    """Limit the answers so that the probabilities of all of them fit into memory."""
    n_probs = params.sampling.n_probs
    if not n_probs:
        return params
    most = max(1, MAX_PROBABILITIES // (n_probs * answers))
    if params.n_predict > most:
        raise InvalidRequest(
            f"Field 'n_probs': {n_probs} for {params.n_predict} tokens is too much for one answer. Use stream",
            field="n_probs",
        )
    return replace(params, n_predict=most) if params.n_predict < 0 else params


def _variants(params: GenerationParams, choices: int) -> list[GenerationParams]:
    if choices == 1:
        return [params]
    seeds = [(params.sampling.seed + number) % (RANDOM_SEED + 1) for number in range(choices)]
    return [replace(params, sampling=replace(params.sampling, seed=seed)) for seed in seeds]


def _settings(context: Context, params: GenerationParams, *, stream: bool) -> dict[str, Any]:
    slot_ctx = context.engine.settings.slot_ctx
    return generation_settings(params, n_ctx=slot_ctx, model=model_name(context), stream=stream)


def _until_slot_ends(params: GenerationParams, prompt: Prompt, slot_ctx: int) -> GenerationParams:
    """End an answer that has no limit of its own where the slot ends, as clients of OpenAI expect.

    With context shift, a small model that repeats itself would never end. A prompt longer than the slot is cut,
    and leaves room for a quarter of the slot.
    """
    if params.n_predict >= 0:
        return params
    return replace(params, n_predict=slot_ctx - len(prompt) if len(prompt) < slot_ctx else slot_ctx // 4)


def _job(context: Context, entry: Input, params: GenerationParams, settings: dict[str, Any]) -> Job:
    engine = context.engine
    sampler = engine.make_sampler(params.sampling, engine.settings.slot_ctx)
    tag = Tag(settings, entry.echo if isinstance(entry.echo, str) else dumps(entry.echo).decode())
    return Job(Request(entry.prompt, params, sampler, tag=tag), settings, entry.echo, entry.field)


def submit(request: web.Request, job: Job) -> Stream:
    """Give a job to the engine. In a batch, its errors name the prompt."""
    try:
        return submission.submit(request, job.request)
    except InvalidRequest as error:
        raise (error.named(job.field) if "." in job.field else error) from error
