"""Static files from --path, or else the built-in page and its scripts."""

import mimetypes
from pathlib import Path

from aiohttp import web

from ..errors import NotFound
from .context import CONTEXT
from .paths import path_of

_OURS = Path(__file__).parent.parent / "web"
# What our page may do in a browser. Its scripts and styles are files of ours, and it talks to its own server only. Text
# of a model becomes markup in one place, DOMPurify, which is what the last two are about.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
mimetypes.add_type("text/javascript", ".mjs")
mimetypes.add_type("text/javascript", ".js")


async def static(request: web.Request) -> web.StreamResponse:
    """GET any path that is no endpoint."""
    if request.method not in ("GET", "HEAD"):
        raise NotFound(f"no such path: {request.path}")
    context = request.app[CONTEXT]
    name = path_of(request).lstrip("/") or "index.html"
    folders = [Path(context.config.path)] if context.config.path else []
    for folder in [*folders, _OURS]:
        if (found := _find(folder, name)) is not None:
            return _file(found, ours=folder is _OURS)
    raise NotFound(f"no such path: {request.path}")


static.public = True  # type: ignore[attr-defined]  # no API key: the page asks for it


def _find(folder: Path, name: str) -> Path | None:
    """The file of that name below the folder. Links that lead out of it are not followed."""
    if "\0" in name:
        return None
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        if path.is_dir():
            path = (path / "index.html").resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):
        return None


def _file(path: Path, *, ours: bool) -> web.FileResponse:
    kind, _ = mimetypes.guess_type(path.name)
    response = web.FileResponse(path)
    response.content_type = kind or "application/octet-stream"
    response.headers["Cache-Control"] = "no-cache"
    if ours:  # a page of --path may have scripts in it, as the document's has
        response.headers["Content-Security-Policy"] = _POLICY
    return response


def add_routes(app: web.Application) -> None:
    """Mount this last: it takes all paths that are left."""
    app.router.add_route("*", "/{tail:.*}", static)
