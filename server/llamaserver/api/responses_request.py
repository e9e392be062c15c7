"""Translates a request of OpenAI's Responses API into one for chat completions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest
from .body import dumps
from .field_names import FieldNames
from .fields import Fields
from .kept_responses import Earlier
from .openai_logprobs import MAX_TOP_LOGPROBS, probabilities
from .responses_custom import as_function
from .responses_input import Input, offered_name
from .responses_items import Form

_REFUSED = {
    "conversation": "this server keeps no conversations. Send 'previous_response_id', or all as 'input'",
    "prompt": "this server keeps no prompts. Send 'instructions' and 'input'",
    "background": "is not supported by this server",
}
_OWN = (  # fields that are translated, and fields that mean something else, or nothing, in a chat
    *("input", "instructions", "tools", "tool_choice", "reasoning", "text", "max_output_tokens", "include", "store"),
    *("metadata", "truncation", "stream_options", "top_logprobs", "logprobs", "n", "messages", "functions"),
    *("previous_response_id", *_REFUSED),
)
_REPEATED: dict[str, Any] = {  # fields that a response repeats, and their values where a request has none
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_CALLED = ("function", "custom")  # types of tools that the client carries out
_MOST_GRAMMARS = 16  # of custom tools that are enforced
_FUNCTION = ("name", "description", "parameters", "strict")
_NAMES = {  # of fields in both APIs
    "messages": "input",
    "prompt": "input",
    "max_tokens": "max_output_tokens",
    "n_probs": "top_logprobs",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tool_choice.function": "tool_choice",
    "tool_choice.allowed_tools": "tool_choice",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in the form of a chat.

    `names` has the client's names of fields, `echo` what the response repeats. `previous` is the id of an earlier
    response. `kept` are the items of the request as JSON, "" if the response is not to be kept. `arguments` has Lark
    expressions of the arguments of custom tools.
    """

    chat: Fields
    names: FieldNames
    form: Form
    echo: bytes
    previous: str
    kept: bytes
    arguments: Mapping[str, str]


def read_request(fields: Fields, earlier: Earlier) -> Asked:
    """Translate a request. What only hosted models have is ignored. Raises InvalidRequest."""
    for name, why in _REFUSED.items():
        if fields.get(name)[1]:
            raise InvalidRequest(f"Field '{name}': {why}", field=name)
    previous = fields.string("previous_response_id")
    items = _items(fields, earlier)
    conversation = Input()
    if instructions := fields.string("instructions"):
        conversation.add("system", instructions, "instructions")
    conversation.read(earlier.conversation(previous), "previous_response_id")
    conversation.read(items, "input")
    stores = fields.boolean("store", default=True) and earlier.keeps
    tools = _Tools(fields)
    reasoning = _inside(fields, "reasoning")
    included = fields.strings("include")
    top = fields.integer("top_logprobs", default=0, low=0, high=MAX_TOP_LOGPROBS)
    logprobs = top if top or "message.output_text.logprobs" in included else None
    values = {
        **probabilities(logprobs),
        "messages": conversation.messages(),
        "continue_final_message": fields.boolean("continue_final_message", default=False),
        "tools": tools.functions or None,
        "tool_choice": tools.choice,
        "response_format": _response_format(fields),
        "reasoning_effort": reasoning.string("reasoning.effort") or fields.get("reasoning_effort")[1],
        "max_tokens": fields.get("max_output_tokens", "max_tokens")[1],
    }
    summary = reasoning.string("reasoning.summary", "reasoning.generate_summary", default="none") != "none"
    packs = "reasoning.encrypted_content" in included
    names = _NAMES | conversation.names | tools.names
    if "schema" in (values["response_format"] or {}).get("json_schema", {}):
        names["response_format"] = "text.format.schema"
    return Asked(
        fields.translated(values, without=_OWN),
        FieldNames(names),
        Form(summary=summary, packs=packs, logprobs=logprobs, spaces=tools.spaces, custom=tools.custom),
        dumps(_echo(fields) | {"store": stores}),
        previous,
        dumps(items) if stores else b"",
        tools.arguments,
    )


def _inside(fields: Fields, name: str) -> Fields:
    """The members of an object, by their whole names."""
    return Fields({f"{name}.{key}": value for key, value in (fields.object(name) or {}).items()})


