"""A conversation is rewritten only where the template cannot render it, and then nothing is lost."""

from dataclasses import replace
from typing import Any

import pytest
from llamaserver.api.capabilities import Capabilities
from llamaserver.api.history import fitted

EVERYTHING = Capabilities(
    developer=True,
    tools=True,
    tool_calls=True,
    bare_tool_calls=True,
    parallel_tool_calls=True,
    object_arguments=True,
    text_with_calls=True,
    any_id=True,
)
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}


def said(*pairs: str) -> list[dict[str, Any]]:
    """Messages from texts such as `user: Hi`."""
    return [dict(zip(("role", "content"), pair.split(": ", 1), strict=True)) for pair in pairs]


def heard(messages: list[dict[str, Any]]) -> list[str]:
    return [f"{message['role']}: {message['content']}" for message in messages]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "f", "arguments": arguments}}


def asked(*names: str, content: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [call(name, a=1) for name in names]}


def result(name: str) -> dict[str, Any]:
    return {"role": "tool", "content": f"result {name}", "tool_call_id": name, "name": "f"}


LONG = [
    *said("developer: a", "system: b", "user: c", "assistant: d", "user: e"),
    asked("x", "y", content="f"),
    result("x"),
    result("y"),
    *said("system: g", "user: h", "user: i"),
]


def test_a_template_that_can_do_everything_gets_what_was_said() -> None:
    assert fitted(LONG, [TOOL], EVERYTHING) == LONG
    assert fitted(LONG, [], EVERYTHING) == LONG


def test_the_request_is_left_as_it_is() -> None:
    before = repr(LONG)
    fitted(LONG, [TOOL], Capabilities(string_content=False, system=False, later_system=False, any_order=False))
    assert repr(LONG) == before


@pytest.mark.parametrize(
    ("lacks", "messages", "expected"),
    [
        ("developer", ["developer: a", "user: b"], ["system: a", "user: b"]),
        ("later_system", ["system: a", "system: b", "user: c"], ["system: a\n\nb", "user: c"]),
        ("later_system", ["system: a", "developer: b", "user: c"], ["system: a\n\nb", "user: c"]),
        ("later_system", ["user: a", "system: b", "user: c"], ["user: a", "user: b\n\nc"]),
        ("later_system", ["user: a", "system: b", "assistant: c"], ["user: a", "user: b", "assistant: c"]),
        ("later_system", ["user: a", "system: b"], ["user: a", "user: b"]),
        ("system", ["system: a", "user: b"], ["user: a\n\nb"]),
        ("system", ["system: a"], ["user: a"]),
        ("any_order", ["user: a", "user: b", "assistant: c"], ["user: a\n\nb", "assistant: c"]),
        ("any_order", ["assistant: a", "assistant: b"], ["user: ", "assistant: a\n\nb"]),
        ("any_order", ["user: a", "assistant: ", "user: b"], ["user: a\n\nb"]),
        ("any_order", ["user: a", "assistant: b"], ["user: a", "assistant: b"]),
    ],
)
def test_roles(lacks: str, messages: list[str], expected: list[str]) -> None:
    can = replace(EVERYTHING, **{lacks: False})
    assert heard(fitted(said(*messages), [], can)) == expected


def test_reasoning_without_text_is_kept_and_joined() -> None:
    thought = {"role": "assistant", "content": "", "reasoning_content": "why"}
    answer = {"role": "assistant", "content": "b", "reasoning_content": "how"}
    can = replace(EVERYTHING, any_order=False)
    messages = fitted([*said("user: a"), thought, answer, *said("user: c"), thought, *said("user: d")], [], can)
    assert heard(messages) == ["user: a", "assistant: b", "user: c", "assistant:  ", "user: d"]
    assert [message.get("reasoning_content") for message in messages] == [None, "why\n\nhow", None, "why", None]


def test_only_a_developer_at_the_beginning_stays_one() -> None:
    messages = fitted(said("developer: a", "developer: b", "user: c"), [], EVERYTHING)
    assert heard(messages) == ["developer: a", "system: b", "user: c"]


def test_calls_do_not_count_as_turns() -> None:
    can = replace(EVERYTHING, any_order=False)
    messages = fitted([*said("user: a"), asked("x"), result("x"), *said("user: b")], [], can)
    assert heard(messages) == ["user: a", "assistant: ", "tool: result x", "assistant:  ", "user: b"]


def test_calls_as_text() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    messages = fitted([asked("x", "y", content="b"), result("x")], [], Capabilities())
    assert heard(messages) == [
        f"assistant: b\n{text}\n{text}",
        "user: <tool_response>\nresult x\n</tool_response>",
    ]


def test_tools_as_text() -> None:
    first, second = fitted(said("user: a"), [TOOL], Capabilities())
    assert first["role"] == "system"
    assert '"name": "f"' in first["content"]
    assert second["content"] == "a"
    (only,) = fitted(said("system: b", "user: a"), [TOOL], Capabilities(system=False, later_system=False))
    assert only["content"].endswith("\n\nb\n\na")


def test_calls_one_after_the_other() -> None:
    can = replace(EVERYTHING, parallel_tool_calls=False)
    messages = fitted([asked("x", "y", content="b"), result("y"), result("x"), result("z")], [], can)
    assert heard(messages) == ["assistant: b", "tool: result x", "assistant: ", "tool: result y", "tool: result z"]
    assert [len(message.get("tool_calls", ())) for message in messages] == [1, 0, 1, 0, 0]


def test_text_before_calls() -> None:
    messages = fitted([asked("x", content="b")], [], replace(EVERYTHING, text_with_calls=False))
    assert heard(messages) == ["assistant: b", "assistant: "]
    assert "tool_calls" not in messages[0]


def test_arguments_as_json() -> None:
    (message,) = fitted([asked("x")], [], replace(EVERYTHING, object_arguments=False))
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


def test_short_ids() -> None:
    can = replace(EVERYTHING, any_id=False)
    called, first, second = fitted([asked("AbCdEf123", "call_1"), result("call_1"), result("AbCdEf123")], [], can)
    assert [each["id"] for each in called["tool_calls"]] == ["AbCdEf123", "000000002"]
    assert (first["tool_call_id"], second["tool_call_id"]) == ("000000002", "AbCdEf123")


def test_parts() -> None:
    messages = fitted(said("user: a"), [], replace(EVERYTHING, string_content=False))
    assert messages[0]["content"] == [{"type": "text", "text": "a"}]


def test_many_calls_take_time_in_proportion() -> None:
    """Counted by what comes out: work for each pair of call and result would not end here."""
    names = [str(number) for number in range(4000)]
    can = replace(EVERYTHING, parallel_tool_calls=False, any_id=False, any_order=False)
    messages = fitted([asked(*names), *map(result, reversed(names))], [], can)
    assert len(messages) == 8000
