"""Who sent a request: its API key, and what only admins may do."""

from aiohttp import web

from ..errors import Forbidden
from .key_file import ANYBODY, Key

KEY = web.RequestKey("key", Key)  # set by the middleware `authorize`


def key_of(request: web.Request) -> Key:
    """The key of a request. On a server without keys, everybody is an admin."""
    key: Key = request.get(KEY, ANYBODY)
    return key


def require_admin(request: web.Request, what: str) -> None:
    """Raise Forbidden unless the key is an admin's. `what` begins the sentence of the error."""
    if key_of(request).role != "admin":
        raise Forbidden(f"{what} needs an API key with the role admin")
