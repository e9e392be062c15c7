"""The middleware that finds the API key of a request."""

from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

from ..errors import Unauthorized
from .context import CONTEXT
from .key_file import Key
from .keys import KeyStore
from .paths import path_of
from .tenants import KEY

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OPEN = frozenset({"/health", "/v1/health"})  # that need no key


@web.middleware
async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find the API key of a request. Refuse requests without a valid one, where keys are configured."""
    context = request.app[CONTEXT]
    if context.keys.required and not _open_to_all(request):
        key = _key(request, context.keys)
        if key is None:
            context.traffic.unauthorized += 1
            raise Unauthorized("Invalid API Key", closes=await context.failed_keys.slow(request.remote or ""))
        request[KEY] = key
    return await handler(request)


def _open_to_all(request: web.Request) -> bool:
    if path_of(request) in OPEN:
        return "include_slots" not in request.query
    return request.get("public", False) or getattr(request.match_info.handler, "public", False)


def _key(request: web.Request, keys: KeyStore) -> Key | None:
    """The first valid key. A proxy may have sent its own beside the client's."""
    return next((key for offered in _offered(request) if (key := keys.find(offered)) is not None), None)


def _offered(request: web.Request) -> Iterator[str]:
    for authorization in request.headers.getall("Authorization", []):
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            yield token.strip()
    yield from filter(None, request.headers.getall("X-Api-Key", []))
