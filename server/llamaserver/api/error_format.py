"""Which API a request is for, and the form of its errors: OpenAI's or Anthropic's."""

from typing import Any

from aiohttp import web

from ..errors import ContextExceeded, ServerError
from .traffic import RECORD

_MESSAGES = "/v1/messages"
_MODELS = "/v1/models"  # a path of both APIs
_VERSION = "anthropic-version"  # a header that each client of Anthropic's API sends
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def is_anthropic(request: web.Request) -> bool:
    """Whether a request is for Anthropic's API."""
    return _is_below(request, _MESSAGES) or (_VERSION in request.headers and _is_below(request, _MODELS))


def error_json(request: web.Request, error: ServerError) -> dict[str, Any]:
    """The JSON body for an error."""
    if not is_anthropic(request):
        return error.body()
    body: dict[str, Any] = {"type": "error", "error": {"type": _kind(error.status), "message": _message(error)}}
    if RECORD in request:
        body["request_id"] = request[RECORD].id
    return body


def _is_below(request: web.Request, path: str) -> bool:
    return request.path == path or request.path.startswith(f"{path}/")


def _kind(status: int) -> str:
    return _KINDS.get(status) or ("invalid_request_error" if status < ServerError.status else "api_error")


def _message(error: ServerError) -> str:
    """The message, with the name of the field, for which there is no other place.

    Claude Code makes its conversation shorter when it reads that the prompt is too long.
    """
    if isinstance(error, ContextExceeded) and error.extra.keys() >= {"n_prompt_tokens", "n_ctx"}:
        return f"prompt is too long: {error.extra['n_prompt_tokens']} tokens > {error.extra['n_ctx']} maximum"
    named = error.field is None or f"'{error.field}" in error.message
    return error.message if named else f"Field '{error.field}': {error.message}"
