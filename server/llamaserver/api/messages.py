"""Reads the messages and tools of a chat request into the form that `api/history.py` takes."""

import secrets
from typing import Any

from ..errors import InvalidRequest
from .body import parse
from .capabilities import Message, Tool
from .fields import Fields
from .json_size import check_size
from .prompt import decode_base64, is_data_url

MAX_MESSAGES = 4096
MAX_IMAGES = 64
MAX_TOOLS = 1024
_ROLES_MAX = 64
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # the names of one thing in requests and templates

Images = list[tuple[str, bytes]]  # (placeholder in the text, content)


def read_messages(fields: Fields, images: Images) -> list[Message]:
    """`messages` with contents as strings. Images go into `images`, and placeholders into the contents.

    Keys that nobody here knows are kept, because a template may ask for them. Raises InvalidRequest.
    """
    _, items = fields.get("messages")
    if not isinstance(items, list) or not items:
        raise InvalidRequest("Field 'messages': must be a non-empty array", field="messages")
    if len(items) > MAX_MESSAGES:
        raise InvalidRequest(f"Field 'messages': at most {MAX_MESSAGES} messages", field="messages")
    messages = [_message(item, f"messages[{i}]", images) for i, item in enumerate(items)]
    _parse_arguments(messages)
    return _linked(messages)


def read_tools(fields: Fields) -> list[Tool]:
    """`tools`, or `functions` of OpenAI's older API. What templates need and a request leaves out is filled in."""
    tools = [_tool(item, f"tools[{i}].function") for i, item in enumerate(_functions(fields))]
    tools += [_tool(item, f"functions[{i}]") for i, item in enumerate(fields.array("functions"))]
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"Field 'tools': at most {MAX_TOOLS} tools", field="tools")
    return tools


def _message(item: Any, where: str, images: Images) -> Message:
    if not isinstance(item, dict):
        raise InvalidRequest(f"Field '{where}': must be an object", field=where)
    role = item.get("role")
    if not isinstance(role, str) or not 0 < len(role) <= _ROLES_MAX:
        raise InvalidRequest(f"Field '{where}.role': must be a string", field=f"{where}.role")
    message = {key: value for key, value in item.items() if value is not None}
    calls = _calls(message, where)
    if calls and role != "assistant":
        raise InvalidRequest(f"Field '{where}.tool_calls': only an assistant has them", field=f"{where}.tool_calls")
    if "content" not in item and role != "assistant":
        raise InvalidRequest("All non-assistant messages must contain 'content'", field=f"{where}.content")
    if "content" not in item and not calls and "refusal" not in message:
        raise InvalidRequest(
            "Assistant message must contain either 'content' or 'tool_calls'!", field=f"{where}.content"
        )
    message |= {"role": "tool" if role == "function" else role, "content": _content(message, where, images)}
    if calls:
        message["tool_calls"] = calls
    thoughts = [thought for name in _THOUGHTS if (thought := message.pop(name, None)) and isinstance(thought, str)]
    return message | dict.fromkeys(_THOUGHTS, thoughts[0]) if thoughts else message


def _calls(message: Message, where: str) -> list[dict[str, Any]]:
    """Take the calls out of a message, and give them the form of OpenAI's API with an object of arguments."""
    calls = message.pop("tool_calls", [])
    if not isinstance(calls, list):
        raise InvalidRequest(f"Field '{where}.tool_calls': must be an array", field=f"{where}.tool_calls")
    if old := message.pop("function_call", None):
        calls = [*calls, {"type": "function", "function": old}]
    return [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"Field '{where}.function.name': must be a string", field=where)
    if call.get("type", "function") != "function":
        raise InvalidRequest(f"Unsupported tool call type: {call['type']!r:.60}", field=f"{where}.type")
    arguments = function.get("arguments") or {}
    if not isinstance(arguments, dict | str):
        raise _bad_arguments(f"{where}.function.arguments", "not an object")
    name = call.get("id")
    return {
        "id": name if isinstance(name, str) else "",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _parse_arguments(messages: list[Message]) -> None:
    """Parse the arguments of calls that are JSON texts. All texts of a request together have the bounds of one body."""
    texts = [
        (call["function"], f"messages[{i}].tool_calls[{j}].function.arguments")
        for i, message in enumerate(messages)
        for j, call in enumerate(message.get("tool_calls", ()))
        if isinstance(call["function"]["arguments"], str)
    ]
    try:
        check_size(b",".join(function["arguments"].encode() for function, _ in texts))
    except InvalidRequest as error:
        raise _bad_arguments("messages", error.message) from error
    for function, field in texts:
        try:
            function["arguments"] = parse(function["arguments"].encode())
        except InvalidRequest as error:
            raise _bad_arguments(field, error.message) from error


def _bad_arguments(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Failed to parse tool call arguments as JSON: {why}", field=field)


def _linked(messages: list[Message]) -> list[Message]:
    """Give each call an id, and each result the id and the name of its call. Without ids, their order decides."""
    names: dict[str, str] = {}
    waiting: dict[str, None] = {}  # calls without a result, in order
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["id"] = call["id"] or f"call_{len(names) + 1}"
            names[call["id"]] = call["function"]["name"]
            waiting[call["id"]] = None
        if message["role"] == "tool":
            one = message.get("tool_call_id")
            if not isinstance(one, str):
                one = next(iter(waiting), "")
            waiting.pop(one, None)
            message |= {"tool_call_id": one, "name": names.get(one) or message.get("name", "")}
    return messages


def _content(message: dict[str, Any], where: str, images: Images) -> str:
    value = message.get("content")
    if value is None:
        refusal = message.get("refusal")  # OpenAI's models put a refusal here; a template needs it as the content
        return refusal if isinstance(refusal, str) else ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_part(part, f"{where}.content[{i}]", images) for i, part in enumerate(value))
    raise InvalidRequest(f"Field '{where}.content': must be a string or an array of parts", field=f"{where}.content")


def _part(part: Any, where: str, images: Images) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return str(part[kind])
    if kind == "image_url":
        return _image(part, where, images)
    raise InvalidRequest(f"Field '{where}': must be a text, refusal or image_url part", field=where)


def _image(part: dict[str, Any], where: str, images: Images) -> str:
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str) or not is_data_url(url):
        message = f"Field '{where}.image_url': must be a data: URL. Others need --mmproj and --image-hosts"
        raise InvalidRequest(message, field=where)
    if len(images) >= MAX_IMAGES:
        raise InvalidRequest(f"Field 'messages': at most {MAX_IMAGES} images", field="messages")
    placeholder = f"<image-{secrets.token_hex(8)}>"
    images.append((placeholder, decode_base64(url, f"{where}.image_url")))
    return placeholder


def _functions(fields: Fields) -> list[Any]:
    return [item.get("function") if isinstance(item, dict) else item for item in fields.array("tools")]


def _tool(function: Any, where: str) -> Tool:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRequest(f"Field '{where}.name': must be a string", field=f"{where}.name")
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"Field '{where}.parameters': must be an object", field=f"{where}.parameters")
    if not isinstance(function.get("strict"), bool | None):
        raise InvalidRequest(f"Field '{where}.strict': must be true or false", field=f"{where}.strict")
    whole = {"type": "object", "properties": {}} | parameters
    about = function.get("description")
    filled = function | {"description": about if isinstance(about, str) else "", "parameters": whole}
    return {"type": "function", "function": filled}
