"""Tells a client which keywords of its JSON schemas are not enforced, and counts them.

A schema never costs the answer: where the grammar cannot enforce a keyword, it allows more. With `strict: true`, such a
schema is refused instead (grammar/json_schema.py).
"""

from aiohttp import web

from .context import CONTEXT

HEADER = "X-Schema-Weakened"
_KEYWORDS = web.RequestKey("weakened", tuple)


def tell_weakened(request: web.Request, keywords: tuple[str, ...]) -> None:
    """Count the keywords, and have the answer's header name them. There are about twenty of them in all."""
    request[_KEYWORDS] = keywords
    request.app[CONTEXT].traffic.weakened.update((keyword,) for keyword in keywords)


async def add_header(request: web.Request, response: web.StreamResponse) -> None:
    """Add the header. aiohttp calls this before it sends an answer."""
    if _KEYWORDS in request:
        keywords = request[_KEYWORDS]
        response.headers[HEADER] = ", ".join(keywords)
