"""The endpoint of the KV store: list its blocks, or delete all of them. For admins."""

from typing import Any

from aiohttp import web

from ..errors import NotSupported
from ..kvstore.store import KVStore
from .body import dumps, encoded_response, json_response
from .context import CONTEXT, Context
from .tenants import require_admin


async def listing(request: web.Request) -> web.StreamResponse:
    """GET /kv-store: totals, and the place of every block in its conversation. No text and no tokens."""
    require_admin(request, "GET /kv-store shows the blocks of all keys, so it")
    context = request.app[CONTEXT]
    store = _store(context)
    return encoded_response(await context.storing(lambda: dumps(_contents(store))))


def _contents(store: KVStore) -> Any:
    blocks, stats = store.listing(), store.stats()
    return {
        "entries": stats.entries,
        "bytes": stats.bytes,
        "ram_entries": stats.ram_entries,
        "ram_bytes": stats.ram_bytes,
        "blocks": [
            {
                "id": block.identity.hex(),
                "parent": block.parent.hex(),
                "start": block.start,
                "tokens": block.count,
                "tiers": list(tiers),
            }
            for block, tiers in blocks
        ],
    }


async def clear(request: web.Request) -> web.StreamResponse:
    """DELETE /kv-store: delete all blocks, in memory and on disk."""
    require_admin(request, "DELETE /kv-store deletes the blocks of all keys, so it")
    context = request.app[CONTEXT]
    store = _store(context)
    return json_response({"removed": await context.storing(store.clear)})


def _store(context: Context) -> KVStore:
    context.require_ready()
    if context.engine.store is None:
        raise NotSupported("This server has no KV store. Start it with `--kv-store` or `--cache-ram`")
    return context.engine.store


def add_routes(app: web.Application) -> None:
    """Mount the endpoint."""
    app.router.add_get("/kv-store", listing)
    app.router.add_delete("/kv-store", clear)