def _echo(fields: Fields) -> dict[str, Any]:
    given = {name: value for name in _REPEATED if (value := fields.get(name)[1]) is not None}
    return {**_REPEATED, "service_tier": "default", **given}


def _items(fields: Fields, earlier: Earlier) -> list[Any]:
    """The items of `input`. What it refers to is put in its place."""
    _, value = fields.get("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise InvalidRequest("Field 'input': must be a string or an array of items", field="input")
    return [_whole(item, f"input[{place}]", earlier) for place, item in enumerate(value)]


def _whole(item: Any, where: str, earlier: Earlier) -> Any:
    if not isinstance(item, dict) or item.get("type") != "item_reference":
        return item
    return earlier.item(Fields({f"{where}.id": item.get("id")}).string(f"{where}.id"), f"{where}.id")


class _Tools:
    """The functions of a request, and its custom tools as functions. Others are left out: only hosted models have them.

    `arguments` has the Lark expressions of what custom tools with a grammar take, "" if that cannot be enforced.
    """

    def __init__(self, fields: Fields) -> None:
        self.functions: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}
        self.spaces: dict[str, tuple[str, str]] = {}
        self.custom: set[str] = set()
        self.arguments: dict[str, str] = {}
        for where, space, tool in _functions(fields.array("tools")):
            name = tool.get("name")
            if not isinstance(name, str) or not name:
                raise InvalidRequest(f"Field '{where}.name': must be a string", field=f"{where}.name")
            offered, called = offered_name(space, name), tool
            if tool.get("type") == "custom":
                called, arguments = as_function(tool, where)
                self.custom.add(offered)
                if arguments is not None:
                    self.arguments[offered] = arguments if len(self.arguments) < _MOST_GRAMMARS else ""
            function = {key: value for key, value in called.items() if key in _FUNCTION and value is not None}
            if space:
                function["name"] = offered
                self.spaces[offered] = (space, name)
            self.names[f"tools[{len(self.functions)}].function"] = where
            self.functions.append({"type": "function", "function": function})
        _, choice = fields.get("tool_choice")
        without = not self.functions and choice in ("auto", "none")
        self.choice = _choice(choice) if isinstance(choice, dict) else None if without else choice


def _functions(tools: list[Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each function with its field and its namespace."""
    for place, tool in enumerate(tools):
        where = f"tools[{place}]"
        if not isinstance(tool, dict):
            raise InvalidRequest(f"Field '{where}': must be an object", field=where)
        if tool.get("type") in _CALLED:
            yield where, "", tool
        elif tool.get("type") == "namespace":
            inside = Fields({f"{where}.{key}": value for key, value in tool.items()})
            space = inside.string(f"{where}.name")
            for number, one in enumerate(inside.array(f"{where}.tools")):
                if isinstance(one, dict) and one.get("type") in _CALLED:
                    yield f"{where}.tools[{number}]", space, one


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice of one function, or among some, as chat completions have it."""
    if choice.get("type") in _CALLED:
        return {"type": "function", "function": {"name": _chosen(choice)}}
    if choice.get("type") == "allowed_tools" and isinstance(tools := choice.get("tools"), list):
        allowed = [
            {"type": "function", "function": {"name": _chosen(tool)}}
            for tool in tools
            if isinstance(tool, dict) and tool.get("type") in _CALLED
        ]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": allowed}}
    raise InvalidRequest(
        "Field 'tool_choice.type': must be function, custom or allowed_tools. This server has no other tools",
        field="tool_choice.type",
    )


def _chosen(choice: dict[str, Any]) -> str:
    name = choice.get("name")
    if not isinstance(name, str):
        raise InvalidRequest("Field 'tool_choice.name': must be a string", field="tool_choice.name")
    return offered_name(choice.get("namespace"), name)


def _response_format(fields: Fields) -> dict[str, Any] | None:
    """`text.format` as `response_format`."""
    wanted = _inside(fields, "text").object("text.format")
    if wanted is None:
        return None
    kind = wanted.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise InvalidRequest(
            "Field 'text.format.type': must be text, json_object or json_schema", field="text.format.type"
        )
    if kind != "json_schema":
        return {"type": kind}
    if not isinstance(wanted.get("schema"), dict | bool):
        raise InvalidRequest("Field 'text.format.schema': must be a JSON schema", field="text.format.schema")
    return {"type": kind, "json_schema": {key: value for key, value in wanted.items() if key != "type"}}
