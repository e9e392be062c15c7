"""Tools in chats, through OpenAI's own client. The grammar makes a small model able to call them."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.server.client import Client

pytestmark = pytest.mark.model
CHAT = "/v1/chat/completions"
MESSAGES: Any = [{"role": "user", "content": "What is the weather in Rome for two days?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
CLOCK = {"name": "clock", "description": "Tells the time"}
TOOLS: Any = [{"type": "function", "function": function} for function in (WEATHER, CLOCK)]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
FIXED = {"temperature": 0, "max_tokens": 80}


@pytest.fixture
def api(client: Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{client.url}/v1", api_key="x", max_retries=0)


def is_weather(call: Any) -> bool:
    arguments = json.loads(call.function.arguments)
    return call.function.name == "get_weather" and arguments["city"] in ("Rome", "Oslo") and 1 <= arguments["days"] <= 9


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_must_be_made(api: openai.OpenAI, choice: Any) -> None:
    answer = api.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS, tool_choice=choice, **FIXED)
    (choice_,) = answer.choices
    assert (choice_.finish_reason, choice_.message.content) == ("tool_calls", None)
    (call,) = choice_.message.tool_calls or ()
    assert call.type == "function"
    assert (len(call.id), call.id[:5]) == (29, "call_")
    assert is_weather(call) if choice == NAMED else call.function.name in ("get_weather", "clock")


def test_a_stream_of_a_call(api: openai.OpenAI) -> None:
    with api.chat.completions.stream(
        model="m", messages=MESSAGES, tools=TOOLS, tool_choice=NAMED, stream_options={"include_usage": True}, **FIXED
    ) as stream:
        events = list(stream)
        last = stream.get_final_completion()
    (call,) = last.choices[0].message.tool_calls or ()
    assert is_weather(call)
    assert last.choices[0].finish_reason == "tool_calls"
    assert last.usage
    whole = api.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS, tool_choice=NAMED, **FIXED)
    (same,) = whole.choices[0].message.tool_calls or ()
    assert json.loads(same.function.arguments) == json.loads(call.function.arguments)
    assert sum(event.type == "tool_calls.function.arguments.delta" for event in events) > 3


def test_a_second_turn_with_the_result(api: openai.OpenAI) -> None:
    asked = api.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS, tool_choice=NAMED, **FIXED)
    message = asked.choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"sun": true}'}
    answer = api.chat.completions.create(
        model="m", messages=[*MESSAGES, message, result], tools=TOOLS, max_tokens=8, temperature=0
    )
    assert answer.choices[0].message.content
    details = answer.usage and answer.usage.prompt_tokens_details
    assert details
    assert details.cached_tokens


def test_a_model_that_need_not_call_writes_as_without_tools(client: Client) -> None:
    """It sees the tools either way, and its first words are the same."""
    body = {"messages": MESSAGES, "tools": TOOLS, "temperature": 0, "max_tokens": 12}
    free, none = (client.post(CHAT, body | {"tool_choice": choice})["choices"][0] for choice in ("auto", "none"))
    assert free["message"] == none["message"]
    assert free["message"]["content"]
    assert "tool_calls" not in free["message"]


def test_a_call_that_a_model_begins_is_completed(client: Client) -> None:
    """The grammar begins at the mark of a call, which a prefilled answer ends with."""
    begun = {"role": "assistant", "content": "Let me look.\n<tool_call>"}
    body = {"messages": [*MESSAGES, begun], "tools": TOOLS, **FIXED}
    choice = client.post(CHAT, body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) is not None


def test_allowed_tools(client: Client) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = client.post(CHAT, {"messages": MESSAGES, "tools": TOOLS, "tool_choice": choice, **FIXED})
    assert [call["function"] for call in answer["choices"][0]["message"]["tool_calls"]] == [
        {"name": "clock", "arguments": "{}"}
    ]


def test_calls_at_once(client: Client) -> None:
    for parallel in (True, False):
        body = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": NAMED, "parallel_tool_calls": parallel}
        calls = client.post(CHAT, body | FIXED)["choices"][0]["message"]["tool_calls"]
        assert len(calls) == 1 or parallel


def test_several_choices(client: Client) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": NAMED, "n": 2, "seed": 1, "max_tokens": 80}
    choices = client.post(CHAT, body)["choices"]
    calls = [choice["message"]["tool_calls"][0] for choice in choices]
    assert len({call["id"] for call in calls}) == 2
    assert {call["function"]["name"] for call in calls} == {"get_weather"}


def test_a_cut_call(client: Client) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": NAMED, "temperature": 0, "max_tokens": 22}
    choice = client.post(CHAT, body)["choices"][0]
    assert choice["finish_reason"] == "length"
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert '{"city": "Rome", "days": 1}'.startswith(arguments[:9])


def test_functions_of_old_clients(client: Client) -> None:
    body = {"messages": MESSAGES, "functions": [WEATHER, CLOCK], "function_call": {"name": "get_weather"}, **FIXED}
    choice = client.post(CHAT, body)["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"]["name"] == "get_weather"
    assert json.loads(choice["message"]["function_call"]["arguments"])["city"] in ("Rome", "Oslo")
    events = client.events(CHAT, **body)[:-1]
    parts = [event["choices"][0]["delta"].get("function_call") for event in events]
    assert json.loads("".join(part["arguments"] for part in parts if part))["days"]


def test_content_of_a_form_or_a_call(client: Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    body = {"messages": MESSAGES, "tools": TOOLS, "response_format": form, **FIXED}
    message = client.post(CHAT, body)["choices"][0]["message"]
    if message.get("tool_calls"):
        assert message["tool_calls"][0]["function"]["name"] in ("get_weather", "clock")
    else:
        assert json.loads(message["content"])["n"] in (1, 2)


def test_probabilities(client: Client) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": NAMED, "logprobs": True, **FIXED}
    choice = client.post(CHAT, body)["choices"][0]
    assert "get_weather" in "".join(item["token"] for item in choice["logprobs"]["content"])
    error = client.error(CHAT, body | {"stream": True})
    assert (error["param"], error["message"]) == ("logprobs", "logprobs is not supported with tools + stream")
    assert client.events(CHAT, **body | {"tool_choice": "none", "max_tokens": 2})


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tool_choice": "any"}, "tool_choice", "Invalid tool_choice: any"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name", "no tool with"),
        ({"tool_choice": "required", "tools": []}, "tool_choice", "no tools to choose from"),
        ({"grammar": 'root ::= "x"'}, "grammar", "Cannot use custom grammar constraints with tools."),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "must be true or false"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "must be a string"),
    ],
)
def test_wrong_requests(client: Client, fields: Any, param: str, message: str) -> None:
    error = client.error(CHAT, {"messages": MESSAGES, "tools": TOOLS, **fields})
    assert error["param"] == param
    assert message in error["message"]


def recorded(program: str) -> tuple[str, Any]:
    """Path and body of a request as a program sends it, with a short answer. Its file tells where it comes from."""
    request = json.loads((Path(__file__).parent / "recorded" / f"{program}.json").read_text())
    limit = "n_predict" if request["path"] == "/completion" else "max_tokens"
    return request["path"], request["body"] | {limit: 32}


@pytest.mark.parametrize("program", ["cline", "continue"])
def test_requests_of_editors(client: Client, program: str) -> None:
    path, body = recorded(program)
    *events, done = client.events(path, **body)
    assert done == "[DONE]"
    assert events[-1]["usage"]["completion_tokens"] <= 32
    assert events[-2]["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")


@pytest.mark.parametrize("program", ["cline", "continue", "llama_vscode_agent"])
def test_calls_with_the_tools_of_editors(client: Client, program: str) -> None:
    path, body = recorded(program)
    called = client.post(path, body | {"stream": False, "stream_options": None, "tool_choice": "required"})
    name = called["choices"][0]["message"]["tool_calls"][0]["function"]["name"]
    assert name in [tool["function"]["name"] for tool in body["tools"]]


def test_a_completion_of_continue(client: Client) -> None:
    path, body = recorded("continue_llama_cpp")
    *events, last = client.events(path, **body)
    assert "".join(event["content"] for event in events)
    assert last["stop"] is True
