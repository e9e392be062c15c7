"""Roles, tools and histories of a chat, with the template of the default model, which knows only plain messages."""

from typing import Any

import pytest

from tests.support.server.client import Client

pytestmark = pytest.mark.model

CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What time is it?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "12:34"}
FUNCTION = {"name": "clock", "description": "Tells the time", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def prompt(client: Client, *messages: dict[str, Any], **more: Any) -> str:
    """The prompt of a conversation, which must also be answered."""
    assert client.post(CHAT, messages=messages, max_tokens=2, **more)["usage"]["completion_tokens"] > 0
    return str(client.post("/apply-template", messages=messages, **more)["prompt"])


def test_a_developer_is_the_system(client: Client) -> None:
    developer = {"role": "developer", "content": "Be brief."}
    assert prompt(client, developer, USER) == prompt(client, SYSTEM, USER)


def test_a_history_with_tools(client: Client) -> None:
    text = prompt(client, USER, CALLED, RESULT)
    assert '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>' in text
    assert "<tool_response>\n12:34\n</tool_response>" in text


def test_tools_that_may_not_be_called_are_shown(client: Client) -> None:
    text = prompt(client, SYSTEM, USER, CALLED, RESULT, tools=TOOLS, tool_choice="none")
    assert "Be brief." in text
    assert "Tells the time" in text
    assert prompt(client, USER, functions=[FUNCTION], function_call="none") == prompt(
        client, USER, tools=TOOLS, tool_choice="none"
    )


def test_tools_that_may_be_called_are_shown(client: Client) -> None:
    assert "Tells the time" in client.post("/apply-template", messages=[USER], tools=TOOLS)["prompt"]
    for choice in ({}, {"tool_choice": "auto"}):
        client.post(CHAT, messages=[USER], tools=TOOLS, max_tokens=1, **choice)


def test_the_last_message_is_continued_or_not(client: Client) -> None:
    begun = {"role": "assistant", "content": "It is"}
    for fields in ({}, {"continue_final_message": True}, {"add_generation_prompt": False}):
        assert prompt(client, USER, begun, **fields).endswith("It is")
    for fields in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        assert prompt(client, USER, begun, **fields).endswith("<|im_start|>assistant\n")


def test_the_last_of_several_answers_is_continued(client: Client) -> None:
    answers = [{"role": "assistant", "content": text} for text in ("Yes.", "It is")]
    assert prompt(client, USER, *answers).endswith("It is")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"add_generation_prompt": True, "continue_final_message": True},
            "Cannot set both add_generation_prompt and continue_final_message to true.",
        ),
        ({"messages": [USER, CALLED]}, "Cannot continue an assistant message that contains tool calls."),
        ({"messages": [{"role": "user"}]}, "All non-assistant messages must contain 'content'"),
        ({"messages": [{"role": "assistant"}]}, "Assistant message must contain either 'content' or 'tool_calls'!"),
        (
            {"chat_template_kwargs": {"enable_thinking": "false"}},
            'invalid type for "enable_thinking" (expected boolean, got string)',
        ),
    ],
)
def test_errors_have_the_words_of_llama_server(client: Client, fields: dict[str, Any], words: str) -> None:
    error = client.error(CHAT, {"messages": [USER], **fields})
    assert (error["type"], error["message"]) == ("invalid_request_error", words)


def test_capabilities_are_shown(client: Client) -> None:
    shown = client.get("/props")["chat_template_caps"]
    assert (shown["supports_string_content"], shown["supports_system_role"], shown["supports_tools"]) == (
        True, True, False,
    )  # fmt: skip
    assert client.get("/v1/models")["data"][0]["chat_template_caps"] == shown
