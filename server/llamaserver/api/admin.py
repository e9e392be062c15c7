"""State and its control: health, props, slots, adapters, metrics, and the management port."""

import asyncio
import contextlib
import re
from time import monotonic
from typing import Any

from aiohttp import web

from .. import __version__
from ..engine.loop import SlotState
from ..engine.params import GenerationParams, SamplingParams
from ..engine.snapshot import SlotView, Snapshot
from ..errors import InvalidRequest, NotFound, NotSupported, Unavailable
from . import slotfile
from .body import json_response, read_json, read_value
from .chat import template_text
from .context import CONTEXT, Context
from .fields import Fields
from .metrics import exposition
from .native import Tag, model_name
from .quantization import quantization
from .settings import generation_settings


async def health(request: web.Request) -> web.StreamResponse:
    """GET /health: from a snapshot, so that it answers while the model loads or decodes."""
    context = request.app[CONTEXT]
    snapshot = context.engine.snapshot
    if snapshot.state == "loading" or (snapshot.state == "ready" and context.preparing):
        error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        body = {"status": "loading model", "progress": round(snapshot.load_progress, 3), "error": error}
        return json_response(body, 503)
    if snapshot.state != "ready":
        error = {"code": 500, "message": snapshot.error or "stopped", "type": "server_error"}
        return json_response({"status": "error", "error": error}, 500)
    if context.drain.begun:
        error = {"code": 503, "message": "The server is shutting down", "type": "unavailable_error"}
        return json_response({"status": "shutting down", "error": error}, 503)
    busy = snapshot.requests_processing
    idle = len(snapshot.slots) - busy
    body = {"status": "ok" if idle else "no slot available", "slots_idle": idle, "slots_processing": busy}
    if "include_slots" in request.query and context.config.slots_endpoint:
        body["slots"] = _slots(context, snapshot)
    return json_response(body, 503 if not idle and "fail_on_no_slot" in request.query else 200)


async def props(request: web.Request) -> web.StreamResponse:
    """GET /props."""
    context = request.app[CONTEXT]
    context.require_ready()
    engine, config = context.engine, context.config
    defaults = generation_settings(
        GenerationParams(n_predict=config.n_predict, sampling=SamplingParams(seed=2**32 - 1)),
        n_ctx=engine.settings.slot_ctx,
        model=model_name(context),
        stream=False,
    )
    vocab = engine.vocab
    return json_response(
        {
            "assistant_name": context.system.assistant_name,
            "user_name": context.system.user_name,
            "default_generation_settings": {**defaults, "params": defaults},
            "total_slots": engine.settings.n_slots,
            "model_alias": config.alias,
            "model_path": engine.info.path,
            "chat_template": template_text(context),
            "bos_token": vocab.special_piece(vocab.bos).decode("utf-8", "replace") if vocab.bos >= 0 else "",
            "eos_token": vocab.special_piece(vocab.eos).decode("utf-8", "replace") if vocab.eos >= 0 else "",
            "modalities": {"vision": "vision" in engine.info.modalities, "audio": "audio" in engine.info.modalities},
            "build_info": f"llamaserver {__version__}",
        }
    )


async def slots(request: web.Request) -> web.StreamResponse:
    """GET /slots."""
    context = request.app[CONTEXT]
    if not context.config.slots_endpoint:
        raise NotSupported("This server does not support slots endpoint.")
    context.require_ready()
    snapshot = context.engine.snapshot
    if "fail_on_no_slot" in request.query and snapshot.requests_processing == len(snapshot.slots):
        raise Unavailable("no slot available", retry_after=1)
    return json_response(_slots(context, snapshot))


def _slots(context: Context, snapshot: Snapshot) -> list[dict[str, Any]]:
    return [_slot(context, view) for view in snapshot.slots]


