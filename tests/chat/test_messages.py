"""Messages and tools of a request: what is read, what is filled in, and what is refused with which words."""

from typing import Any

import pytest
from llamaserver.api.fields import Fields
from llamaserver.api.messages import read_messages, read_tools
from llamaserver.errors import InvalidRequest

USER = {"role": "user", "content": "Hi"}


def call(arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}, **more}


def read(*messages: Any) -> list[dict[str, Any]]:
    return read_messages(Fields({"messages": list(messages)}), [])


def test_arguments_become_an_object() -> None:
    calls = [call('{"a": [1]}'), call({"b": 2}), call(""), call(None)]
    (message,) = read({"role": "assistant", "tool_calls": calls})
    assert [each["function"]["arguments"] for each in message["tool_calls"]] == [{"a": [1]}, {"b": 2}, {}, {}]
    assert message["content"] == ""


def test_results_find_their_calls_by_id_or_by_order() -> None:
    first, second = call(id="x"), call()
    second["function"]["name"] = "g"
    results = ({"role": "tool", "content": "1"}, {"role": "tool", "tool_call_id": "x", "content": "2"})
    message, *named = read({"role": "assistant", "tool_calls": [first, second]}, results[1], results[0])
    ids = [each["id"] for each in message["tool_calls"]]
    assert [(result["tool_call_id"], result["name"]) for result in named] == [("x", "f"), (ids[1], "g")]
    assert len(set(ids)) == 2


def test_a_result_without_a_call() -> None:
    assert read(USER, {"role": "tool", "content": "1", "name": "f"})[1]["name"] == "f"
    assert read(USER, {"role": "tool", "content": "1", "tool_call_id": 5})[1]["tool_call_id"] == ""


def test_the_older_form_of_calls() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    message, result = read(old, {"role": "function", "name": "f", "content": "1"})
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}
    assert "function_call" not in message
    assert (result["role"], result["tool_call_id"]) == ("tool", message["tool_calls"][0]["id"])


def test_reasoning_has_all_of_its_names() -> None:
    names = ("reasoning_content", "reasoning", "thinking")
    for name in names:
        (message,) = read({"role": "assistant", "content": "a", name: "b"})
        assert [message[each] for each in names] == ["b"] * 3
    (message,) = read({"role": "assistant", "content": "a", "reasoning": {"not": "text"}, "thinking": None})
    assert message == {"role": "assistant", "content": "a"}


def test_other_keys_are_kept_for_the_template() -> None:
    assert read({**USER, "name": "Ann", "mood": {"good": True}})[0] == {**USER, "name": "Ann", "mood": {"good": True}}


@pytest.mark.parametrize(
    ("message", "param", "words"),
    [
        ({"role": "user"}, "content", "All non-assistant messages must contain 'content'"),
        ({"role": "tool", "tool_call_id": "x"}, "content", "All non-assistant messages must contain 'content'"),
        ({"role": "assistant"}, "content", "Assistant message must contain either 'content' or 'tool_calls'!"),
        (
            {"role": "assistant", "tool_calls": []},
            "content",
            "Assistant message must contain either 'content' or 'tool_calls'!",
        ),
        ({"role": "assistant", "tool_calls": 5}, "tool_calls", "must be an array"),
        ({"role": "assistant", "tool_calls": [5]}, "tool_calls[0]", "function.name': must be a string"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "tool_calls[0]", "function.name': must be a string"),
        (
            {"role": "assistant", "tool_calls": [call(type="x")]},
            "tool_calls[0].type",
            "Unsupported tool call type: 'x'",
        ),
        (
            {"role": "assistant", "tool_calls": [call('{"a": ')]},
            "tool_calls[0].function.arguments",
            "Failed to parse tool call arguments as JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [call("[1]")]},
            "tool_calls[0].function.arguments",
            "Failed to parse tool call arguments as JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [call("[" * 9999)]},
            "tool_calls[0].function.arguments",
            "Failed to parse",
        ),
        ({**USER, "tool_calls": [call()]}, "tool_calls", "only an assistant has them"),
    ],
)
def test_what_is_refused(message: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(USER, message)
    assert caught.value.field == f"messages[1].{param}"
    assert words in caught.value.message


def test_an_answer_may_be_null_or_a_refusal() -> None:
    assert read({"role": "assistant", "content": None})[0]["content"] == ""
    assert read({"role": "assistant", "refusal": "No."})[0]["content"] == "No."


def test_half_an_emoji_in_arguments() -> None:
    (message,) = read({"role": "assistant", "tool_calls": [call('{"a": "\\ud83d"}')]})
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": "\ufffd"}


def test_tools_are_completed() -> None:
    fields = Fields(
        {
            "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
            "functions": [{"name": "g", "description": "d", "parameters": {"type": "object", "properties": {"a": {}}}}],
        }
    )
    nothing = {"type": "object", "properties": {}}
    first, second = (tool["function"] for tool in read_tools(fields))
    assert first == {"name": "f", "strict": True, "description": "", "parameters": nothing}
    assert second["parameters"]["properties"] == {"a": {}}


@pytest.mark.parametrize("tool", [5, {}, {"function": {"name": ""}}, {"function": {"name": "f", "parameters": [1]}}])
def test_bad_tools(tool: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"Field 'tools\[0\]"):
        read_tools(Fields({"tools": [tool]}))
