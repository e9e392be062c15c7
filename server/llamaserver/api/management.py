"""The management port: probes, metrics and status. It has no keys and no TLS, and is not for clients.

Its handlers run on a thread of their own (management_port.py). They only read, and only what Context allows.
"""

import asyncio
import re
from typing import Any

from aiohttp import web

from .. import __version__
from ..errors import InvalidRequest, NotFound
from ..readiness import Phase
from .body import json_response
from .context import CONTEXT, Context
from .jobs import model_name
from .metrics import metrics_response
from .quantization import quantization

_POLL = 0.05  # seconds between two looks while the model loads
_MOST_WAIT = 16  # probes that wait at the same time. The port has room for more connections than that
_WAITING = web.AppKey("waiting", asyncio.Semaphore)


async def livez(request: web.Request) -> web.StreamResponse:
    """GET /livez: the process answers. After a failed load, or when the engine hangs, only a new start helps."""
    context = request.app[CONTEXT]
    if context.alive:
        return web.Response(text="ok\n")
    return web.Response(text=f"{context.hang or 'failed'}\n", status=500)


async def readyz(request: web.Request) -> web.StreamResponse:
    """GET /readyz: whether clients should send requests. With ?wait=SECONDS, it waits for the end of loading.

    When many wait already, it answers at once.
    """
    context = request.app[CONTEXT]
    text = request.query.get("wait", "0")
    if not re.fullmatch("[0-9]{1,2}", text):
        raise InvalidRequest("wait must be a number of seconds from 0 to 99", field="wait")
    waiting = request.app[_WAITING]
    if not waiting.locked():
        async with waiting:
            await _settled(context, int(text))
    reason = context.readiness().reason
    return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)


async def _settled(context: Context, seconds: int) -> None:
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while not context.settled.is_set() and clock() < end:  # noqa: ASYNC110  another thread sets it
        await asyncio.sleep(_POLL)


async def management_metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics on the management port, which is always on. Probes do not wait for it."""
    return await asyncio.to_thread(metrics_response, request.app[CONTEXT])


async def status(request: web.Request) -> web.StreamResponse:
    """GET /status: device, offload, model, slots, load progress."""
    context = request.app[CONTEXT]
    snapshot, found = context.engine.snapshot, context.readiness()
    body: dict[str, Any] = {
        "version": __version__,
        "state": found.state,
        "ready": not found.reason,
        "reason": found.reason,
        "load_progress": context.load_progress,
        "slots": {"total": context.engine.settings.n_slots, "processing": snapshot.requests_processing},
        "requests_deferred": snapshot.requests_deferred,
    }
    if download := context.download:
        body["download"] = {"file": download.file, "bytes": download.have, "total_bytes": download.total}
    if snapshot.state == Phase.READY and not context.failure:
        body["model"] = _model(context)
        info = context.engine.info
        body["accelerator"] = {
            "device": info.device,
            "layers_offloaded": info.layers_offloaded,
            "layers_total": info.layers_total,
        }
        body["system_info"] = info.system_info
    store = snapshot.kv_store
    if store is not None and not store.opening:  # before, its size is not known
        body["kv_store"] = {
            "entries": store.entries,
            "bytes": store.bytes,
            "restored_tokens": sum(store.tokens_restored.values()),
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
    """Mount the endpoints of the management port."""
    app[_WAITING] = asyncio.Semaphore(_MOST_WAIT)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", management_metrics)
    app.router.add_get("/status", status)
    app.router.add_route("*", "/{tail:.*}", no_management_path)
