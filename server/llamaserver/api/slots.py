"""The endpoint /slots: list the slots, and save, restore or erase the cache of one."""

import os
import re
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import web

from ..engine.loop import SlotState
from ..engine.snapshot import SlotView
from ..errors import InvalidRequest, NotSupported, Unavailable
from . import slotfile
from .body import client_of, dumps, json_response, long_response, read_fields
from .context import CONTEXT, Context
from .jobs import Tag, model_name
from .settings import generation_settings
from .slot_quota import FOLDER_OF_USER
from .submission import has_salt, tenant_of
from .tenants import key_of

_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes; no state is larger


async def slots(request: web.Request) -> web.StreamResponse:
    """GET /slots."""
    context = request.app[CONTEXT]
    if not context.config.slots_endpoint:
        raise NotSupported("This server does not support slots endpoint.")
    context.require_ready()
    snapshot = context.engine.snapshot
    if "fail_on_no_slot" in request.query and snapshot.requests_processing == len(snapshot.slots):
        raise Unavailable("no slot available", retry_after=1)
    views = slot_views(request)
    return await long_response(request, lambda: dumps(views), sum(len(view["prompt"]) for view in views))


def slot_views(request: web.Request) -> list[dict[str, Any]]:
    """The answer of GET /slots: one object per slot. Of other keys' requests, only admins see more than the state."""
    context, key = request.app[CONTEXT], key_of(request)
    views = context.engine.snapshot.slots
    return [_slot(context, view if key.sees(view.owner) else _outside(view)) for view in views]


def _outside(view: SlotView) -> SlotView:
    """What other keys may know of a slot."""
    return SlotView(view.id, view.n_ctx, state=view.state, id_task=view.id_task)


def _slot(context: Context, view: SlotView) -> dict[str, Any]:
    tag = view.tag if isinstance(view.tag, Tag) else None
    settings = (
        tag.settings
        if tag
        else generation_settings(context.defaults, n_ctx=view.n_ctx, model=model_name(context), stream=False)
    )
    return {
        **settings,
        "id": view.id,
        "id_task": view.id_task,
        "task_id": view.id_task,
        "state": view.state,
        "is_processing": bool(view.state),
        "params": settings,
        "speculative": False,
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
    with context.slot_quota.place(client_of(request)):
        return json_response(await action(request, context, int(text)))


async def _save(request: web.Request, context: Context, slot: int) -> dict[str, Any]:
    path = await _path(request)
    info, quota, began = context.engine.info, context.slot_quota, monotonic()

    def write(state: SlotState) -> int:
        if has_salt(state.domain):  # a file has no domain: whoever restores it could share it
            text = f"slot {slot} holds the state of a request with a cache_salt, and cannot be saved"
            raise InvalidRequest(text, field="id_slot")
        quota.check(path, slotfile.size(state.tokens, state.data))
        return slotfile.write(path, state.tokens, state.data, info.state_version, state.lora)

    await context.engine.idle_slot(slot, key_of(request).bound)  # nobody waits for a busy slot in a turn
    async with quota.turn():
        await context.blocking(lambda: quota.check(path, 0))  # before the state is read
        state = await context.engine.save_slot(slot, key_of(request).bound, wait=False)
        written, saved = await context.blocking(lambda: write(state)), len(state.tokens)
    return {
        "id_slot": slot,
        "filename": path.name,
        "n_saved": saved,
        "n_written": written,
        "timings": {"save_ms": (monotonic() - began) * 1000},
    }


async def _restore(request: web.Request, context: Context, slot: int) -> dict[str, Any]:
    path = await _path(request)
    info, began = context.engine.info, monotonic()
    quota, most_tokens = context.slot_quota, context.engine.settings.slot_ctx

    def read() -> tuple[SlotState, int]:
        tokens, data, size = slotfile.read(
            path, info.n_vocab, info.state_version, most_tokens=most_tokens, most_bytes=_MEMORY
        )
        return SlotState(tokens, data, slotfile.scales(path)), size

    await context.engine.idle_slot(slot, key_of(request).bound)
    async with quota.turn():
        state, size = await context.blocking(read)
        restored = await context.engine.restore_slot(slot, state, tenant_of(request), key_of(request).bound, wait=False)
    return {
        "id_slot": slot,
        "filename": path.name,
        "n_restored": restored,
        "n_read": size,
        "timings": {"restore_ms": (monotonic() - began) * 1000},
    }


async def _erase(request: web.Request, context: Context, slot: int) -> dict[str, Any]:
    return {"id_slot": slot, "n_erased": await context.engine.erase_slot(slot, key_of(request).bound)}


async def _path(request: web.Request) -> Path:
    """The file that the body names. The files of each user are in a folder of their own."""
    key, folder = key_of(request), Path(request.app[CONTEXT].config.slot_save_path)
    if key.bound is not None:
        folder /= f"{FOLDER_OF_USER}{key.identity.replace(':', '-')}"
    return await read_fields(request, lambda fields: slotfile.path_for(str(folder), fields.string("filename")))


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    app.router.add_get("/slots", slots)
    app.router.add_post("/slots/{id_slot}", slot_action)
