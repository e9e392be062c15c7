"""The options for thoughts and for the variables of chat templates. The names are llama-server's."""

import json
from typing import Any

from ...errors import ConfigError
from ...option_readers import choice, integer
from ..option import Option


def json_object(text: str) -> tuple[tuple[str, Any], ...]:
    """The names and values of a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError('must be a JSON object such as {"name": "value"}')
    if isinstance(value.get("enable_thinking"), str):
        raise ConfigError("enable_thinking must be true or false, not a string")
    return tuple(value.items())


def effort(text: str) -> str:
    """A level of effort, "" for the template's own."""
    return "" if text == "default" else text


CHAT: tuple[Option, ...] = (
    Option(
        "chat_template_kwargs",
        ("--chat-template-kwargs",),
        "Variables for the chat template, as a JSON object. A request can set others",
        json_object,
        value="JSON",
    ),
    Option(
        "reasoning",
        ("-rea", "--reasoning"),
        "Whether models think before they answer, if their chat template can switch that: on, off, or auto, "
        "which is the same as on. A request can set enable_thinking",
        choice("on", "off", "auto"),
        value="WHEN",
    ),
    Option(
        "reasoning_format",
        ("--reasoning-format",),
        "Where thoughts go: deepseek puts them into reasoning_content, deepseek-legacy also leaves them in the "
        "content, none leaves them in the content only. auto is deepseek. A request can set another",
        choice("auto", "none", "deepseek", "deepseek-legacy"),
        env=("LLAMA_ARG_THINK",),
        value="FORMAT",
    ),
    Option(
        "reasoning_effort",
        ("--reasoning-effort",),
        "Effort that the chat template asks for, such as low, medium or high. default is the template's own. "
        "A request can set another",
        effort,
        value="LEVEL",
        default="default",
    ),
    Option(
        "reasoning_budget",
        ("--reasoning-budget",),
        "Most tokens of thoughts in an answer (-1 = no limit, 0 = a thought ends at once). A request can set another",
        integer(-1),
        env=("LLAMA_ARG_THINK_BUDGET",),
    ),
    Option(
        "reasoning_budget_message",
        ("--reasoning-budget-message",),
        "Text at the end of a thought that has used up its budget",
        str,
        env=("LLAMA_ARG_THINK_BUDGET_MESSAGE",),
        value="TEXT",
    ),
    Option(
        "reasoning_preserve",
        ("--reasoning-preserve",),
        "Show the model its thoughts of all earlier answers, if its chat template can show them",
        off=("--no-reasoning-preserve",),
    ),
    Option(
        "skip_chat_parsing",
        ("--skip-chat-parsing",),
        "Return all text of an answer as content, with thoughts and calls of functions in it",
        off=("--no-skip-chat-parsing",),
    ),
    Option(
        "prefill_assistant",
        ("--prefill-assistant",),
        "Continue the last message of a chat if it is the assistant's. If off, a new answer follows it",
        off=("--no-prefill-assistant",),
    ),
)
