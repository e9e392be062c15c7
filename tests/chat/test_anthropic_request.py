"""Requests of Anthropic's Messages API become requests of OpenAI's chats."""

from typing import Any

import pytest
from llamaserver.api.anthropic_request import Asked, read_request
from llamaserver.api.fields import Fields
from llamaserver.errors import ContextExceeded, InvalidRequest

USER = {"role": "user", "content": "Hello"}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
TOOL = {"name": "weather", "description": "Of a city", "input_schema": {"type": "object"}}
BILLING = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch={};"


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def ask(*messages: Any, **fields: Any) -> Asked:
    return read_request(Fields({"messages": list(messages) or [USER], **fields}))


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    asked = ask(*messages, **fields).chat
    return {name: asked.get(name)[1] for name in asked}


def result(content: Any = "sunny", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c1", "content": content, **more}


CALL = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}
MESSAGES: dict[str, tuple[list[Any], list[Any]]] = {
    "text": ([USER], [USER]),
    "blocks": (
        [{"role": "user", "content": [text("a", cache_control={"type": "ephemeral"}), text("b")]}],
        [{"role": "user", "content": "a\nb"}],
    ),
    "nothing": ([{"role": "user", "content": []}], [{"role": "user", "content": []}]),
    "image": (
        [{"role": "user", "content": [text("a"), text("b"), PNG, text("c")]}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "a\nb"}, PNG_PART, {"type": "text", "text": "c"}],
            }
        ],
    ),
    "image of a URL": (
        [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a.b/c.png"}}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}]}],
    ),
    "documents": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "document", "title": "T", "source": {"type": "text", "data": "words"}},
                    {"type": "document", "source": {"type": "content", "content": [text("a"), PNG]}},
                    {"type": "search_result", "title": "S", "source": "https://a.b", "content": [text("found")]},
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "T\nwords\na"},
                    PNG_PART,
                    {"type": "text", "text": "S\nhttps://a.b\nfound"},
                ],
            }
        ],
    ),
    "system in the middle": (
        [USER, {"role": "system", "content": [text("Be brief.")]}, USER],
        [USER, {"role": "system", "content": "Be brief."}, USER],
    ),
    "thoughts, words and a call": (
        [
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "A call.", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    text("I look."),
                    CALL,
                    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
                ],
            },
            {"role": "user", "content": [text("Well?"), result()]},
        ],
        [
            {
                "role": "assistant",
                "content": "I look.",
                "reasoning_content": "A call.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
                ],
            },
            {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
            {"role": "user", "content": "Well?"},
        ],
    ),
    "results": (
        [
            {
                "role": "user",
                "content": [
                    result([text("a"), PNG]),
                    result("bad", is_error=True),
                    result([{"type": "tool_reference", "tool_name": "weather"}]),
                    {"type": "tool_result", "tool_use_id": "c1"},
                ],
            }
        ],
        [
            {"role": "tool", "content": [{"type": "text", "text": "a"}, PNG_PART], "tool_call_id": "c1"},
            {"role": "tool", "content": "Error:\nbad", "tool_call_id": "c1"},
            {"role": "tool", "content": "weather", "tool_call_id": "c1"},
            {"role": "tool", "content": [], "tool_call_id": "c1"},
        ],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    given, wanted = MESSAGES[name]
    assert chat(*given)["messages"] == wanted


@pytest.mark.parametrize(
    ("system", "content"),
    [
        ("Be brief.", "Be brief."),
        ([text("Be brief.", cache_control={"type": "ephemeral"}), text("Be kind.")], "Be brief.\nBe kind."),
        ([text(BILLING.format("fa690")), text("Be brief.")], "Be brief."),
        (f"{BILLING.format('0aaa9')}\n\nBe brief.", "Be brief."),
        ([text(BILLING.format("fa690"))], None),
        ("", None),
        ([], None),
    ],
)
def test_system(system: Any, content: str | None) -> None:
    """Claude Code's line for billing differs in each request. It would keep the prompt out of the cache."""
    first = [{"role": "system", "content": content}] if content else []
    assert chat(system=system)["messages"] == [*first, USER]


def test_tools() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    asked = chat(tools=[search, TOOL, {"type": "custom", "name": "other", "input_schema": {}, "strict": True}])
    assert asked["tools"] == [
        {
            "type": "function",
            "function": {"name": "weather", "description": "Of a city", "parameters": {"type": "object"}},
        },
        {"type": "function", "function": {"name": "other", "strict": True, "parameters": {}}},
    ]
    assert "tools" not in chat(tools=[search], tool_choice={"type": "auto"})
    assert "tool_choice" not in chat(tools=[search], tool_choice={"type": "auto"})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "weather"}, {"tool_choice": {"type": "function", "function": {"name": "weather"}}}),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
    ],
)
def test_tool_choice(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    asked = chat(tools=[TOOL], tool_choice=given)
    assert {name: asked[name] for name in ("tool_choice", "parallel_tool_calls") if name in asked} == wanted


@pytest.mark.parametrize(
    ("thinking", "budget", "thinks"),
    [
        (None, None, False),
        ({"type": "disabled"}, None, False),
        ({"type": "adaptive"}, None, True),
        ({"type": "enabled"}, 10_000, True),
        ({"type": "enabled", "budget_tokens": 2048}, 2048, True),
    ],
)
def test_thinking(thinking: Any, budget: int | None, thinks: bool) -> None:
    asked = chat(thinking=thinking)
    assert asked.get("reasoning_budget_tokens") == budget
    assert asked["enable_thinking"] is thinks


def test_fields_of_this_server_for_thinking_count() -> None:
    kwargs = {"enable_thinking": True}
    assert "enable_thinking" not in chat(chat_template_kwargs=kwargs)
    assert chat(enable_thinking=True)["enable_thinking"] is True


def test_other_fields() -> None:
    asked = chat(
        max_tokens=7,
        stop_sequences=["END"],
        temperature=0.5,
        top_k=3,
        top_p=0.5,
        seed=1,
        metadata={"user_id": "u"},
        context_management={"edits": []},
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    )
    assert asked == {
        "messages": [USER],
        "max_tokens": 7,
        "stop": ["END"],
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.5,
        "seed": 1,
        "enable_thinking": False,
        "reasoning_effort": "high",
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    }
    assert chat()["max_tokens"] == 4096


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "messages of no type": ({"messages": {}}, "messages"),
    "too many": ({"messages": [USER] * 4097}, "messages"),
    "message": ({"messages": ["x"]}, "messages[0]"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    "content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "block": ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0].type"),
    "type": ({"messages": [USER, {"role": "user", "content": [{"type": "odd"}]}]}, "messages[1].content[0].type"),
    "type of an answer": ({"messages": [{"role": "assistant", "content": [PNG]}]}, "messages[0].content[0].type"),
    "text": ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    "system": ({"system": 1}, "system"),
    "text of system": ({"system": [{"type": "text", "text": 1}]}, "system[0].text"),
    "source": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
        "messages[0].content[0].source.type",
    ),
    "PDF": (
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
        "messages[0].content[0].source.type",
    ),
    "input": (
        {"messages": [{"role": "assistant", "content": [CALL | {"input": "x"}]}]},
        "messages[0].content[0].input",
    ),
    "id of a result": (
        {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
        "messages[0].content[0].tool_use_id",
    ),
    "block of a result": (
        {"messages": [{"role": "user", "content": [result([{"type": "odd"}])]}]},
        "messages[0].content[0].content[0].type",
    ),
    "tool": ({"tools": [1]}, "tools[0]"),
    "name of a tool": ({"tools": [TOOL, {"input_schema": {}}]}, "tools[1].name"),
    "schema of a tool": ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    "choice": ({"tools": [TOOL], "tool_choice": {"type": ["any"]}}, "tool_choice.type"),
    "chosen tool": ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
    "choice without tools": ({"tool_choice": {"type": "any"}}, "tool_choice"),
    "parallel": (
        {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": 1}},
        "tool_choice.disable_parallel_tool_use",
    ),
    "thinking": ({"thinking": {"type": "often"}}, "thinking.type"),
    "budget": ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
    "format": ({"output_config": {"format": {"type": "text"}}}, "output_config.format"),
    "max_tokens": ({"max_tokens": "x"}, "max_tokens"),
    "stops": ({"stop_sequences": 3}, "stop_sequences"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_the_field(name: str) -> None:
    fields, field = WRONG[name]
    with pytest.raises(InvalidRequest) as caught:
        read_request(Fields({"messages": [USER], **fields}))
    assert caught.value.field == field
    assert f"Field '{field}" in caught.value.message


def test_later_errors_have_the_names_of_the_client() -> None:
    asked = ask(
        USER,
        {"role": "user", "content": [result([text("a"), PNG])]},
        {"role": "assistant", "content": [text("x"), CALL]},
        system="Be brief.",
        tools=[{"type": "web_search_20250305", "name": "web_search"}, TOOL],
    )
    for ours, theirs in {
        "messages[0]": "system",
        "messages[1].content": "messages[0].content",
        "messages[2].content[1].image_url": "messages[1].content[0].content[1].source",
        "messages[3].tool_calls[0].function.name": "messages[2].content[1].name",
        "messages[3].tool_calls[0].function.arguments": "messages[2].content[1].input",
        "tools[0].function.parameters.type": "tools[1].input_schema.type",
        "tools[0].function.name": "tools[1].name",
        "stop": "stop_sequences",
    }.items():
        error = asked.names.renamed(InvalidRequest(f"Field '{ours}': is wrong", field=ours))
        assert (error.field, error.message) == (theirs, f"Field '{theirs}': is wrong")
    long = asked.names.renamed(ContextExceeded("too long", field="prompt", n_prompt_tokens=9, n_ctx=8))
    assert long.extra == {"n_prompt_tokens": 9, "n_ctx": 8}
