"""The system prompt: the initial prompt of all slots, from a file at start or from a request.

It is prepended to every prompt; the engine's shared prefixes make that cost one evaluation.
"""

from pathlib import Path
from typing import Any

from ..errors import ConfigError, InvalidRequest, ServerError
from .body import parse
from .context import Context, SystemPrompt
from .fields import Fields
from .prompt import check_length


async def apply_system_prompt(context: Context, fields: Fields) -> None:
    """Take `system_prompt` from a request body, if it has one; later requests of everybody see it."""
    _, value = fields.get("system_prompt")
    if value is None:
        return
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise InvalidRequest("Field 'system_prompt': must be an object or a string", field="system_prompt")
    size = len(str(value.get("prompt")))
    context.system = await context.blocking(lambda: read_system_prompt(context, value), size)


def read_system_prompt(context: Context, value: dict[str, Any]) -> SystemPrompt:
    """{prompt, anti_prompt, assistant_name} to tokens; must leave room for a prompt."""
    fields = Fields(value)
    text = fields.string("prompt")
    engine = context.engine
    check_length([text], engine, "system_prompt")
    tokens = engine.vocab.tokenize(text, add_special=True, parse_special=True) if text else []
    if len(tokens) >= engine.settings.slot_ctx - 4:
        raise InvalidRequest(
            f"Field 'system_prompt': {len(tokens)} tokens leave no room in a slot of {engine.settings.slot_ctx}",
            field="system_prompt",
        )
    return SystemPrompt(tuple(tokens), fields.string("assistant_name"), fields.string("anti_prompt", "user_name"))


async def load_system_prompt(context: Context, path: str) -> None:
    """--system-prompt-file: the same JSON object, or plain text; ConfigError when it cannot be used."""
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
