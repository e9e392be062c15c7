"""The system prompt, from a file at the start or from a request.

It comes before every prompt. Slots share it as a prefix, so it is evaluated once.
"""

import logging
from pathlib import Path
from typing import Any

from aiohttp import web

from ..errors import ConfigError, Forbidden, InvalidRequest, ServerError
from ..scheduling.overflow import MARGIN
from .body import parse
from .context import CONTEXT, Context, SystemPrompt
from .fields import Fields
from .prompt import check_length
from .tenants import key_of, require_admin

_log = logging.getLogger(__name__)


def requested_system_prompt(request: web.Request, fields: Fields) -> SystemPrompt | None:
    """The system prompt of a request, for all later ones too. None if it has none. Runs in an executor thread.

    Raises Forbidden or InvalidRequest.
    """
    _, value = fields.get("system_prompt")
    if value is None:
        return None
    context = request.app[CONTEXT]
    if not context.config.request_system_prompt:
        raise Forbidden(
            "Field 'system_prompt': this server was started with --no-request-system-prompt", field="system_prompt"
        )
    require_admin(request, "Field 'system_prompt' changes the answers of all keys, so it")
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise InvalidRequest("Field 'system_prompt': must be an object or a string", field="system_prompt")
    return read_system_prompt(context, value)


def set_system_prompt(request: web.Request, system: SystemPrompt) -> None:
    """Set the system prompt of all later requests."""
    request.app[CONTEXT].system = system
    _log.warning("a request of key %s has set the system prompt of all requests", key_of(request).name or "(none)")


def read_system_prompt(context: Context, value: dict[str, Any]) -> SystemPrompt:
    """Tokenize {prompt, anti_prompt, assistant_name}. Raises InvalidRequest if no room for a prompt is left."""
    fields = Fields(value)
    text = fields.string("prompt")
    engine = context.engine
    check_length([text], engine, "system_prompt")
    tokens = engine.vocab.tokenize(text, add_special=True, parse_special=True) if text else []
    if len(tokens) >= engine.settings.slot_ctx - MARGIN:
        raise InvalidRequest(
            f"Field 'system_prompt': {len(tokens)} tokens leave no room in a slot of {engine.settings.slot_ctx}",
            field="system_prompt",
        )
    return SystemPrompt(tuple(tokens), fields.string("assistant_name"), fields.string("anti_prompt", "user_name"))


async def load_system_prompt(context: Context, path: str) -> None:
    """Read --system-prompt-file: the same JSON object, or plain text. Raises ConfigError."""
    try:
        data = await context.blocking(Path(path).read_bytes)
        try:
            value = parse(data)
        except InvalidRequest:
            value = {"prompt": data.decode("utf-8-sig")}
        inner = value.get("system_prompt", value)
        inner = {"prompt": inner} if isinstance(inner, str) else inner
        context.system = await context.blocking(lambda: read_system_prompt(context, inner))
    except (OSError, UnicodeDecodeError, ServerError) as error:
        raise ConfigError(f"--system-prompt-file {path}: {error}") from error
