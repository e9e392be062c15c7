"""Reads the messages of Anthropic's Messages API into the messages of a chat."""

import re
from collections.abc import Iterator
from typing import Any

from ..errors import InvalidRequest
from .capabilities import Message

_ROLES = ("user", "assistant", "system")
# Claude Code begins its system prompt with this line. Its values differ between requests and say nothing to a model.
# If they stayed, no prompt would share a prefix with another.
_BILLING = re.compile(r"\s*x-anthropic-billing-header:[^\n]*\n*")
_FAILED = {"type": "text", "text": "Error:"}  # before the result of a call that failed
_LEFT_OUT = ("redacted_thinking", "server_tool_use", "mcp_tool_use")  # only hosted models have and read them

Block = tuple[str, dict[str, Any]]  # with the name of its field
_Image = dict[str, Any]  # a part of a content of a chat


class Conversation:
    """The messages of a chat, made of those of a request.

    `names` has the fields of the request by those of the chat, for errors.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.names: dict[str, str] = {}

    def add_system(self, value: Any) -> None:
        """Add `system`: a text, or blocks of text. Raises InvalidRequest."""
        if value is not None and not self._say("system", _blocks(value, "system"), "system")["content"]:
            self.messages.clear()

    def add(self, item: Any, where: str) -> None:
        """Add a message. Raises InvalidRequest."""
        if not isinstance(item, dict):
            raise InvalidRequest(f"Field '{where}': must be an object", field=where)
        role = item.get("role")
        if role not in _ROLES:
            raise InvalidRequest(f"Field '{where}.role': must be user, assistant or system", field=f"{where}.role")
        blocks = _blocks(item.get("content"), f"{where}.content")
        if role == "assistant":
            self._answer(blocks, where)
            return
        rest = []
        for field, block in blocks:  # chats have each result as a message of its own, right after the calls
            if role == "user" and block["type"] == "tool_result":
                self._result(block, field)
            else:
                rest.append((field, block))
        if rest or not blocks:
            self._say(role, rest, where)

    def _message(self, role: str, where: str) -> tuple[Message, str]:
        """Begin a message. Returns its name in errors, too."""
        name = f"messages[{len(self.messages)}]"
        self.names[name] = where
        self.messages.append({"role": role, "content": ""})
        return self.messages[-1], name

    def _say(self, role: str, blocks: list[Block], where: str) -> Message:
        """Add a message of texts and images. Texts that follow each other become lines of one."""
        message, name = self._message(role, where)
        parts: list[list[str] | _Image] = []
        for field, block in blocks:
            for part in _parts(block, field):
                if not isinstance(part, str):
                    parts.append(part)
                elif parts and isinstance(parts[-1], list):
                    parts[-1].append(part)
                    continue
                else:
                    parts.append([_without_billing(part) if role == "system" else part])
                self.names[f"{name}.content[{len(parts) - 1}]"] = field
                self.names[f"{name}.content[{len(parts) - 1}].image_url"] = f"{field}.source"
        content = [{"type": "text", "text": _lines(part)} if isinstance(part, list) else part for part in parts]
        message["content"] = content[0]["text"] if len(content) == 1 and "text" in content[0] else content
        return message

    def _result(self, block: dict[str, Any], where: str) -> None:
        call_id = block.get("tool_use_id")
        if not isinstance(call_id, str):
            raise InvalidRequest(f"Field '{where}.tool_use_id': must be a string", field=f"{where}.tool_use_id")
        value = block.get("content")
        blocks = _blocks(value, f"{where}.content") if value is not None else []
        if block.get("is_error") is True:
            blocks = [(where, _FAILED), *blocks]
        self._say("tool", blocks, where)["tool_call_id"] = call_id

    def _answer(self, blocks: list[Block], where: str) -> None:
        message, name = self._message("assistant", where)
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for field, block in blocks:
            kind = block["type"]
            if kind == "text":
                texts.append(_text(block, "text", field))
            elif kind == "thinking":
                thoughts.append(_text(block, "thinking", field))
            elif kind == "tool_use":
                self.names[f"{name}.tool_calls[{len(calls)}].function"] = field
                self.names[f"{name}.tool_calls[{len(calls)}].function.arguments"] = f"{field}.input"
                calls.append(_call(block, field))
            elif kind not in _LEFT_OUT and not kind.endswith("_tool_result"):
                raise _unknown(field, kind)
        message["content"] = _lines(texts)
        if thoughts:
            message["reasoning_content"] = _lines(thoughts)
        if calls:
            message["tool_calls"] = calls


def _blocks(value: Any, where: str) -> list[Block]:
    """The blocks of a content. A string is one block of text."""
    if isinstance(value, str):
        return [(where, {"type": "text", "text": value})]
    if not isinstance(value, list):
        raise InvalidRequest(f"Field '{where}': must be a string or an array of blocks", field=where)
    blocks = [(f"{where}[{place}]", block) for place, block in enumerate(value)]
    for field, block in blocks:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise InvalidRequest(f"Field '{field}.type': must be a string", field=f"{field}.type")
    return blocks


def _lines(texts: list[str]) -> str:
    return "\n".join(filter(None, texts))


def _without_billing(text: str) -> str:
    found = _BILLING.match(text)
    return text[found.end() :] if found else text


def _parts(block: dict[str, Any], where: str) -> Iterator[str | _Image]:
    """The texts and images of a block."""
    kind = block["type"]
    if kind == "text":
        yield _text(block, "text", where)
    elif kind == "image":
        yield {"type": "image_url", "image_url": {"url": _image_url(block.get("source"), f"{where}.source")}}
    elif kind == "document":
        yield from _headings(block, "title", "context")
        yield from _document(block.get("source"), f"{where}.source")
    elif kind == "search_result":
        yield from _headings(block, "title", "source")
        yield from _inside(block.get("content"), f"{where}.content")
    elif kind == "tool_reference":
        yield _text(block, "tool_name", where)
    else:
        raise _unknown(where, kind)


def _headings(block: dict[str, Any], *names: str) -> Iterator[str]:
    for name in names:
        if (text := block.get(name)) and isinstance(text, str):
            yield text


def _inside(value: Any, where: str) -> Iterator[str | _Image]:
    for field, block in _blocks(value, where):
        if block["type"] not in ("text", "image"):
            raise _unknown(field, block["type"])
        yield from _parts(block, field)


def _document(source: Any, where: str) -> Iterator[str | _Image]:
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "text":
        yield _text(source, "data", where)
    elif kind == "content":
        yield from _inside(source.get("content"), f"{where}.content")
    else:
        raise InvalidRequest(f"Field '{where}.type': this server reads only documents of text", field=f"{where}.type")


def _image_url(source: Any, where: str) -> str:
    """The address of an image, as chats have it."""
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "base64":
        return f"data:{source.get('media_type', 'image/png')};base64,{_text(source, 'data', where)}"
    if kind == "url":
        return _text(source, "url", where)
    raise InvalidRequest(f"Field '{where}.type': must be base64 or url", field=f"{where}.type")


def _call(block: dict[str, Any], where: str) -> dict[str, Any]:
    arguments = block.get("input", {})
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"Field '{where}.input': must be an object", field=f"{where}.input")
    function = {"name": _text(block, "name", where), "arguments": arguments}
    return {"id": _text(block, "id", where), "type": "function", "function": function}


def _text(block: dict[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"Field '{where}.{name}': must be a string", field=f"{where}.{name}")
    return value


def _unknown(where: str, kind: str) -> InvalidRequest:
    return InvalidRequest(f"Field '{where}.type': {kind!r:.60} is not supported here", field=f"{where}.type")
