"""Headers that every answer of both ports has: they limit what a browser does with it."""

from aiohttp import web, web_response

_PROTECTION = {
    "X-Content-Type-Options": "nosniff",  # the type is what Content-Type says
    "X-Frame-Options": "DENY",  # no page shows ours in a frame, where it could make users click on it
    "Content-Security-Policy": "frame-ancestors 'none'",  # the same, in newer browsers
    "Referrer-Policy": "no-referrer",
}
# aiohttp's own text has the versions of aiohttp and Python. It is also sent with answers to malformed requests, which
# no handler and no signal sees.
web_response.SERVER_SOFTWARE = "llamaserver"  # type: ignore[attr-defined]  # no part of the module's interface


async def protect(_: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that an answer does not set itself. aiohttp calls this before it sends an answer."""
    for name, value in _PROTECTION.items():
        response.headers.setdefault(name, value)
