"""Anthropic's Messages API, through Anthropic's own client and with requests as Claude Code sends them."""

import json
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from tests.support.paths import model_path
from tests.support.server.client import Client

pytestmark = pytest.mark.model
PATH = "/v1/messages"
QUESTION: Any = {"role": "user", "content": "Name one colour."}
GREEDY: dict[str, Any] = {"model": "m", "max_tokens": 12, "extra_body": {"temperature": 0}, "messages": [QUESTION]}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "R0lGODlhAQABAAAAADs="}}
NO_SCHEMA = {"type": "json_schema", "schema": {"type": "nothing"}}
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Colour(BaseModel):
    colour: str
    bright: bool


@pytest.fixture
def api(client: Client) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=client.url, api_key="none", max_retries=0)


def test_a_message(api: anthropic.Anthropic, client: Client) -> None:
    answer = api.messages.create(**GREEDY, system="Be brief.")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", str(model_path()))
    [block] = answer.content
    assert block.type == "text"
    messages = [{"role": "system", "content": "Be brief."}, QUESTION]
    chat = client.post("/v1/chat/completions", messages=messages, temperature=0, max_tokens=12)
    assert block.text == chat["choices"][0]["message"]["content"]
    usage = answer.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == chat["usage"]["prompt_tokens"]
    assert usage.output_tokens == chat["usage"]["completion_tokens"]


def test_a_stream(api: anthropic.Anthropic) -> None:
    whole = api.messages.create(**GREEDY)
    with api.messages.stream(**GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].type == whole.content[0].type == "text"
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    started = next(
        event.message for event in api.messages.create(**GREEDY, stream=True) if event.type == "message_start"
    )
    assert started.usage.cache_read_input_tokens == final.usage.cache_read_input_tokens
    assert started.usage.input_tokens == final.usage.input_tokens


async def test_an_async_client(client: Client) -> None:
    async with anthropic.AsyncAnthropic(base_url=client.url, auth_token="none", max_retries=0) as api:
        answer = await api.messages.create(**GREEDY)
        async with api.messages.stream(**GREEDY) as stream:
            final = await stream.get_final_message()
    assert final.to_dict()["content"] == answer.to_dict()["content"]


