"""From a checked request to a job of the engine. The base of every dialect."""

from dataclasses import dataclass, replace
from typing import Any

from ..engine.loop import Request
from ..engine.stream import Stream
from ..errors import InvalidRequest
from ..interfaces.params import GenerationParams, Prompt
from .body import dumps
from .context import Context
from .schema import Limits
from .settings import generation_settings

MAX_PROBABILITIES = 1 << 18  # candidates that an answer may carry when it comes in one piece


@dataclass(frozen=True, slots=True)
class Job:
    """One completion ready for the engine, and what its answer repeats."""

    request: Request
    settings: dict[str, Any]
    prompt: Any
    field: str  # that the prompt came in: errors name it where there are several


@dataclass(frozen=True, slots=True)
class Tag:
    """What /slots shows of a request beyond the engine's own facts."""

    settings: dict[str, Any]
    prompt: str


def limits(context: Context) -> Limits:
    """What requests are checked against now."""
    engine = context.engine
    return Limits(engine.vocab, engine.settings.n_slots, engine.info.n_lora)


def model_name(context: Context) -> str:
    """The alias, else the model's path."""
    return context.config.alias or context.engine.info.path


def settings_for(context: Context, params: GenerationParams, *, stream: bool) -> dict[str, Any]:
    """The settings that an answer repeats; prompts of one request share them."""
    slot_ctx = context.engine.settings.slot_ctx
    return generation_settings(params, n_ctx=slot_ctx, model=model_name(context), stream=stream)


def bounded(params: GenerationParams, jobs: int, *, stream: bool) -> GenerationParams:
    """What an answer in one piece collects has to fit into memory."""
    n_probs = params.sampling.n_probs
    if stream or not n_probs:
        return params
    most = max(1, MAX_PROBABILITIES // (n_probs * jobs))
    if params.n_predict > most:
        raise InvalidRequest(
            f"Field 'n_probs': {n_probs} for {params.n_predict} tokens is too much for one answer; use stream",
            field="n_probs",
        )
    return replace(params, n_predict=most) if params.n_predict < 0 else params


def make_job(
    context: Context, prompt: Prompt, params: GenerationParams, echo: Any, settings: dict[str, Any], *, field: str
) -> Job:
    """Compile the sampler and wrap everything for the engine (executor thread)."""
    engine = context.engine
    sampler = engine.make_sampler(params.sampling, engine.settings.slot_ctx)
    tag = Tag(settings, echo if isinstance(echo, str) else dumps(echo).decode())
    return Job(Request(prompt, params, sampler, tag=tag), settings, echo, field)


def submit(context: Context, job: Job) -> Stream:
    """Give a job to the engine; what it refuses of a batch is named."""
    try:
        return context.engine.submit(job.request)
    except InvalidRequest as error:
        raise (error.named(job.field) if "." in job.field else error) from error