def _slot(context: Context, view: SlotView) -> dict[str, Any]:
    tag = view.tag if isinstance(view.tag, Tag) else None
    settings = (
        tag.settings
        if tag
        else generation_settings(GenerationParams(), n_ctx=view.n_ctx, model=model_name(context), stream=False)
    )
    return {
        **settings,
        "id": view.id,
        "id_task": view.id_task,
        "task_id": view.id_task,
        "state": view.state,
        "is_processing": bool(view.state),
        "prompt": tag.prompt if tag else "",
        "next_token": {
            "has_next_token": view.has_next_token,
            "n_remain": view.n_remain,
            "n_decoded": view.n_decoded,
            "stopped_eos": view.stopped_reason == "eos",
            "stopped_limit": view.stopped_reason == "limit",
            "stopped_word": view.stopped_reason == "word",
            "stopping_word": view.stopping_word,
        },
        "n_prompt_tokens": view.n_prompt,
        "n_prompt_tokens_processed": view.n_prompt_processed,
        "n_prompt_tokens_cache": view.n_cached,
        "cache_source": view.cached_from,
        "n_past": view.n_past,
    }


async def slot_action(request: web.Request) -> web.StreamResponse:
    """POST /slots/{id_slot}?action=save|restore|erase."""
    context = request.app[CONTEXT]
    if not context.config.slot_save_path:
        raise NotSupported("This server does not support slots action. Start it with `--slot-save-path`")
    context.require_ready()
    text = request.match_info["id_slot"]
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) >= context.engine.settings.n_slots:
        raise InvalidRequest(f"Invalid slot ID: must be in 0..{context.engine.settings.n_slots - 1}", field="id_slot")
    actions = {"save": _save, "restore": _restore, "erase": _erase}
    action = actions.get(request.query.get("action", ""))
    if action is None:
        raise InvalidRequest("Field 'action': must be save, restore or erase", field="action")
    return json_response(await action(request, context, int(text)))


async def _save(request: web.Request, context: Context, slot: int) -> dict[str, Any]:
    path = slotfile.path_for(context.config.slot_save_path, Fields(await read_json(request)).string("filename"))
    info, began = context.engine.info, monotonic()
    state = await context.engine.save_slot(slot)
    written = await context.blocking(
        lambda: slotfile.write(path, state.tokens, state.data, info.state_version, state.lora)
    )
    return {
        "id_slot": slot,
        "filename": path.name,
        "n_saved": len(state.tokens),
        "n_written": written,
        "timings": {"save_ms": (monotonic() - began) * 1000},
    }


async def _restore(request: web.Request, context: Context, slot: int) -> dict[str, Any]:
    path = slotfile.path_for(context.config.slot_save_path, Fields(await read_json(request)).string("filename"))
    info, began = context.engine.info, monotonic()
    tokens, data, size = await context.blocking(lambda: slotfile.read(path, info.n_vocab, info.state_version))
    lora = await context.blocking(lambda: slotfile.scales(path))
    restored = await context.engine.restore_slot(slot, SlotState(tokens, data, lora))
    return {
        "id_slot": slot,
        "filename": path.name,
        "n_restored": restored,
        "n_read": size,
        "timings": {"restore_ms": (monotonic() - began) * 1000},
    }