def test_stop_reasons(api: anthropic.Anthropic) -> None:
    cut = api.messages.create(**GREEDY | {"max_tokens": 2})
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
    ended = api.messages.create(**GREEDY | {"max_tokens": 200})
    assert (ended.stop_reason, ended.stop_sequence) == ("end_turn", None)
    assert ended.content[0].type == "text"
    word = ended.content[0].text.split()[1]
    for stream in (False, True):
        fields = GREEDY | {"max_tokens": 200, "stop_sequences": [word]}
        if stream:
            with api.messages.stream(**fields) as events:
                stopped = events.get_final_message()
        else:
            stopped = api.messages.create(**fields)
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
        assert stopped.content[0].type == "text"
        assert word not in stopped.content[0].text


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_and_its_result(api: anthropic.Anthropic, choice: Any, stream: bool) -> None:
    fields = GREEDY | {"max_tokens": 60, "tools": [WEATHER], "tool_choice": choice}
    if stream:
        with api.messages.stream(**fields) as events:
            first = events.get_final_message()
    else:
        first = api.messages.create(**fields)
    call = first.content[-1]
    assert first.stop_reason == "tool_use"
    assert (call.type, call.name) == ("tool_use", "weather")
    assert isinstance(call.input["city"], str)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sunny"}]}
    messages: Any = [QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = api.messages.create(**GREEDY | {"messages": messages, "tools": [WEATHER], "tool_choice": {"type": "none"}})
    assert [block.type for block in second.content] == ["text"]
    assert first.usage.cache_read_input_tokens is not None
    assert second.usage.cache_read_input_tokens is not None
    asked = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert second.usage.cache_read_input_tokens >= asked - 1


def test_one_tool_at_a_time(api: anthropic.Anthropic) -> None:
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    answer = api.messages.create(**GREEDY | {"max_tokens": 90, "tools": [WEATHER], "tool_choice": choice})
    assert [block.type for block in answer.content if block.type != "text"] == ["tool_use"]


def test_a_call_that_the_model_need_not_make(api: anthropic.Anthropic) -> None:
    choice: Any = {"type": "auto", "disable_parallel_tool_use": True}
    answer = api.messages.create(**GREEDY | {"tools": [WEATHER], "tool_choice": choice})
    assert answer.stop_reason in ("end_turn", "max_tokens", "tool_use")
    assert answer.content


def test_cache_control_is_accepted_everywhere(api: anthropic.Anthropic) -> None:
    cached: Any = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
    bad = {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True}
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Facts"}}

    def messages(more: Any) -> Any:
        return [
            {"role": "user", "content": [block("Hi", **more), document | more]},
            {"role": "assistant", "content": [block("I look.", **more), use | more]},
            {"role": "user", "content": [bad | {"content": [block("No such city", **more)]} | more]},
        ]

    def asked(more: Any) -> Any:
        fields = GREEDY | {"messages": messages(more), "system": [block("Be brief.", **more)]}
        return fields | {"tools": [WEATHER | more], "metadata": {"user_id": "user_1"}} | more

    def tokens(usage: Any) -> int:
        return int(usage.input_tokens + usage.cache_read_input_tokens)

    with_it, without = api.messages.create(**asked(cached)), api.messages.create(**asked({}))
    assert with_it.content == without.content
    assert tokens(with_it.usage) == tokens(without.usage)
    names = ("model", "messages", "system", "tools")
    counted = api.messages.count_tokens(**{name: asked(cached)[name] for name in names}).input_tokens
    assert counted == tokens(with_it.usage)
    plain = asked({})
    plain["messages"][2]["content"][0]["is_error"] = False
    assert tokens(api.messages.create(**plain).usage) < counted  # the model reads that it is an error


def test_models(api: anthropic.Anthropic, client: Client) -> None:
    [model] = api.models.list()
    assert (model.type, model.id, model.lifecycle) == ("model", str(model_path()), "active")
    assert model.max_input_tokens == client.get("/v1/models")["data"][0]["meta"]["n_ctx"]
    assert api.models.retrieve(model.id) == model
    with pytest.raises(anthropic.NotFoundError, match="'other' does not exist") as raised:
        api.models.retrieve("other")
    assert raised.value.type == "not_found_error"


def test_an_answer_in_a_format(api: anthropic.Anthropic) -> None:
    answer = api.messages.parse(**GREEDY | {"max_tokens": 80}, output_format=Colour)
    assert isinstance(answer.parsed_output, Colour)


def test_an_answer_that_goes_on(api: anthropic.Anthropic) -> None:
    begun: Any = {"role": "assistant", "content": "My favourite colour is"}
    answer = api.messages.create(**GREEDY | {"messages": [QUESTION, begun]})
    assert answer.content[0].type == "text"
    assert "favourite" not in answer.content[0].text


def test_count_tokens(api: anthropic.Anthropic) -> None:
    tools: Any = {"tools": [WEATHER], "tool_choice": {"type": "any"}}
    fields: Any = {"model": "m", "messages": [QUESTION], "system": "Be brief.", **tools}
    counted = api.messages.count_tokens(**fields).input_tokens
    usage = api.messages.create(**fields, max_tokens=1).usage
    assert usage.cache_read_input_tokens is not None
    assert counted == usage.input_tokens + usage.cache_read_input_tokens
    long: Any = {"role": "user", "content": "word " * 3000}
    assert api.messages.count_tokens(model="m", messages=[long]).input_tokens > 3000  # more than fit


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "odd"}]}]}, "messages[0].content[0].type"),
        (
            {
                "system": "x",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "x"},
                            {"type": "image", "source": {"type": "base64", "data": "?"}},
                        ],
                    }
                ],
            },
            "messages[0].content[1].source",
        ),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "messages"),  # this model takes none
        ({"tools": [WEATHER | {"input_schema": 3}]}, "tools[0].input_schema"),
        ({"stop_sequences": [3]}, "stop_sequences"),
        ({"extra_body": {"temperature": "hot"}}, "temperature"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"output_config": {"format": NO_SCHEMA}}, "output_config.format.schema"),
    ],
)
def test_errors_name_the_field(api: anthropic.Anthropic, fields: Any, field: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        api.messages.create(**GREEDY | fields)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    assert f"Field '{field}" in caught.value.body["error"]["message"]
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(api: anthropic.Anthropic, stream: bool) -> None:
    long: Any = {"role": "user", "content": "word " * 3000}
    counted = api.messages.count_tokens(model="m", messages=[long]).input_tokens
    with pytest.raises(anthropic.BadRequestError, match=f"prompt is too long: {counted} tokens > 1024 maximum"):
        api.messages.create(model="m", max_tokens=4, messages=[long], stream=stream)


# What Claude Code sends. The numbers of tokens are smaller here: a slot of the tests' server has 1,024.


def block(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def claude_code(cch: str, *messages: Any) -> dict[str, Any]:
    """A request of Claude Code 2.1, in short."""
    cached = {"cache_control": {"type": "ephemeral"}}
    rules = "\n".join(f"- Rule {number}: keep answers short and say where a file is." for number in range(28))
    return {
        "model": "claude-opus-4-8",
        "max_tokens": 8,
        "temperature": 0,
        "system": [
            block(f"x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch={cch};"),
            block("You are Claude Code, Anthropic's official CLI for Claude.", **cached),
            block(f"You help with software.\n{rules}", **cached),
        ],
        "messages": list(messages),
        "tools": [
            {
                "name": "Read",
                "description": "Reads a file.",
                "input_schema": {
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    "type": "object",
                    "properties": {"file_path": {"type": "string"}},
                    "required": ["file_path"],
                    "additionalProperties": False,
                },
            },
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "metadata": {"user_id": "user_0_account__session_1"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "stream": True,
    }


def test_the_second_turn_of_claude_code_reuses_its_prompt(client: Client) -> None:
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219", "x-api-key": "none"}
    client.http.headers.update(headers)
    cached = {"cache_control": {"type": "ephemeral"}}
    asked = {
        "role": "user",
        "content": [block("<system-reminder>Today is Monday.</system-reminder>"), block("Hi", **cached)],
    }
    before = {"role": "system", "content": "The user has opened a file."}
    first = client.events(f"{PATH}?beta=true", **claude_code("fa690", asked, before))
    usage = first[-2]["usage"]
    said = "".join(event["delta"]["text"] for event in first if event["type"] == "content_block_delta")
    use = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "a.py"}}
    answer = {"role": "assistant", "content": [block(said), use]}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "print(1)", **cached}
    asked["content"][1].pop("cache_control")
    turns = (asked, before, answer, {"role": "user", "content": [result]})
    second = client.events(f"{PATH}?beta=true", **claude_code("0aaa9", *turns))[-2]["usage"]
    prompt = second["input_tokens"] + second["cache_read_input_tokens"]
    assert prompt > usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert second["cache_read_input_tokens"] > 0.9 * prompt, (usage, second)
    for name in headers:
        client.http.headers.pop(name)


def test_small_requests_of_claude_code(client: Client) -> None:
    """It asks whether the API is there, for a title, and for the size of its tools."""
    body = {"max_tokens": 1, "temperature": 0, "messages": [{"role": "user", "content": "quota"}]}
    quota = client.post(f"{PATH}?beta=true", body)
    assert (quota["stop_reason"], quota["usage"]["output_tokens"]) == ("max_tokens", 1)
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string", "maxLength": 20}},
        "required": ["title"],
        "additionalProperties": False,
    }
    title = client.events(
        f"{PATH}?beta=true",
        model="claude-haiku-4-5",
        max_tokens=64,
        temperature=0,
        system=[block("Write a title for this conversation.")],
        messages=[{"role": "user", "content": [block("Mend the build")]}],
        tools=[],
        thinking={"type": "disabled"},
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    written = "".join(event["delta"]["text"] for event in title if event["type"] == "content_block_delta")
    assert json.loads(written).keys() == {"title"}
    body = claude_code("fa690", {"role": "user", "content": "foo"})
    counted = client.post(f"{PATH}/count_tokens?beta=true", body)["input_tokens"]
    assert counted > client.post(f"{PATH}/count_tokens", body | {"tools": []})["input_tokens"]
