"""OpenAI's Responses requests as requests for a chat."""

from typing import Any

import orjson
import pytest
from llamaserver.api.fields import Fields
from llamaserver.api.kept_responses import Earlier, KeptResponses
from llamaserver.api.responses_input import packed
from llamaserver.api.responses_request import Asked, read_request
from llamaserver.errors import InvalidRequest

PATH = {"type": "object", "properties": {"path": {"type": "string"}}}


def read(**body: Any) -> Asked:
    return read_request(Fields(body), Earlier(KeptResponses(0), "", 0))


def messages(*items: Any, **body: Any) -> Any:
    return read(input=list(items), **body).chat.get("messages")[1]


def chat(**body: Any) -> dict[str, Any]:
    fields = read(**{"input": "Hello"} | body).chat
    return {name: fields.get(name)[1] for name in fields}


def text(value: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": value}]


def call(name: str, call_id: str, arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_text_is_the_users_message() -> None:
    assert chat(instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": text("Hello")},
    ]


def test_messages_of_each_role_and_kind_of_part() -> None:
    url = "data:image/png;base64,AAAA"
    assert messages(
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "See"}, {"type": "input_image", "image_url": url, "detail": "auto"},
        ]},
        {"type": "message", "role": "assistant", "id": "msg_1", "phase": "commentary", "content": [
            {"type": "output_text", "text": "No", "annotations": []}, {"type": "refusal", "refusal": "Never"},
        ]},
    ) == [
        {"role": "developer", "content": text("Be brief.")},
        {"role": "user", "content": [*text("See"), {"type": "image_url", "image_url": {"url": url}}]},
        {"role": "assistant", "content": [*text("No"), {"type": "refusal", "refusal": "Never"}]},
    ]  # fmt: skip


def test_what_a_model_did_in_a_turn_is_one_message() -> None:
    assert messages(
        {"role": "user", "content": "List both."},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Two calls."}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "list", "arguments": '{"path":"x"}'},
        {"type": "function_call", "id": "fc_2", "call_id": "b", "name": "list", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "one"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "two"}]},
        {"type": "message", "role": "assistant", "content": "Done."},
    ) == [
        {"role": "user", "content": text("List both.")},
        {
            "role": "assistant",
            "content": text("I look."),
            "reasoning_content": "Two calls.",
            "tool_calls": [call("list", "a", '{"path":"x"}'), call("list", "b", "{}")],
        },
        {"role": "tool", "content": text("one"), "tool_call_id": "a"},
        {"role": "tool", "content": text("two"), "tool_call_id": "b"},
        {"role": "assistant", "content": text("Done.")},
    ]


def test_text_after_a_call_stays_before_its_result() -> None:
    roles = [message["role"] for message in messages(
        {"type": "function_call", "call_id": "a", "name": "list", "arguments": "{}"},
        {"role": "assistant", "content": "I look."},
        {"type": "function_call_output", "call_id": "a", "output": "one"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Fine."}]},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "Two."},
    )]  # fmt: skip
    assert roles == ["assistant", "tool", "assistant", "assistant"]


@pytest.mark.parametrize(
    "item",
    [
        {"content": [{"type": "reasoning_text", "text": "Hm."}], "summary": [{"type": "summary_text", "text": "no"}]},
        {"summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": packed("no")},
        {"summary": [], "encrypted_content": packed("Hm.")},
    ],
)
def test_a_thought_is_read_from_its_text_its_summary_or_its_packed_form(item: dict[str, Any]) -> None:
    [message] = messages({"type": "reasoning", **item})
    assert message == {"role": "assistant", "content": [], "reasoning_content": "Hm."}


@pytest.mark.parametrize("sealed", ["gAAAAABn", packed("x")[:-2] + "!", "llamaserver1:/w==", None])
def test_a_thought_of_another_server_is_left_out(sealed: Any) -> None:
    assert messages({"type": "reasoning", "summary": [], "encrypted_content": sealed}) == []


def test_calls_of_a_clients_own_tools_are_shown_as_calls() -> None:
    patch = "*** Begin Patch"
    assert messages(
        {"type": "custom_tool_call", "call_id": "a", "name": "apply_patch", "input": patch, "status": "completed"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "Done!"},
        {
            "type": "local_shell_call",
            "call_id": "b",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"]},
        },
        {"type": "local_shell_call_output", "id": "b", "output": "file"},
        {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "file", "stderr": ""}]},
        {"type": "function_call", "call_id": "d", "namespace": "mcp__docs__", "name": "search", "arguments": "{}"},
    ) == [
        {"role": "assistant", "content": [], "tool_calls": [call("apply_patch", "a", {"input": patch})]},
        {"role": "tool", "content": text("Done!"), "tool_call_id": "a"},
        {
            "role": "assistant",
            "content": [],
            "tool_calls": [call("local_shell", "b", {"action": {"type": "exec", "command": ["ls"]}})],
        },
        {"role": "tool", "content": text("file"), "tool_call_id": "b"},
        {"role": "assistant", "content": [], "tool_calls": [call("shell", "c", {"action": {"commands": ["ls"]}})]},
        {"role": "tool", "content": text('[{"stdout":"file","stderr":""}]'), "tool_call_id": "c"},
        {"role": "assistant", "content": [], "tool_calls": [call("mcp__docs__search", "d", "{}")]},
    ]


def test_what_hosted_tools_did_is_left_out() -> None:
    assert messages(
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": ""},
        {"role": "user", "content": "Hello"},
    ) == [{"role": "user", "content": text("Hello")}]


