"""The paths of the clients' port, which all begin with --api-prefix."""

from aiohttp import web

from .context import CONTEXT


def path_of(request: web.Request) -> str:
    """The path of a request, without the prefix."""
    return request.path.removeprefix(request.app[CONTEXT].config.api_prefix)


def put_prefix(app: web.Application, prefix: str) -> None:
    """Put the prefix before the paths of all routes, as aiohttp does for an application inside another."""
    for resource in list(app.router.resources()):
        app.router.unindex_resource(resource)
        resource.add_prefix(prefix)
        app.router.index_resource(resource)
    app.router.add_get(prefix, _to_the_page)


async def _to_the_page(request: web.Request) -> web.StreamResponse:
    """GET the prefix alone. The page has names of files relative to it, so it needs the slash."""
    raise web.HTTPPermanentRedirect(f"{request.path}/")


_to_the_page.public = True  # type: ignore[attr-defined]  # as the page is
