"""From a checked request to jobs of the engine. The base of every dialect."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from ..engine.loop import Request
from ..engine.stream import Stream
from ..errors import InvalidRequest
from ..interfaces.grammar import Constraint
from ..interfaces.params import GenerationParams, Prompt
from ..interfaces.thinking import Thinking
from ..scheduling.text_stream import Stops
from . import submission
from .body import HOLD, dumps
from .context import Context
from .fields import Fields
from .pricing import MAX_PROBABILITIES, check_price
from .prompt import Images, build_prompt, numbered
from .request_defaults import with_request_defaults
from .schema import RANDOM_SEED, Limits, parse_generation
from .settings import generation_settings
from .weakened import tell_weakened

MAX_TOKENS = 1 << 17  # of all answers that come in one piece, if that is more than their slots hold


@dataclass(frozen=True, slots=True)
class Input:
    """One prompt of a request."""

    prompt: Prompt
    echo: Any  # the prompt as the client sent it, for the answer
    field: str  # the request's field that it came in, for errors
    n_scored: int = 0  # tokens at its end whose probabilities are wanted


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
    """The model's first alias, or its path."""
    return next(iter(context.config.aliases), context.engine.info.path)


def text_inputs(
    context: Context, prompts: list[Any], system: tuple[int, ...], images: Images | None = None
) -> list[Input]:
    """Tokenize the prompts of the field `prompt`, each after the system prompt. Raises InvalidRequest."""
    engine = context.engine
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
    shown: frozenset[int] = frozenset(),
    thinking: Thinking | None = None,
    constraint: Constraint | None = None,
) -> list[Job]:
    """Check the options of a request, tokenize its prompts, and make `choices` jobs of each (executor thread).

    `inputs` tokenizes the `prompts` prompts. It is called after the price and the options have been checked, so that
    a wrong request costs little. What the jobs have in common is made once.
    Each choice has its own seed. `stops` are further stop strings. With `ends_with_slot`, a prompt that is too long
    is refused, and an answer ends when its slot is full, as clients of OpenAI expect.
    `shown` are the control tokens whose text is part of the answer. `thinking` is how the model thinks before it.
    `constraint` restricts it, in place of the fields that do so.
    Raises InvalidRequest.
    """
    fields = with_request_defaults(context, fields)
    check_price(fields, prompts=prompts, choices=choices)
    engine = context.engine
    slot_ctx = engine.settings.slot_ctx
    params = parse_generation(fields, Limits(engine.vocab, engine.settings.n_slots, engine.info.n_lora))
    if stops:
        params = replace(params, stop=(*params.stop, *stops))
    constraint = constraint or params.sampling.constraint
    params = replace(params, sampling=replace(params.sampling, thinking=thinking, constraint=constraint))
    sampler = engine.make_sampler(params.sampling, slot_ctx)
    ordered = Stops(params.stop)
    most_tokens = -1 if stream else _most_tokens(slot_ctx, params.sampling.n_probs, prompts * choices)
    variants = _variants(params, _settings(context, params, stream=stream), choices)
    jobs: list[Job] = []
    for entry in inputs():
        echoed = entry.echo if isinstance(entry.echo, str) else dumps(entry.echo).decode()
        for variant, settings in variants:
            request = Request(
                entry.prompt,
                variant,
                sampler.fresh(variant.sampling.seed),
                tag=Tag(settings, echoed),
                stops=ordered,
                ends_with_slot=ends_with_slot,
                most_tokens=most_tokens,
                shown=shown,
                n_scored=entry.n_scored,
            )
            jobs.append(Job(request, settings, entry.echo, entry.field))
    return jobs


def _most_tokens(slot_ctx: int, n_probs: int, answers: int) -> int:
    """The most tokens of each of several answers that come in one piece, so that all fit into memory."""
    most = max(slot_ctx, MAX_TOKENS // answers)
    return min(most, max(1, MAX_PROBABILITIES // (n_probs * answers))) if n_probs else most


def _variants(
    params: GenerationParams, settings: dict[str, Any], choices: int
) -> list[tuple[GenerationParams, dict[str, Any]]]:
    """The parameters and the reported settings of each choice. They differ in the seed only."""
    seeds = [(params.sampling.seed + number) % (RANDOM_SEED + 1) for number in range(choices)]
    seeds[0] = params.sampling.seed
    return [
        (replace(params, sampling=replace(params.sampling, seed=seed)), {**settings, "seed": seed}) for seed in seeds
    ]


def _settings(context: Context, params: GenerationParams, *, stream: bool) -> dict[str, Any]:
    slot_ctx = context.engine.settings.slot_ctx
    return generation_settings(params, n_ctx=slot_ctx, model=model_name(context), stream=stream)


def submit(request: web.Request, jobs: list[Job], stack: ExitStack) -> list[Stream]:
    """Give the jobs of a request to the engine. The stack ends them. Raises InvalidRequest, RateLimited, Unavailable.

    The choices of one prompt follow each other, and share it.
    """
    submission.check_limits(request, len(jobs))
    constraint = jobs[0].request.params.sampling.constraint if jobs else None
    if constraint is not None and constraint.weakened:
        tell_weakened(request, constraint.weakened)
    if not any(job.request.prompt.media for job in jobs):  # images are kept, and larger than their part of the body
        request[HOLD].keep(sum({id(job.request.prompt): len(job.request.tag.prompt) for job in jobs}.values()))
    before = [None, *(job.request.prompt for job in jobs)]
    return [
        stack.enter_context(_submit(request, job, paid=job.request.prompt is prompt))
        for job, prompt in zip(jobs, before, strict=False)
    ]


def _submit(request: web.Request, job: Job, *, paid: bool) -> Stream:
    """In a batch, errors name the prompt."""
    try:
        return submission.submit(request, job.request, paid=paid)
    except InvalidRequest as error:
        raise (error.named(job.field) if "." in job.field else error) from error