def test_functions_of_namespaces_are_offered_and_other_tools_left_out() -> None:
    one = {"type": "function", "name": "shell", "description": "Run", "parameters": PATH, "strict": False}
    asked = read(
        input="Hello",
        tools=[
            {"type": "image_generation", "output_format": "png"},
            {"type": "web_search", "external_web_access": False},
            one,
            {"type": "namespace", "name": "mcp__docs__", "description": "", "tools": [{**one, "name": "search"}]},
            {"type": "local_shell"},
        ],
        tool_choice="auto",
        parallel_tool_calls=False,
    )
    functions = [tool["function"] for tool in asked.chat.get("tools")[1]]
    assert functions[0] == {"name": "shell", "description": "Run", "parameters": PATH, "strict": False}
    assert [function["name"] for function in functions] == ["shell", "mcp__docs__search"]
    assert asked.form.spaces == {"mcp__docs__search": ("mcp__docs__", "search")}
    assert asked.names.of("tools[0].function.parameters") == "tools[2].parameters"
    assert asked.names.of("tools[1].function.name") == "tools[3].tools[0].name"
    assert asked.chat.get("parallel_tool_calls")[1] is False


def test_custom_tools_are_functions_with_one_string() -> None:
    lark = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
    odd = {**lark, "definition": "%ignore X"}
    asked = read(
        input="Hello",
        tools=[
            {"type": "custom", "name": "shout", "description": "Say it"},
            {"type": "custom", "name": "patch", "format": lark},
            {"type": "custom", "name": "odd", "format": odd},
            {"type": "custom", "name": "code", "format": {"type": "grammar", "syntax": "regex", "definition": "a|b"}},
        ],
        tool_choice={"type": "custom", "name": "patch"},
    )
    functions = [tool["function"] for tool in asked.chat.get("tools")[1]]
    texts = [function["parameters"]["properties"]["input"] for function in functions]
    assert functions[0]["description"] == "Say it"
    assert texts[0] == {"type": "string"}
    assert 'start: "a"' in texts[1]["description"]
    assert texts[3]["pattern"] == "^(?:a|b)$"
    assert asked.form.custom == {"shout", "patch", "odd", "code"}
    assert [bool(text) for text in asked.arguments.values()] == [True, False]
    assert asked.chat.get("tool_choice")[1] == {"type": "function", "function": {"name": "patch"}}
    assert asked.echo.count(b'"type":"custom"') == 5


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", "required"),
        ({"type": "function", "name": "a"}, {"type": "function", "function": {"name": "a"}}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "a"}, {"type": "mcp"}],
            },
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "a"}}]},
            },
        ),
    ],
)
def test_tool_choice(choice: Any, expected: Any) -> None:
    assert chat(tools=[{"type": "function", "name": "a"}], tool_choice=choice)["tool_choice"] == expected


def test_fields_have_other_names_in_a_chat() -> None:
    schema = {"type": "object"}
    fields = chat(
        max_output_tokens=7,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "low"},
        temperature=0,
        top_k=3,
        store=True,
        include=[],
        metadata={"a": "b"},
        truncation="auto",
        prompt_cache_key="k",
        safety_identifier="s",
        service_tier="auto",
        top_logprobs=0,
        stream_options={"include_obfuscation": False},
        previous_response_id=None,
        background=False,
    )
    assert fields["max_tokens"] == 7
    assert fields["reasoning_effort"] == "low"
    assert fields["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": schema, "strict": True},
    }
    assert (fields["temperature"], fields["top_k"]) == (0, 3)
    assert not {"input", "text", "reasoning", "store", "top_logprobs", "stream_options", "metadata"} & fields.keys()


def test_a_response_repeats_the_request() -> None:
    tools = [{"type": "web_search"}]
    echo = orjson.loads(read(input="x", tools=tools, metadata={"a": "b"}, top_p=None, tool_choice="none").echo)
    assert echo["tools"] == tools
    assert echo["metadata"] == {"a": "b"}
    assert echo["tool_choice"] == "none"
    assert echo["parallel_tool_calls"] is True
    assert echo["instructions"] is None
    assert echo["store"] is False


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"content": "x"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"type": "item_reference", "id": 3}]}, "input[0].id"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "f", "arguments": "{}"}]}, "input[0].name"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"instructions": ["x"]}, "instructions"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"reasoning": "low"}, "reasoning"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": 3}]}, "tools[0].name"),
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"tools": [{"type": "custom", "name": "c", "format": 3}]}, "tools[0].format"),
        ({"tools": [{"type": "custom", "name": "c", "format": {"type": "x"}}]}, "tools[0].format.type"),
        ({"tools": [{"type": "custom", "name": "c", "format": {"type": "grammar"}}]}, "tools[0].format"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ],
)  # fmt: skip
def test_errors_name_the_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        chat(**body)
    assert raised.value.field == field
    assert f"Field '{field}'" in raised.value.message


def test_errors_of_the_chat_get_the_names_of_the_client() -> None:
    names = read(
        instructions="Be brief.",
        input=[
            {"type": "web_search_call", "id": "ws_1"},
            {"role": "user", "content": "x"},
            {"type": "reasoning", "summary": [{"text": "y"}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"},
        ],
    ).names
    assert names.of("messages") == "input"
    assert names.of("messages[0].content") == "instructions.content"
    assert names.of("messages[1].content[2].image_url") == "input[1].content[2].image_url"
    assert names.of("messages[2].tool_calls[0].function.arguments") == "input[3].arguments"
    assert names.of("max_tokens") == "max_output_tokens"
    assert names.of("response_format.json_schema.schema") == "text.format.schema"
    assert names.of("temperature") == "temperature"
    error = names.renamed(InvalidRequest("Field 'messages[1].content': no", field="messages[1]", n_ctx=3))
    assert (error.message, error.field, error.extra) == ("Field 'input[1].content': no", "input[1]", {"n_ctx": 3})
