"""Checks at the start that the chat template compiles and renders a plain chat."""

import asyncio
import difflib
import logging
from typing import Any

from ..errors import InvalidRequest, TemplateFailure, TemplateInvalid, TemplateRefusal
from .chat import chat_template, given_template
from .context import Context
from .templates import compile_template

_log = logging.getLogger(__name__)
_WORD = "marmalade"
_SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}
_USER: dict[str, Any] = {"role": "user", "content": _WORD}
_CHATS = ([_USER], [_SYSTEM, _USER])  # strict templates want a system message, or none


async def check_given_template(context: Context) -> None:
    """Check the template of the command line, before the model is loaded. Raises TemplateInvalid."""
    if text := given_template(context):
        await asyncio.to_thread(_check_text, context, text)


async def check_template(context: Context) -> None:
    """Check that the template in use renders a plain chat, after the model is loaded. Raises TemplateInvalid."""
    if not context.engine.info.causal:
        return
    await asyncio.to_thread(_check, context)


def _check(context: Context) -> None:
    template = chat_template(context)
    _check_text(context, template.source)
    failures: list[TemplateFailure | InvalidRequest] = []
    for messages in _CHATS:
        try:
            rendered = template.render(messages, generate=True, variables={})
        except (TemplateFailure, InvalidRequest) as error:
            failures.append(error)
            continue
        if _WORD not in rendered:
            _log.warning("%s leaves out the message of the user", _source(context))
        return
    message = failures[0].message
    if all(isinstance(error, TemplateRefusal) for error in failures):
        _log.warning("%s refuses a plain chat: %s", _source(context), message)  # it may need chat_template_kwargs
        return
    raise TemplateInvalid(f"{_source(context)} cannot render a chat of one user message: {message}")


def _check_text(context: Context, text: str) -> None:
    names = context.builtin.names
    if text in names:
        return
    if "{{" not in text and "{%" not in text:
        near = difflib.get_close_matches(text, names, 3)
        hint = f". Did you mean {' or '.join(near)}?" if near else ""
        if text.endswith(".jinja"):
            hint = ". Use --chat-template-file for a file"
        raise TemplateInvalid(
            f"{_source(context)} is neither Jinja nor the name of a built-in template: {text!r:.60}{hint}"
        )
    try:
        compile_template(text)
    except TemplateFailure as error:
        raise TemplateInvalid(f"{_source(context)} is not valid Jinja: {error.message}") from error


def _source(context: Context) -> str:
    config = context.config
    if config.chat_template:
        return "--chat-template"
    if context.template_file:
        return f"--chat-template-file {config.chat_template_file}"
    return "the chat template in the model's metadata (--chat-template names another)"
