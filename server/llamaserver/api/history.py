"""Rewrites a conversation so that a template renders it with nothing lost.

Each function changes one thing that a template cannot render into another that it can. A template that can render
everything gets the conversation as it is.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from .capabilities import Capabilities, Message, Tool, as_parts
from .tool_text import call_text, result_text, tools_text

_BETWEEN = "\n\n"
_SYSTEM = ("system", "developer")
_FILLER = {"user": "", "assistant": " "}  # Ministral refuses an empty answer
_SHORT_ID = re.compile("[A-Za-z0-9]{9}")


def fitted(messages: Sequence[Message], tools: Sequence[Tool], can: Capabilities) -> list[Message]:
    """The conversation in the form that a template of these capabilities needs. Contents must be strings.

    Assistants may have `tool_calls` whose arguments are objects. Each call has an id, and each result the id and name
    of its call. If the template cannot show `tools`, they are told in the system message.
    """
    if tools and not can.tools:
        messages = [{"role": "system", "content": tools_text(tools)}, *messages]
    native = can.tool_calls if tools and can.tools else can.bare_tool_calls
    messages = _with_calls(messages, can) if native else [_calls_as_text(message) for message in messages]
    messages = _with_roles(messages, can)
    if can.thinking_parts:
        messages = [_thought_as_part(message) for message in messages]
    elif not can.string_content:
        messages = [message | {"content": as_parts(message["content"])} for message in messages]
    return messages


def _with_calls(messages: Iterable[Message], can: Capabilities) -> list[Message]:
    if not can.text_with_calls:
        messages = _text_before_calls(messages)
    if not can.parallel_tool_calls:
        messages = _one_call_each(list(messages))
    if not can.any_id:
        messages = _short_ids(messages)
    if not can.object_arguments:
        messages = map(_json_arguments, messages)
    return list(messages)


def _with_roles(messages: Iterable[Message], can: Capabilities) -> list[Message]:
    messages = [
        message | {"role": "system"} if message["role"] == "developer" and (place or not can.developer) else message
        for place, message in enumerate(messages)
    ]
    if not can.later_system:
        messages = list(_systems_first(messages))
    if not can.system:
        messages = list(_no_systems(messages))
    if not can.any_order:
        messages = list(_alternating(messages))
    return messages


def _systems_first(messages: Sequence[Message]) -> Iterator[Message]:
    """One system message at the beginning. Later ones become a part of the user's next message."""
    count = next((i for i, message in enumerate(messages) if message["role"] not in _SYSTEM), len(messages))
    if count:
        yield messages[0] | {"content": _joined(messages[:count])}
    yield from _no_systems(messages[count:])


def _no_systems(messages: Sequence[Message]) -> Iterator[Message]:
    """Each system message becomes a part of the user's message that follows it, or a message of the user."""
    waiting: list[Message] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message | {"role": "user"})
        elif waiting and message["role"] == "user":
            yield message | {"content": _joined([*waiting, message])}
            waiting = []
        else:
            yield from _merged(waiting)
            yield message
            waiting = []
    yield from _merged(waiting)


def _alternating(messages: Iterable[Message]) -> Iterator[Message]:
    """Users and assistants take turns, and a user begins. Calls and results do not count.

    Neighbours of one role are joined, and answers without text and reasoning left out. Elsewhere, an empty message
    fills the gap.
    """
    held: list[Message] = []
    last = "assistant"
    for message in messages:
        role = message["role"]
        if role not in _FILLER or "tool_calls" in message:
            yield from _merged(held)
            yield message
            held = []
        elif held and role == last:
            held.append(message)
        elif message["content"] or message.get("reasoning_content") or role == "user":
            yield from _merged(held)
            if role == last:
                other = "assistant" if role == "user" else "user"
                yield {"role": other, "content": _FILLER[other]}
            held, last = [message], role
    yield from _merged(held)


def _calls_as_text(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": result_text(message)}
    if "tool_calls" not in message:
        return message
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    texts = [message["content"], *(call_text(call) for call in message["tool_calls"])]
    return rest | {"content": "\n".join(text for text in texts if text)}


def _text_before_calls(messages: Iterable[Message]) -> Iterator[Message]:
    """An answer's text as a message of its own, before the one with its calls."""
    for message in messages:
        if "tool_calls" in message and message["content"]:
            yield {"role": message["role"], "content": message["content"]}
            yield message | {"content": ""}
        else:
            yield message


def _one_call_each(messages: Sequence[Message]) -> Iterator[Message]:
    """Calls that were made together, one after the other, each with its results."""
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            yield message
            continue
        results: dict[str, list[Message]] = {}
        while place < len(messages) and messages[place]["role"] == "tool":
            results.setdefault(messages[place]["tool_call_id"], []).append(messages[place])
            place += 1
        for call in calls:
            yield message | {"tool_calls": [call]}
            yield from results.pop(call["id"], ())
            message = {"role": message["role"], "content": ""}
        yield from chain.from_iterable(results.values())


def _short_ids(messages: Iterable[Message]) -> Iterator[Message]:
    """Ids of nine letters or digits, as Mistral's templates demand. Others are replaced by numbers."""
    known: dict[str, str] = {}

    def short(name: str) -> str:
        return known.setdefault(name, name if _SHORT_ID.fullmatch(name) else f"{len(known) + 1:09}")

    for message in messages:
        if "tool_calls" in message:
            yield message | {"tool_calls": [call | {"id": short(call["id"])} for call in message["tool_calls"]]}
        elif message["role"] == "tool":
            yield message | {"tool_call_id": short(message["tool_call_id"])}
        else:
            yield message


def _json_arguments(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append(call | {"function": call["function"] | {"arguments": arguments}})
    return message | {"tool_calls": calls}


def _thought_as_part(message: Message) -> Message:
    """Mistral's templates take reasoning as a part of the content."""
    thought = message.get("reasoning_content")
    if message["role"] != "assistant" or not thought:
        return message
    return message | {"content": [{"type": "thinking", "thinking": thought}, *as_parts(message["content"])]}


def _merged(messages: Sequence[Message]) -> Iterator[Message]:
    if not messages:
        return
    merged = messages[0] | {"content": _joined(messages) or _FILLER.get(messages[0]["role"], "")}
    thoughts = [message["reasoning_content"] for message in messages if message.get("reasoning_content")]
    yield merged | ({"reasoning_content": _BETWEEN.join(thoughts)} if thoughts else {})


def _joined(messages: Iterable[Message]) -> str:
    return _BETWEEN.join(message["content"] for message in messages if message["content"])
