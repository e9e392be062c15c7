"""Embedding requests, for both dialects of the API."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.loop import Request
from ..engine.output import Embedded, Failed
from ..engine.params import GenerationParams
from ..errors import InvalidRequest
from .context import Context
from .prompt import build_prompt
from .sse import as_server_error

MAX_INPUTS = 2048


async def embed(context: Context, inputs: list[Any], field: str) -> list[Embedded]:
    """One result an input: vectors of shape (1, n_embd), or (n_tokens, n_embd) without pooling."""
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(f"Field '{field}': at most {MAX_INPUTS} inputs", field=field)
    size = sum(len(item) for item in inputs if isinstance(item, str))
    prompts = await context.blocking(lambda: [build_prompt(item, context.engine, field=field) for item in inputs], size)
    results: list[Embedded] = []
    with ExitStack() as stack:
        requests = [Request(prompt, GenerationParams(n_predict=0), kind="embedding") for prompt in prompts]
        for stream in [stack.enter_context(context.engine.submit(request)) for request in requests]:
            event = await stream.next()
            if isinstance(event, Failed):
                raise as_server_error(event.error)
            assert isinstance(event, Embedded)
            results.append(event)
    return results


def unit(vector: npt.NDArray[np.float32]) -> list[float]:
    """The vector at Euclidean length 1 (zeros stay zeros)."""
    length = float(np.linalg.norm(vector))
    scaled = vector / length if length > 0 else vector
    return [float(x) for x in scaled]