async def _erase(request: web.Request, context: Context, slot: int) -> dict[str, Any]:
    return {"id_slot": slot, "n_erased": await context.engine.erase_slot(slot)}


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics."""
    context = request.app[CONTEXT]
    if not context.config.metrics:
        raise NotSupported("This server does not support metrics endpoint.")
    return _metrics_response(context)


def _metrics_response(context: Context) -> web.Response:
    response = web.Response(body=exposition(context))
    response.headers["Content-Type"] = "text/plain; version=0.0.4"
    response.headers["Process-Start-Time-Unix"] = str(int(context.started))
    return response


async def lora_list(request: web.Request) -> web.StreamResponse:
    """GET /lora-adapters."""
    context = request.app[CONTEXT]
    context.require_ready()
    return json_response(
        [
            {"id": i, "path": path, "scale": scale}
            for i, ((path, _), scale) in enumerate(zip(context.config.lora, context.engine.lora_scales, strict=True))
        ]
    )


async def lora_set(request: web.Request) -> web.StreamResponse:
    """POST /lora-adapters: [{id, scale}]; adapters that are not named are switched off."""
    context = request.app[CONTEXT]
    context.require_ready()
    data = await read_value(request)
    if not isinstance(data, list):
        raise InvalidRequest("the body must be an array of {id, scale}")
    scales = [0.0] * context.engine.info.n_lora
    for item in data:
        fields = Fields(item if isinstance(item, dict) else {})
        number = fields.integer("id", default=-1)
        if not 0 <= number < len(scales):
            raise InvalidRequest(f"Field 'id': no such adapter; {len(scales)} are loaded", field="id")
        scales[number] = fields.number("scale", default=1.0)
    context.engine.set_lora(tuple(scales))
    return json_response({"success": True})


# ---- management port: no key, no TLS, not for clients


async def livez(request: web.Request) -> web.StreamResponse:
    """The process answers; a failed load is not alive any more."""
    failed = request.app[CONTEXT].engine.snapshot.state == "failed"
    return web.Response(text="failed\n" if failed else "ok\n", status=500 if failed else 200)


async def readyz(request: web.Request) -> web.StreamResponse:
    """Whether requests should be sent here; ?wait=SECONDS lets a server that loads answer later, when it knows."""
    context = request.app[CONTEXT]
    text = request.query.get("wait", "0")
    if not re.fullmatch("[0-9]{1,2}", text):
        raise InvalidRequest("wait must be a number of seconds from 0 to 99", field="wait")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(context.settled.wait(), int(text))
    reason = _not_ready(context)
    return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)


def _not_ready(context: Context) -> str:
    snapshot = context.engine.snapshot
    if context.drain.begun:
        return "shutting down"
    if snapshot.state != "ready":
        return snapshot.error or snapshot.state
    if context.preparing:
        return "loading"
    if context.config.require_offload and not context.engine.info.layers_offloaded:
        return "a GPU was asked for (--require-offload) and is not used"
    return ""


async def management_metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics on the management port; always on."""
    return _metrics_response(request.app[CONTEXT])


async def status(request: web.Request) -> web.StreamResponse:
    """GET /status: device, offload, model, slots, load progress."""
    context = request.app[CONTEXT]
    snapshot = context.engine.snapshot
    body: dict[str, Any] = {
        "version": __version__,
        "state": "draining" if context.drain.begun else snapshot.state,
        "ready": not _not_ready(context),
        "reason": _not_ready(context),
        "load_progress": snapshot.load_progress,
        "slots": {"total": context.engine.settings.n_slots, "processing": snapshot.requests_processing},
        "requests_deferred": snapshot.requests_deferred,
    }
    if context.download:
        shown = context.download
        body["download"] = {"file": shown.file, "bytes": shown.have, "total_bytes": shown.total}
    if snapshot.state == "ready":
        body["model"] = _model(context)
        info = context.engine.info
        body["accelerator"] = {
            "device": info.device,
            "layers_offloaded": info.layers_offloaded,
            "layers_total": info.layers_total,
        }
        body["system_info"] = info.system_info
    if (kept := snapshot.kv_store) is not None and not kept.opening:  # until then it is not known whether it is empty
        body["kv_store"] = {
            "entries": kept.entries,
            "bytes": kept.bytes,
            "restored_tokens": sum(kept.tokens_restored.values()),
            "unsaved": snapshot.kv_unsaved,
        }
    return json_response(body)


def _model(context: Context) -> dict[str, Any]:
    info = context.engine.info
    return {
        "name": model_name(context),
        "path": info.path,
        "description": info.description,
        "architecture": info.architecture,
        "quantization": quantization(info.metadata),
        "sha256": context.model_sha256,
        "size_bytes": info.size,
        "parameters": info.n_params,
        "trained_context": info.n_ctx_train,
        "slot_context": context.engine.settings.slot_ctx,
        "total_context": info.n_ctx,
    }


async def no_management_path(request: web.Request) -> web.StreamResponse:
    """Anything else on the management port."""
    raise NotFound(f"no such path: {request.path}")


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of the client port."""
    app.router.add_get("/health", health)
    app.router.add_get("/v1/health", health)
    app.router.add_get("/props", props)
    app.router.add_get("/slots", slots)
    app.router.add_post("/slots/{id_slot}", slot_action)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/lora-adapters", lora_list)
    app.router.add_post("/lora-adapters", lora_set)


def add_management_routes(app: web.Application) -> None:
    """Mount the endpoints of the management port."""
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", management_metrics)
    app.router.add_get("/status", status)
    app.router.add_route("*", "/{tail:.*}", no_management_path)
