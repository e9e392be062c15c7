"""The responses that the server keeps (kept_responses.py): to be read, deleted, and asked for what they were asked."""

from typing import Any

from aiohttp import web

from ..errors import InvalidRequest, NotFound
from .body import client_of, dumps, encoded_response, json_response
from .context import CONTEXT
from .fields import Fields
from .kept_responses import Earlier, Item, Kept
from .tenants import key_of

_MOST = 100  # items of one page
_USUAL = 20
_TEXT_OF = {"assistant": "output_text"}  # the type of a part of a message, by its role


async def retrieve(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses/{id}. The answer is that of the request which has made the response."""
    if request.query.get("stream") in ("true", "1"):
        raise InvalidRequest("Field 'stream': a kept response comes in one piece only", field="stream")
    return encoded_response(_kept(request).response)


async def delete(request: web.Request) -> web.StreamResponse:
    """DELETE /v1/responses/{id}."""
    name = request.match_info["id"]
    if not request.app[CONTEXT].responses.forget(key_of(request).identity, name):
        raise _unknown(name)
    return json_response({"id": name, "object": "response", "deleted": True})


async def input_items(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses/{id}/input_items: all items before the answer, page by page."""
    context, kept = request.app[CONTEXT], _kept(request)
    earlier = Earlier(context.responses, key_of(request).identity, context.config.largest_body)
    page = Fields({name: _number(value) for name, value in request.query.items()})
    limit = page.integer("limit", default=_USUAL, low=1, high=_MOST)
    order, after = request.query.get("order", "desc"), request.query.get("after", "")
    if order not in ("asc", "desc"):
        raise InvalidRequest("Field 'order': must be asc or desc", field="order")
    name = request.match_info["id"]

    def listed() -> bytes:
        items = _named(earlier.before(kept), name)
        return dumps(_page(items if order == "asc" else items[::-1], after, limit))

    return encoded_response(await context.blocking(listed, len(kept.input), client_of(request)))


def _kept(request: web.Request) -> Kept:
    name = request.match_info["id"]
    kept = request.app[CONTEXT].responses.response(key_of(request).identity, name)
    if kept is None:
        raise _unknown(name)
    return kept


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"Response with id '{name:.100}' not found. The server keeps the last responses of an API key in memory only"
    )


def _number(value: str) -> Any:
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else value


def _page(items: list[Item], after: str, limit: int) -> dict[str, Any]:
    """Some items, from the one that follows the item with the id `after`."""
    names = [item["id"] for item in items]
    if after and after not in names:
        raise InvalidRequest(f"Field 'after': there is no item with the id '{after:.100}'", field="after")
    start = names.index(after) + 1 if after else 0
    data = [_shown(item) for item in items[start : start + limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + limit < len(items),
    }


def _named(items: list[Item], response: str) -> list[Item]:
    """Items with ids. Those without one are counted from the end, which stays as it is."""
    count = len(items)
    return [
        item
        if isinstance(item.get("id"), str)
        else item | {"id": f"item_{response.removeprefix('resp_')}_{count - at}"}
        for at, item in enumerate(items)
    ]


def _shown(item: Item) -> Item:
    """An item as OpenAI lists it: with its type and its status, and text as a part of the content."""
    item = {"type": "message", "status": "completed"} | {name: one for name, one in item.items() if one is not None}
    if item["type"] == "message":
        kind = _TEXT_OF.get(item["role"], "input_text")
        content = item.get("content")
        parts = [content] if isinstance(content, str) else content or []
        item["content"] = [_part(part, kind) for part in parts]
    return item


def _part(part: Any, kind: str) -> Any:
    if isinstance(part, str):
        part = {"type": kind, "text": part}
    return part | {"annotations": part.get("annotations") or []} if part.get("type") == "output_text" else part


def add_routes(app: web.Application) -> None:
    """Mount the endpoints of this file."""
    for prefix in ("/v1", ""):
        app.router.add_get(f"{prefix}/responses/{{id}}", retrieve)
        app.router.add_delete(f"{prefix}/responses/{{id}}", delete)
        app.router.add_get(f"{prefix}/responses/{{id}}/input_items", input_items)
