"""Draws requests of the three dialects of chats, with tools, thoughts, schemas and pictures."""

import base64
from random import Random
from typing import Any

from llamaserver.api.anthropic_request import MAX_MESSAGES as MAX_ANTHROPIC
from llamaserver.api.messages import MAX_IMAGES, MAX_MESSAGES, MAX_TOOLS
from llamaserver.api.openai import MAX_CHOICES
from llamaserver.api.responses_input import MAX_ITEMS

from .values import Body, long_text, options, schema, sizes, text

_PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(1000)).decode()
_URLS = (f"data:image/png;base64,{_PICTURE}", "http://127.0.0.1:1/x.png", "https://example.com/x.png", "file:///x")
_ROLES = ("user", "user", "assistant", "system", "tool")


def chat(rng: Random, leaves: bool) -> Body:
    """A request of OpenAI's chat completions."""
    choices = rng.choice((1, 1, 16, MAX_CHOICES))
    size, answer = sizes(rng, choices, leaves)
    body = {**options(rng, choices), **thoughts(rng), "n": choices, "max_tokens": answer, "stream": rng.random() < 0.4}
    if rng.random() < 0.3:
        body |= {"logprobs": True, "top_logprobs": 20}
    if rng.random() < 0.2:
        body |= {"response_format": {"type": "json_schema", "json_schema": {"schema": schema(rng)}}}
        body.pop("grammar", None)
        body.pop("json_schema", None)
    if rng.random() < 0.3:
        if rng.random() < 0.9:
            body.pop("grammar", None)
        body |= {"tools": [{"type": "function", "function": one} for one in _functions(rng, "parameters")]}
        names = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(len(body["tools"]))]
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": names}}
        body["tool_choice"] = rng.choice(("auto", "auto", "required", "none", *names[-1:], allowed))
        body["parallel_tool_calls"] = rng.random() < 0.5
    return {**body, "messages": _messages(rng, size)}


def thoughts(rng: Random) -> Body:
    """Fields for the thoughts of a model and the variables of its template."""
    most = {
        "reasoning_format": rng.choice(("auto", "none", "deepseek", "deepseek-legacy")),
        "reasoning_budget_tokens": rng.choice((-1, 0, 3, 2**31 - 1)),
        "reasoning_budget_message": "thought " * rng.choice((1, 512, 600)),
        "reasoning_effort": rng.choice(("none", "low", "high", "x" * 65)),
        "enable_thinking": rng.random() < 0.7,
        "chat_template_kwargs": {f"k{i}": "x" * 20 for i in range(rng.choice((1, 20_000)))},
    }
    return {name: value for name, value in most.items() if rng.random() < 0.15}


def responses(rng: Random, leaves: bool) -> Body:
    """A request of OpenAI's Responses API."""
    size, answer = sizes(rng, 1, leaves)
    count = rng.choice((1, 16, 1000, MAX_ITEMS, MAX_ITEMS + 1))
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": text(rng, size if count <= 16 else 1)}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]},
        {"type": "function_call", "call_id": "c", "name": "f0", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": rng.choice(("a", [{"type": "input_text"}]))},
        {"role": "user", "content": [{"type": "input_image", "image_url": rng.choice(_URLS)}]},
    ]
    chosen = items if rng.random() < 0.1 else items[: rng.choice((1, 1, 4))]
    body = {
        **options(rng, 1),
        "input": rng.choice((text(rng, size), (chosen * count)[:count])),
        "max_output_tokens": answer,
        "stream": rng.random() < 0.4,
        "store": rng.random() < 0.5,
    }
    if rng.random() < 0.3:
        body.pop("grammar", None)
        body["tools"] = [{"type": "function", **one} for one in _functions(rng, "parameters")]
        body["tool_choice"] = rng.choice(("auto", "required", {"type": "function", "name": "f0"}))
    if rng.random() < 0.2:
        body["text"] = {"format": {"type": "json_schema", "name": "x", "schema": schema(rng)}}
        body.pop("grammar", None)
        body.pop("json_schema", None)
    if rng.random() < 0.2:
        body["instructions"] = rng.choice(("a", long_text(rng)))
        body["metadata"] = {f"k{i}": "x" for i in range(rng.choice((16, 60_000)))}
    return body


