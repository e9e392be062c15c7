"""The list of models, which has one entry: in OpenAI's form, or in Anthropic's for its clients."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from ..errors import InvalidRequest, NotFound
from ..interfaces.backend import ModelInfo
from .body import json_response
from .chat import chat_template
from .context import CONTEXT, Context
from .error_format import is_anthropic
from .jobs import model_name


async def models(request: web.Request) -> web.StreamResponse:
    """GET /v1/models."""
    context = request.app[CONTEXT]
    context.require_ready()
    name = model_name(context)
    if is_anthropic(request):
        page = {"first_id": name, "last_id": name, "has_more": False}
        return json_response({"data": [_anthropic_entry(context)], **page})
    capabilities = ["completion", *(["multimodal"] if context.engine.info.modalities else [])]
    listed = {"name": name, "model": name, "type": "model", "capabilities": capabilities}
    return json_response({"object": "list", "data": [_entry(context)], "models": [listed]})


async def model(request: web.Request) -> web.StreamResponse:
    """GET /v1/models/{id}. An id can be a path, so it can contain slashes, percent-encoded or not."""
    context = request.app[CONTEXT]
    context.require_ready()
    wanted = request.match_info["id"]
    if wanted not in (model_name(context), *context.config.aliases):
        about = {"code": "model_not_found", "type": InvalidRequest.kind}  # OpenAI's words
        raise NotFound(f"The model '{wanted:.200}' does not exist", field="model", **about)
    return json_response(_anthropic_entry(context) if is_anthropic(request) else _entry(context))


def _anthropic_entry(context: Context) -> dict[str, Any]:
    slot_ctx = context.engine.settings.slot_ctx
    return {
        "type": "model",
        "id": model_name(context),
        "display_name": model_name(context),
        "created_at": datetime.fromtimestamp(int(context.started), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": slot_ctx,
        "max_tokens": slot_ctx,
    }


def _entry(context: Context) -> dict[str, Any]:
    info = context.engine.info
    meta = {
        "vocab_type": info.vocab_type,
        "n_vocab": info.n_vocab,
        "n_ctx": context.engine.settings.slot_ctx,
        "n_ctx_train": info.n_ctx_train,
        "n_embd": info.n_embd,
        "n_params": info.n_params,
        "size": info.size,
        "ftype": info.file_type,
    }
    return {
        "id": model_name(context),
        "aliases": list(context.config.aliases),
        "tags": list(context.config.tags),
        "object": "model",
        "created": int(context.started),
        "owned_by": "llamacpp",
        "meta": meta,
        "architecture": {"input_modalities": _inputs(info), "output_modalities": ["text"] if info.causal else []},
        "chat_template_caps": chat_template(context).capabilities.by_name() if info.causal else {},
    }


def _inputs(info: ModelInfo) -> list[str]:
    kinds = {"vision": "image", "audio": "audio"}
    return ["text", *(kinds[name] for name in sorted(info.modalities))]


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_get("/v1/models", models)
    app.router.add_get("/models", models)
    app.router.add_get("/v1/models/{id:.+}", model)
