"""Who sent a request: its API key, the tenant that the engine sees, and what only admins may do."""

from aiohttp import web

from ..errors import Forbidden
from ..interfaces.tenant import Tenant
from .context import CONTEXT
from .key_file import ANYBODY, Key

KEY = web.RequestKey("key", Key)  # set by the middleware `authorize`


def key_of(request: web.Request) -> Key:
    """The key of a request. On a server without keys, everybody is an admin."""
    key: Key = request.get(KEY, ANYBODY)
    return key


def tenant_of(request: web.Request, salt: str = "") -> Tenant:
    """The tenant of a request, for scheduling and for the cache. `salt` is its `cache_salt`."""
    key, isolated = key_of(request), request.app[CONTEXT].config.cache_isolation == "per-key"
    domain = _domain(key.domain if isolated else "", salt)
    return Tenant(key.identity, domain, most_running=key.limits.requests or 0)


def _domain(name: str, salt: str) -> bytes:
    """The cache domain of a name, narrowed by a salt. Without both, it is the one that all requests share."""
    return f"{name}\0{salt}".encode("utf-8", "surrogatepass") if name or salt else b""


def require_admin(request: web.Request, what: str) -> None:
    """Raise Forbidden unless the key is an admin's. `what` begins the sentence of the error."""
    if key_of(request).role != "admin":
        raise Forbidden(f"{what} needs an API key with the role admin")
