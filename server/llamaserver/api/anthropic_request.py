"""Translates a request of Anthropic's Messages API into that of OpenAI's chats."""

from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest
from .anthropic_messages import Conversation
from .field_names import FieldNames
from .fields import Fields

MAX_MESSAGES = 4096
_MAX_TOKENS = 4096  # of an answer, if the request names no limit
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = ("low", "medium", "high")
_OWN = frozenset(  # fields that are translated, and fields that only hosted models have
    (
        "system",
        "thinking",
        "output_config",
        "output_format",
        "stop_sequences",
        "metadata",
        "mcp_servers",
        "container",
        "context_management",
        "service_tier",
        "functions",
        "function_call",
        "n",
    )
)
_NAMES = {
    "stop": "stop_sequences",
    "reasoning_effort": "output_config.effort",
    "reasoning_budget_tokens": "thinking.budget_tokens",
    "response_format": "output_config.format.schema",
    "response_format.json_schema.schema": "output_config.format.schema",
    "prompt": "messages",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a chat, the client's names of its fields, and the stop strings that the client gave."""

    chat: Fields
    names: FieldNames
    stops: tuple[str, ...]


def read_request(fields: Fields) -> Asked:
    """Translate a request. What only hosted models have is ignored. Raises InvalidRequest."""
    conversation = _conversation(fields)
    tools, names = _tools(fields)
    stops = fields.strings("stop_sequences")
    values = {
        "messages": conversation.messages,
        "tools": tools or None,
        **_tool_choice(fields, tools),
        "stop": list(stops) or None,
        "max_tokens": fields.integer("max_tokens", default=_MAX_TOKENS),
        "reasoning_format": "auto",  # thoughts have blocks of their own
        **_thinking(fields),
        **_output(fields),
    }
    return Asked(
        fields.translated(values, without=_OWN),
        FieldNames(_NAMES | conversation.names | names),
        stops,
    )


def _conversation(fields: Fields) -> Conversation:
    conversation = Conversation()
    conversation.add_system(fields.get("system")[1])
    items = fields.array("messages")
    if not items:
        raise InvalidRequest("Field 'messages': must be a non-empty array", field="messages")
    if len(items) > MAX_MESSAGES:
        raise InvalidRequest(f"Field 'messages': at most {MAX_MESSAGES} messages", field="messages")
    for place, item in enumerate(items):
        conversation.add(item, f"messages[{place}]")
    return conversation


def _tools(fields: Fields) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The tools that the client carries out, and the names of their fields. Tools of hosted models are left out."""
    tools: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for place, tool in enumerate(fields.array("tools")):
        where = f"tools[{place}]"
        if not isinstance(tool, dict):
            raise InvalidRequest(f"Field '{where}': must be an object", field=where)
        if tool.get("type") not in (None, "custom") and "input_schema" not in tool:
            continue
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise InvalidRequest(f"Field '{where}.name': must be a string", field=f"{where}.name")
        if not isinstance(tool.get("input_schema"), dict):
            raise InvalidRequest(f"Field '{where}.input_schema': must be an object", field=f"{where}.input_schema")
        function = {key: tool[key] for key in ("name", "description", "strict") if tool.get(key) is not None}
        for own in (f"tools[{len(tools)}]", f"tools[{len(tools)}].function"):
            names[own] = where
        names[f"tools[{len(tools)}].function.parameters"] = f"{where}.input_schema"
        tools.append({"type": "function", "function": function | {"parameters": tool["input_schema"]}})
    return tools, names


def _tool_choice(fields: Fields, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """`tool_choice` and `parallel_tool_calls` of a chat."""
    choice = fields.object("tool_choice")
    if choice is None:
        return {"tool_choice": None}
    kind = choice.get("type")
    inside = Fields({f"tool_choice.{name}": value for name, value in choice.items()})
    one = inside.boolean("tool_choice.disable_parallel_tool_use", default=False)
    values: dict[str, Any] = {"parallel_tool_calls": False if one else None}
    if kind == "tool":
        name = choice.get("name")
        if not any(tool["function"]["name"] == name for tool in tools):
            raise InvalidRequest(f"Field 'tool_choice.name': {name!r:.60} is not in tools", field="tool_choice.name")
        return values | {"tool_choice": {"type": "function", "function": {"name": name}}}
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise InvalidRequest("Field 'tool_choice.type': must be auto, any, tool or none", field="tool_choice.type")
    if kind == "any" and not tools:
        raise InvalidRequest("Field 'tool_choice': there are no tools to choose from", field="tool_choice")
    return values | {"tool_choice": _CHOICES[kind] if tools else None}


def _thinking(fields: Fields) -> dict[str, Any]:
    """Whether and how long the model thinks. As at Anthropic, it does not unless the request asks for it."""
    wanted = fields.object("thinking")
    if wanted is None:
        given = {"enable_thinking": fields.get("enable_thinking")[1], **(fields.object("chat_template_kwargs") or {})}
        return {} if given["enable_thinking"] is not None else {"enable_thinking": False}
    kind = wanted.get("type")
    if kind not in ("enabled", "adaptive", "disabled"):
        raise InvalidRequest("Field 'thinking.type': must be enabled, adaptive or disabled", field="thinking.type")
    values: dict[str, Any] = {"enable_thinking": kind != "disabled"}
    if kind == "enabled":
        inside = Fields({"thinking.budget_tokens": wanted.get("budget_tokens")})
        values["reasoning_budget_tokens"] = inside.integer("thinking.budget_tokens", default=10_000, low=0)
    return values


def _output(fields: Fields) -> dict[str, Any]:
    """The effort and the format of the answer."""
    config = fields.object("output_config") or {}
    values: dict[str, Any] = {}
    if (effort := config.get("effort")) is not None:
        values["reasoning_effort"] = effort if effort in _EFFORTS else _EFFORTS[-1]
    wanted = config.get("format") or fields.get("output_format")[1]
    if wanted is not None:
        if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
            raise InvalidRequest("Field 'output_config.format.type': must be json_schema", field="output_config.format")
        values["response_format"] = {"type": "json_schema", "json_schema": {"schema": wanted.get("schema")}}
    return values
