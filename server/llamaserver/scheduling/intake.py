"""From a request to a task: all checks and defaults that need no engine thread."""

from array import array
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import ContextExceeded, InvalidRequest, NotSupported
from ..interfaces.backend import ModelInfo, Sampler, Vocab
from ..interfaces.params import GenerationParams, Prompt
from ..interfaces.tenant import COMMON, Tenant
from . import overflow
from .request import Task
from .settings import EngineSettings
from .text_stream import Stops


@dataclass(slots=True)
class Request:
    """What the API asks of the engine. `tag` is data of the API, which SlotView carries back.

    The requests of one batch share their `stops`, which are those of `params`. With `ends_with_slot`, the prompt is
    never cut, and the answer ends when its slot is full. `most_tokens` limits every answer, -1 does not. `shown` are
    the control tokens whose text is part of the answer. A token that ends it has no text. The last `n_scored` tokens
    of the prompt get scores, so nothing of the prompt is reused.
    """

    prompt: Prompt
    params: GenerationParams
    sampler: Sampler | None = None  # required for completions that predict
    kind: Literal["completion", "embedding"] = "completion"
    tag: Any = None
    tenant: Tenant = COMMON
    stops: Stops | None = None
    ends_with_slot: bool = False
    most_tokens: int = -1
    shown: frozenset[int] = frozenset()
    n_scored: int = 0


def make_task(
    request: Request,
    id_task: int,
    settings: EngineSettings,
    info: ModelInfo,
    vocab: Vocab,
    *,
    scales: tuple[float, ...],
) -> Task:
    """The task of a request. `scales` are the server's LoRA scales.

    Raises ContextExceeded, InvalidRequest or NotSupported.
    """
    params = request.params
    if params.id_slot >= settings.n_slots:
        raise InvalidRequest(f"id_slot must be below {settings.n_slots}", field="id_slot")
    if request.kind == "embedding":
        keys, truncated = _embedding_keys(request.prompt, settings, info), False
        params = replace(params, cache_prompt=False)
    else:
        keys, truncated = _completion_keys(request, settings, info)
        if settings.grp_attn_n > 1 or request.n_scored:
            params = replace(params, cache_prompt=False)
    return Task(
        id_task=id_task,
        kind=request.kind,
        params=params,
        keys=keys,
        media=request.prompt.media,
        sampler=request.sampler,
        lora=scales if params.lora is None else params.lora,
        n_predict=_n_predict(request, len(keys), settings, truncated=truncated),
        truncated=truncated,
        tag=request.tag,
        tenant=request.tenant,
        stops=request.stops,
        shown=request.shown,
        n_scored=min(request.n_scored, len(keys) - 1),  # nothing tells how likely the first token is
        shifts=not request.ends_with_slot,
        system=request.prompt.keys[: request.prompt.common],
        n_keep=_n_keep(params, len(keys), settings, vocab),
    )


def _n_predict(request: Request, n_prompt: int, settings: EngineSettings, *, truncated: bool) -> int:
    """Most tokens of the answer, -1 without a limit.

    Where an answer without a limit ends with its slot, a prompt that was cut leaves room for a quarter of the slot.
    """
    limit = _least(request.params.n_predict, settings.n_predict)
    unlimited, slot_ctx = settings.unlimited_answers, settings.slot_ctx
    if request.ends_with_slot:
        limit = _least(limit, slot_ctx - n_prompt)
    elif limit < 0 and not unlimited:
        limit = slot_ctx // 4 if truncated else slot_ctx - n_prompt
    return _least(_least(limit, request.most_tokens), -1 if unlimited else slot_ctx)


def _least(a: int, b: int) -> int:
    """The lower of two limits. A negative number is none."""
    return min(a, b) if min(a, b) >= 0 else max(a, b)


def _n_keep(params: GenerationParams, n_prompt: int, settings: EngineSettings, vocab: Vocab) -> int:
    if params.n_keep < 0:
        return n_prompt
    return min(params.n_keep + int(vocab.add_bos), settings.slot_ctx - overflow.MARGIN)


def _completion_keys(request: Request, settings: EngineSettings, info: ModelInfo) -> "tuple[array[int], bool]":
    prompt, limit = request.prompt, settings.slot_ctx
    if not info.causal:
        raise NotSupported("this model computes embeddings only")
    if not len(prompt):
        raise InvalidRequest("the prompt is empty", field="prompt")
    size = len(prompt) + sum(media.n_tokens - media.n_pos for media in prompt.media)
    if size < limit:
        return prompt.keys, False
    if request.ends_with_slot or not settings.context_shift or prompt.media or settings.grp_attn_n > 1:
        raise ContextExceeded.of(size, limit, field="prompt")
    return overflow.truncated_prompt(prompt.keys, limit, request.params.n_keep), True


def _embedding_keys(prompt: Prompt, settings: EngineSettings, info: ModelInfo) -> "array[int]":
    room = settings.slot_ctx if info.causal else info.n_ctx_train
    limit = min(info.n_ubatch, info.n_batch, room)
    if not len(prompt):
        raise InvalidRequest("the input is empty", field="input")
    if len(prompt) > limit:
        raise ContextExceeded.of(len(prompt), limit, field="input")
    return prompt.keys
