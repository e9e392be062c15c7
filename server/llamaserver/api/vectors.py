"""Embedding requests, for both dialects of the API."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from ..config import MAX_NORM
from ..engine.loop import Request
from ..engine.stream import Stream
from ..errors import EngineFailure, InvalidRequest, NotSupported, as_server_error
from ..interfaces.output import Embedded, Failed
from ..interfaces.params import GenerationParams, Prompt
from . import submission
from .body import HOLD
from .context import Context
from .fields import Fields
from .prompt import build_prompt, numbered

MAX_INPUTS = 2048
MAX_NUMBERS = 1 << 22  # of the vectors of all tokens of a request: 50 MB of JSON
_LARGEST_WHOLE = 32760  # of a vector that is scaled to 16 bits, as in llama.cpp
_BYTES_OF_NUMBER = 12  # as JSON

Inputs = list[tuple[Prompt, str]]  # each with its name in errors


def require_embeddings(context: Context) -> None:
    """Raise NotSupported if the server does not compute embeddings."""
    if not context.config.embedding:
        raise NotSupported("This server does not support embeddings. Start it with `--embedding`")


def read_inputs(context: Context, inputs: list[Any], field: str) -> Inputs:
    """Tokenize texts. Arrays of token ids are taken as they are. Runs in an executor thread. Raises InvalidRequest."""
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(f"Field '{field}': at most {MAX_INPUTS} inputs", field=field)
    names = numbered(field, len(inputs))
    return [(build_prompt(item, context.engine, field=name), name) for name, item in zip(names, inputs, strict=True)]


def per_token(context: Context) -> bool:
    """Whether each token has a vector. Models that have no pooling by themselves give that of the last token."""
    return context.config.pooling == "none"


def check_numbers(context: Context, inputs: Inputs) -> None:
    """Refuse inputs whose tokens have too many vectors together. Raises InvalidRequest."""
    tokens, width = sum(len(prompt) for prompt, _ in inputs), context.engine.info.n_embd
    if tokens * width > MAX_NUMBERS:
        message = f"Field 'content': {tokens} tokens x {width} numbers is more than {MAX_NUMBERS}"
        raise InvalidRequest(message, field="content")


async def embed(request: web.Request, inputs: Inputs, *, kept: int = 0, every: bool = False) -> list[Embedded]:
    """One result per input. Each has one vector, without pooling that of the last token, or `every` vector.

    `kept`: bytes of the body that the answer repeats.
    """
    submission.check_limits(request, len(inputs))
    request[HOLD].keep(kept + sum(prompt.keys.itemsize * len(prompt) for prompt, _ in inputs))
    with ExitStack() as stack:
        streams = [(stack.enter_context(_submit(request, prompt, name)), name) for prompt, name in inputs]
        return [await _result(stream, name, every=every) for stream, name in streams]


def _submit(request: web.Request, prompt: Prompt, field: str) -> Stream:
    try:
        return submission.submit(request, Request(prompt, GenerationParams(n_predict=0), kind="embedding"))
    except InvalidRequest as error:
        raise error.named(field) from error


async def _result(stream: Stream, field: str, *, every: bool) -> Embedded:
    event = await stream.next()
    if isinstance(event, Failed):
        error = as_server_error(event.error)
        raise error.named(field) if isinstance(error, InvalidRequest | EngineFailure) else error
    assert isinstance(event, Embedded)
    if every:
        return event
    return replace(event, vectors=event.vectors[-1:].copy())  # not the others of a long text, while the next is awaited


def size_of(results: list[Embedded]) -> int:
    """About how many bytes the vectors take as JSON."""
    return sum(int(result.vectors.size) for result in results) * _BYTES_OF_NUMBER


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many numbers of each vector are kept, and the norm that they are scaled by.

    The norms have llama.cpp's numbers. -1: none. 0: the largest number becomes 32,760. 2: Euclid's. Others: the p-norm.
    """

    dimensions: int
    norm: int

    def __call__(self, vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The scaled vector. Zeros stay zeros. A single number (pooling rank) is a score, and stays."""
        if vector.size == 1:
            return vector
        vector = vector[: self.dimensions]
        length = self._length(vector.astype(np.float64))
        return (vector / length).astype(np.float32) if length > 0 else vector

    def _length(self, vector: npt.NDArray[np.float64]) -> float:
        if self.norm < 0:
            return 1.0
        largest = float(np.abs(vector).max())
        if self.norm == 0 or largest == 0:
            return largest / _LARGEST_WHOLE
        return largest * float(np.linalg.norm(vector / largest, self.norm))  # no power overflows


def read_scaling(context: Context, fields: Fields) -> Scaling:
    """The fields `dimensions` and `embd_normalize`. Raises InvalidRequest."""
    width = context.engine.info.n_embd
    dimensions = fields.integer("dimensions", default=width, low=1, high=width)
    norm = fields.integer("embd_normalize", default=context.config.embd_normalize, low=-1, high=MAX_NORM)
    return Scaling(dimensions, norm)
