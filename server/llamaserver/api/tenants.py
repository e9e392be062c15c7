"""Who sent a request: its API key, and the tenant that the engine sees."""

from aiohttp import web

from ..interfaces.tenant import Tenant
from .key_file import ANYBODY, Key

KEY = web.RequestKey("key", Key)  # set by the middleware `authorize`


def key_of(request: web.Request) -> Key:
    """The key of a request. On a server without keys, everybody is an admin."""
    key: Key = request.get(KEY, ANYBODY)
    return key


def tenant_of(request: web.Request) -> Tenant:
    """The tenant of a request, for scheduling and for the cache."""
    return Tenant(key_of(request).name)
