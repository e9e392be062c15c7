"""The endpoints /health and /props."""

from typing import Any

from aiohttp import web

from .. import __version__
from ..errors import ServerError, Unavailable
from ..readiness import Phase
from .body import json_response
from .chat import chat_template
from .context import CONTEXT
from .jobs import model_name
from .prompt import MEDIA_MARKER
from .reasoning import reasoning_defaults
from .settings import generation_settings
from .slots import slot_views


async def health(request: web.Request) -> web.StreamResponse:
    """GET /health. It reads a snapshot, so that it answers while the model loads or decodes."""
    context = request.app[CONTEXT]
    snapshot, found = context.engine.snapshot, context.readiness()
    if found.phase is Phase.LOADING:
        progress = round(context.load_progress, 3)
        return _unhealthy("loading model", Unavailable("Loading model"), progress=progress)
    if found.phase is Phase.DRAINING:
        return _unhealthy("shutting down", Unavailable("The server is shutting down"))
    if found.phase is not Phase.READY:
        return _unhealthy("error", ServerError(found.error or "stopped"))
    if context.hang:
        return _unhealthy("error", Unavailable(context.hang))
    busy = snapshot.requests_processing
    idle = len(snapshot.slots) - busy
    body: dict[str, Any] = {
        "status": "ok" if idle else "no slot available",
        "slots_idle": idle,
        "slots_processing": busy,
    }
    if "include_slots" in request.query and context.config.slots_endpoint:
        body["slots"] = slot_views(request)
    return json_response(body, 503 if not idle and "fail_on_no_slot" in request.query else 200)


def _unhealthy(status: str, error: ServerError, **more: float) -> web.Response:
    return json_response({"status": status, **more, **error.body()}, error.status)


async def props(request: web.Request) -> web.StreamResponse:
    """GET /props."""
    context = request.app[CONTEXT]
    context.require_ready()
    engine, config = context.engine, context.config
    template = chat_template(context)
    defaults = generation_settings(
        context.defaults,
        n_ctx=engine.settings.slot_ctx,
        model=model_name(context),
        stream=False,
    )
    if engine.info.causal:
        defaults |= reasoning_defaults(config, template.form)
    return json_response(
        {
            "assistant_name": context.system.assistant_name,
            "user_name": context.system.user_name,
            "default_generation_settings": {**defaults, "params": defaults},
            "total_slots": engine.settings.n_slots,
            "model_alias": next(iter(config.aliases), ""),
            "model_path": engine.info.path,
            "model_ftype": engine.info.file_type,
            "chat_template": template.source,
            "chat_template_caps": template.capabilities.by_name() if engine.info.causal else {},
            "bos_token": template.bos,
            "eos_token": template.eos,
            "modalities": {kind: kind in engine.info.modalities for kind in ("vision", "audio", "video")},
            "media_marker": MEDIA_MARKER,
            "endpoint_slots": config.slots_endpoint,
            "endpoint_metrics": config.metrics,
            "endpoint_props": False,
            "is_sleeping": False,
            "build_info": f"llamaserver {__version__}",
        }
    )


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of the client port."""
    app.router.add_get("/health", health)
    app.router.add_get("/v1/health", health)
    app.router.add_get("/props", props)
