"""Embedding requests, for both dialects of the API."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ..engine.loop import Request
from ..engine.stream import Stream
from ..errors import EngineFailure, InvalidRequest, as_server_error
from ..interfaces.output import Embedded, Failed
from ..interfaces.params import GenerationParams, Prompt
from . import submission
from .context import CONTEXT
from .prompt import build_prompt, numbered

MAX_INPUTS = 2048


async def embed(request: web.Request, inputs: list[Any], field: str) -> list[Embedded]:
    """One result per input: vectors of shape (1, n_embd), or (n_tokens, n_embd) without pooling."""
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(f"Field '{field}': at most {MAX_INPUTS} inputs", field=field)
    context = request.app[CONTEXT]
    size = sum(len(item) for item in inputs if isinstance(item, str | list))
    named = list(zip(numbered(field, len(inputs)), inputs, strict=True))
    prompts = await context.blocking(
        lambda: [(build_prompt(item, context.engine, field=name), name) for name, item in named], size
    )
    with ExitStack() as stack:
        streams = [(stack.enter_context(_submit(request, prompt, name)), name) for prompt, name in prompts]
        return [await _result(stream, name) for stream, name in streams]


def _submit(request: web.Request, prompt: Prompt, field: str) -> Stream:
    try:
        return submission.submit(request, Request(prompt, GenerationParams(n_predict=0), kind="embedding"))
    except InvalidRequest as error:
        raise error.named(field) from error


async def _result(stream: Stream, field: str) -> Embedded:
    event = await stream.next()
    if isinstance(event, Failed):
        error = as_server_error(event.error)
        raise error.named(field) if isinstance(error, InvalidRequest | EngineFailure) else error
    assert isinstance(event, Embedded)
    return event


def unit(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The vector scaled to length 1. Zeros stay zeros. A single number (pooling rank) is a score, and stays."""
    length = float(np.linalg.norm(vector))
    return (vector / np.float32(length)).astype(np.float32) if length > 0 and vector.size > 1 else vector