def anthropic(rng: Random, leaves: bool) -> Body:
    """A request of Anthropic's Messages API."""
    size, answer = sizes(rng, 1, leaves)
    count = rng.choice((1, 1, 16, MAX_ANTHROPIC, MAX_ANTHROPIC + 1))
    size = size if count <= 16 else 1
    call = {"type": "tool_use", "id": "c", "name": "f0", "input": {f"a{i}": i for i in range(rng.choice((1, 9)))}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": text(rng, size)}]}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PICTURE}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": text(rng, size)}] * (1 if count > 1 else 1000)},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "a", "signature": ""}, call]},
        {"role": "user", "content": [result, *([picture] if rng.random() < 0.1 else [])]},
    ]
    body = {
        **options(rng, 1),
        "messages": (turns * count)[:count],
        "max_tokens": max(answer, 1) if rng.random() < 0.9 else answer,
        "stream": rng.random() < 0.4,
    }
    body["stop_sequences"] = body.pop("stop", [])
    if rng.random() < 0.3:
        body["system"] = [{"type": "text", "text": "a"}] * rng.choice((1, 20_000))
    if rng.random() < 0.3:
        body.pop("grammar", None)
        body["tools"] = _functions(rng, "input_schema")
        choice: Body = rng.choice(({"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "f0"}))
        body["tool_choice"] = {**choice, "disable_parallel_tool_use": rng.random() < 0.5}
    if rng.random() < 0.3:
        body["thinking"] = {"type": "enabled", "budget_tokens": rng.choice((0, 1024, 2**31 - 1))}
    return body


def count_tokens(rng: Random, leaves: bool) -> Body:
    """A request of Anthropic's API that generates nothing."""
    return {name: value for name, value in anthropic(rng, leaves).items() if name not in ("stream", "max_tokens")}


def template(rng: Random, leaves: bool) -> Body:
    """A request that renders messages only."""
    return {name: value for name, value in chat(rng, leaves).items() if name in ("messages", "tools", "tool_choice")}


def _messages(rng: Random, size: int) -> list[Body]:
    count = rng.choice((1, 1, 16, MAX_MESSAGES, MAX_MESSAGES + 1))
    content: Any = text(rng, size if count <= 16 else 1)
    kind = rng.random()
    if kind < 0.2:
        content = [{"type": "text", "text": "a"}] * (30_000 // count)
    elif kind < 0.3:
        content = [{"type": "image_url", "image_url": {"url": rng.choice(_URLS)}}] * rng.choice((1, MAX_IMAGES + 1))
    if rng.random() < 0.7:
        return [{"role": "user", "content": content}] * count
    messages: list[Body] = [{"role": _ROLES[i % len(_ROLES)], "content": content} for i in range(count)]
    arguments = rng.choice(("{}", {"a": 1}, '{"a": "' + "x" * 1000 + '"}', "[" * 900))
    calls = [{"id": "c", "type": "function", "function": {"name": "f0", "arguments": arguments}}]
    for message in messages:
        if message["role"] == "assistant":
            message |= {"tool_calls": calls * rng.choice((1, 1, 50)), "reasoning_content": text(rng, 1)}
    return messages


def _functions(rng: Random, schema_name: str) -> list[Body]:
    count = rng.choice((1, 1, 16, 128, MAX_TOOLS, MAX_TOOLS + 1))
    shared = schema(rng)
    schemas = [shared if rng.random() < 0.5 else {"properties": {f"p{i}": {"type": "integer"}}} for i in range(count)]
    if count > 16:
        schemas = [one if one is not shared else {"properties": {"a": {"enum": ["x"] * 30}}} for one in schemas]
    length = rng.choice((1, 64, 1 << 20)) // count
    return [
        {"name": f"f{i}", "description": "d" * length, schema_name: {"type": "object", **one}, "strict": i % 50 == 49}
        for i, one in enumerate(schemas)
    ]
