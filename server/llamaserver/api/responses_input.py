"""Reads the `input` of OpenAI's Responses API into the messages of a chat."""

import base64
import binascii
from typing import Any

from ..errors import InvalidRequest
from .body import dumps
from .capabilities import Message

MAX_ITEMS = 16_384
_ROLES = ("user", "system", "developer", "assistant")
_TEXTS = ("input_text", "output_text", "text")
_NO_ARGUMENTS = frozenset({"type", "id", "call_id", "status", "name", "namespace", "caller", "execution"})
_PACKED = "llamaserver1:"  # what the `encrypted_content` of this server begins with


class Input:
    """The messages of a chat, made of items one after the other.

    What a model did in one turn is one message: its thoughts, words and calls. `names` has the fields of the items by
    those of the messages, for errors.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._messages: list[Message] = []  # their thoughts are lists of texts

    def messages(self) -> list[Message]:
        """All messages. Call it once, at the end."""
        for message in self._messages:
            if thoughts := message.get("reasoning_content"):
                message["reasoning_content"] = "\n".join(thoughts)
        return self._messages

    def add(self, role: str, content: Any, field: str) -> Message:
        """Begin a message."""
        self.names[f"messages[{len(self._messages)}]"] = field
        self._messages.append({"role": role, "content": content})
        return self._messages[-1]

    def read(self, items: list[Any], field: str) -> None:
        """Add the items of a field. Raises InvalidRequest."""
        if len(items) > MAX_ITEMS:
            raise InvalidRequest(f"Field '{field}': at most {MAX_ITEMS} items", field=field)
        for place, item in enumerate(items):
            self._item(item, f"{field}[{place}]")

    def _item(self, item: Any, where: str) -> None:
        if not isinstance(item, dict):
            raise InvalidRequest(f"Field '{where}': must be an object", field=where)
        kind = item.get("type") or ("message" if "role" in item else None)
        if not isinstance(kind, str):
            raise InvalidRequest(f"Field '{where}.type': must be a string", field=f"{where}.type")
        if kind == "message":
            self._message(item, where)
        elif kind == "reasoning":
            self._thought(_thought(item), where)
        elif kind.endswith("_output"):
            self._result(item, kind, where)
        elif kind.endswith("_call"):
            self._call(item, kind, where)
        elif not kind.startswith("mcp_"):  # these are about servers of tools, which are left out
            raise InvalidRequest(f"Field '{where}.type': {kind!r:.60} is not supported", field=f"{where}.type")

    def _message(self, item: dict[str, Any], where: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise InvalidRequest(f"Field '{where}.role': must be one of {', '.join(_ROLES)}", field=f"{where}.role")
        content = _content(item.get("content"), f"{where}.content")
        if role != "assistant":
            self.add(role, content, where)
            return
        turn = self._turn(where)
        if turn["content"] and "tool_calls" not in turn:
            turn = self.add("assistant", [], where)
        turn["content"] += content

    def _thought(self, text: str, where: str) -> None:
        if not text:
            return
        turn = self._turn(where)
        if turn["content"] or "tool_calls" in turn:
            turn = self.add("assistant", [], where)
        turn.setdefault("reasoning_content", []).append(text)

    def _call(self, item: dict[str, Any], kind: str, where: str) -> None:
        """A call that the client has carried out. What others have carried out is left out, as their tools are."""
        if not isinstance(call_id := item.get("call_id"), str):
            if kind in ("function_call", "custom_tool_call"):
                raise InvalidRequest(f"Field '{where}.call_id': must be a string", field=f"{where}.call_id")
            return
        name, arguments = item.get("name"), item.get("arguments")
        if kind == "function_call":
            if not isinstance(name, str):
                raise InvalidRequest(f"Field '{where}.name': must be a string", field=f"{where}.name")
            name = offered_name(item.get("namespace"), name)
        else:
            name = name if isinstance(name, str) else kind.removesuffix("_call")
            arguments = {key: value for key, value in item.items() if key not in _NO_ARGUMENTS}
        turn = self._turn(where)
        calls = turn.setdefault("tool_calls", [])
        self.names[f"messages[{len(self._messages) - 1}].tool_calls[{len(calls)}].function"] = where
        calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})

    def _result(self, item: dict[str, Any], kind: str, where: str) -> None:
        call_id, output = item.get("call_id") or item.get("id"), item.get("output")
        if not isinstance(call_id, str):
            if kind in ("function_call_output", "custom_tool_call_output"):
                raise InvalidRequest(f"Field '{where}.call_id': must be a string", field=f"{where}.call_id")
            return
        if not isinstance(output, str) and not _is_parts(output):
            output = dumps(output).decode()
        self.add("tool", _content(output, f"{where}.output"), where)["tool_call_id"] = call_id

    def _turn(self, where: str) -> Message:
        """The message of the model's turn that goes on, or a new one."""
        if self._messages and self._messages[-1]["role"] == "assistant":
            return self._messages[-1]
        return self.add("assistant", [], where)


def offered_name(space: Any, name: str) -> str:
    """The name of a function under which the model knows it. Functions in different namespaces can share a name."""
    return f"{space.rstrip('_')}__{name}" if isinstance(space, str) and space else name


def packed(thought: str) -> str:
    """A thought as `encrypted_content`. It is no secret, but clients pass it on as it is."""
    return _PACKED + base64.b64encode(thought.encode()).decode()


def _thought(item: dict[str, Any]) -> str:
    """The text of a reasoning item: whole, else its summary, else what this server has packed."""
    for part in ("content", "summary"):
        if text := "\n".join(_thought_texts(item.get(part))):
            return text
    sealed = item.get("encrypted_content")
    if not isinstance(sealed, str) or not sealed.startswith(_PACKED):
        return ""
    try:
        return base64.b64decode(sealed.removeprefix(_PACKED), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def _thought_texts(parts: Any) -> list[str]:
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return [text for text in texts if isinstance(text, str) and text]


def _is_parts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) and "type" in part for part in value)


def _content(value: Any, where: str) -> list[dict[str, Any]]:
    """Content as parts of a chat message."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}] if value else []
    if isinstance(value, list):
        return [_part(part, f"{where}[{place}]") for place, part in enumerate(value)]
    raise InvalidRequest(f"Field '{where}': must be a string or an array of parts", field=where)


def _part(part: Any, where: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXTS and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "refusal", "refusal": part["refusal"]}
    if kind == "input_image":
        return _image(part, where)
    raise InvalidRequest(
        f"Field '{where}': must be an input_text, output_text, refusal or input_image part", field=where
    )


def _image(part: dict[str, Any], where: str) -> dict[str, Any]:
    url = part.get("image_url")
    if not isinstance(url, str):
        field = f"{where}.image_url"
        raise InvalidRequest(f"Field '{field}': must be a string. The server keeps no files", field=field)
    return {"type": "image_url", "image_url": {"url": url}}
