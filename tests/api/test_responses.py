"""OpenAI's Responses API, through OpenAI's own client and by hand."""

import json
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.paths import model_path
from tests.support.server.client import Client

pytestmark = pytest.mark.model
PATH = "/v1/responses"
QUESTION = {"role": "user", "content": "Name one colour."}
IMAGE = {"type": "input_image", "image_url": "https://a.b/c.png"}
NO_SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "nothing"}}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]},
    "strict": False,
}


class Colour(BaseModel):
    colour: str
    bright: bool


@pytest.fixture
def api(client: Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{client.url}/v1", api_key="sk-no-key-required", max_retries=0)


def respond(client: Client, **fields: Any) -> Any:
    return client.post(PATH, {"input": "Name one colour.", "temperature": 0, "max_output_tokens": 12, **fields})


def events(client: Client, **fields: Any) -> list[Any]:
    return client.events(PATH, **{"input": "Name one colour.", "temperature": 0, "max_output_tokens": 12, **fields})


def test_a_response(api: openai.OpenAI, client: Client) -> None:
    answer = api.responses.create(
        model="m", instructions="Be brief.", input="Name one colour.", temperature=0, max_output_tokens=30
    )
    assert answer.object == "response"
    assert answer.model == str(model_path())
    assert answer.output_text
    assert answer.instructions == "Be brief."
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name one colour."}]
    chat = client.post("/v1/chat/completions", messages=messages, temperature=0, max_tokens=30)
    assert answer.output_text == chat["choices"][0]["message"]["content"]
    assert answer.usage.input_tokens == chat["usage"]["prompt_tokens"]
    assert client.post("/responses", input="x", max_output_tokens=1)["object"] == "response"


def test_a_stream(api: openai.OpenAI, client: Client) -> None:
    whole = respond(client, max_output_tokens=64)
    with api.responses.stream(model="m", input="Name one colour.", temperature=0, max_output_tokens=64) as stream:
        told = list(stream)
        final = stream.get_final_response()
    text = "".join(event.delta for event in told if event.type == "response.output_text.delta")
    assert text == final.output_text == whole["output"][0]["content"][0]["text"]
    assert final.status == whole["status"] == "completed"
    numbers = [event["sequence_number"] for event in events(client)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(api: openai.OpenAI, client: Client, stream: bool) -> None:
    fields: Any = {"model": "m", "input": "Name one colour.", "temperature": 0, "max_output_tokens": 12}
    fields |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    if stream:
        with api.responses.stream(**fields) as told:
            deltas = [event for event in told if event.type == "response.output_text.delta"]
            answer = told.get_final_response()
        tokens = [each.token for event in deltas for each in event.logprobs]
    else:
        answer = api.responses.create(**fields)
        tokens = []
    part = answer.to_dict()["output"][0]["content"][0]  # type: ignore[index]
    messages = [{"role": "user", "content": "Name one colour."}]
    options = {"temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
    [chat] = client.post("/v1/chat/completions", messages=messages, **options)["choices"]
    wanted = chat["logprobs"]["content"][: len(part["logprobs"])]
    assert part["logprobs"] == wanted
    assert "".join(each["token"] for each in wanted) == part["text"]
    assert tokens == [each["token"] for each in wanted] * stream
    assert client.error(PATH, {"input": "x", "top_logprobs": 21})["param"] == "top_logprobs"


def test_kept_responses(api: openai.OpenAI) -> None:
    first = api.responses.create(model="m", input="Name one colour.", temperature=0, max_output_tokens=8)
    again = api.responses.retrieve(first.id)
    assert again.to_dict() == first.to_dict()
    second = api.responses.create(
        model="m", input="Another.", previous_response_id=first.id, temperature=0, max_output_tokens=8
    )
    items = list(api.responses.input_items.list(second.id, limit=1, order="asc"))
    assert [item.to_dict()["role"] for item in items] == ["user", "assistant", "user"]
    api.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match=f"'{first.id}' not found"):
        api.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        api.responses.input_items.list(first.id)


def test_a_limit_makes_a_response_incomplete(client: Client) -> None:
    answer = respond(client, max_output_tokens=2)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["usage"]["output_tokens"] == 2
    assert events(client, max_output_tokens=2)[-1]["type"] == "response.incomplete"


def test_parse(api: openai.OpenAI) -> None:
    answer = api.responses.parse(
        model="m", input="Which colour has the sky?", text_format=Colour, temperature=0, max_output_tokens=80
    )
    assert isinstance(answer.output_parsed, Colour)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_function(client: Client, stream: bool) -> None:
    fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    fields |= {"input": [QUESTION], "max_output_tokens": 80}
    answer = events(client, **fields)[-1]["response"] if stream else respond(client, **fields)
    [call] = answer["output"]
    assert (call["type"], call["name"], call["status"]) == ("function_call", "weather", "completed")
    assert json.loads(call["arguments"])["city"] in ("Rome", "Oslo")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny"}
    second = respond(client, input=[QUESTION, call, result], tools=[WEATHER], tool_choice="none")
    assert second["output"][0]["type"] == "message"
    assert second["usage"]["input_tokens_details"]["cached_tokens"] >= answer["usage"]["input_tokens"] - 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_custom_tool_with_a_grammar(api: openai.OpenAI, stream: bool) -> None:
    lark = 'start: "*** Begin Patch" LF "*** Delete File: " NAME LF\nNAME: /[a-z"]{1,6}/\n%import common.LF'
    tool: Any = {"type": "custom", "name": "apply_patch", "description": "Change files"}
    tool["format"] = {"type": "grammar", "syntax": "lark", "definition": lark}
    fields: Any = {"model": "m", "input": [QUESTION], "temperature": 0, "max_output_tokens": 90, "tools": [tool]}
    fields |= {"tool_choice": {"type": "custom", "name": "apply_patch"}, "parallel_tool_calls": False}
    if stream:
        with api.responses.stream(**fields) as told:
            text = "".join(event.delta for event in told if event.type == "response.custom_tool_call_input.delta")
            answer = told.get_final_response()
    else:
        answer, text = api.responses.create(**fields), ""
    [call] = answer.output
    assert (call.type, call.name) == ("custom_tool_call", "apply_patch")
    assert re.fullmatch(r'\*\*\* Begin Patch\n\*\*\* Delete File: [a-z"]{1,6}\n', call.input)
    assert text == call.input * stream
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done!"}
    turns: Any = [QUESTION, call.to_dict(), result]
    second = api.responses.create(**fields | {"input": turns, "tool_choice": "none"})
    assert second.output[0].type == "message"
    assert second.usage
    assert answer.usage
    assert second.usage.input_tokens_details.cached_tokens >= answer.usage.input_tokens - 1


def test_what_is_enforced_of_a_custom_tool(client: Client) -> None:
    regex = {"type": "grammar", "syntax": "regex", "definition": "[xyz]{3}"}
    tool = {"type": "custom", "name": "spell", "format": regex}
    fields: Any = {"input": [QUESTION], "temperature": 0, "max_output_tokens": 60, "parallel_tool_calls": False}
    fields |= {"tools": [tool], "tool_choice": "required"}
    answer = client.http.post(PATH, json=fields)
    assert re.fullmatch("[xyz]{3}", answer.json()["output"][0]["input"])
    assert "X-Schema-Weakened" not in answer.headers
    tool["format"] = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"\n%ignore " "'}
    answer = client.http.post(PATH, json=fields)
    assert answer.status_code == 200
    assert answer.headers["X-Schema-Weakened"] == "format"
    tool["format"]["definition"] = "start: missing"
    assert client.error(PATH, fields)["param"] == "tools"


def test_a_request_of_codex(client: Client) -> None:
    """As Codex 0.171 has sent it, with shorter texts, and with three more tools that it has for some models."""
    request = json.loads((Path(__file__).parent / "data/codex.json").read_text())
    bounds = {"max_output_tokens": 60, "temperature": 0}
    assert client.events(PATH, **request | bounds)[-1]["type"] in ("response.completed", "response.incomplete")
    told = client.events(PATH, **request | bounds | {"tool_choice": {"type": "function", "name": "exec_command"}})
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert done[0]["name"] == "exec_command"
    choice = {"type": "function", "name": "close_agent", "namespace": "multi_agent_v1"}
    [call] = client.post(PATH, request | bounds | {"stream": False, "tool_choice": choice})["output"]
    assert (call["namespace"], call["name"]) == ("multi_agent_v1", "close_agent")


def test_the_input_of_a_second_turn(client: Client) -> None:
    first = respond(client, max_output_tokens=40)
    conversation = [QUESTION, *first["output"], {"role": "user", "content": "Another one."}]
    second = respond(client, input=conversation)
    assert second["usage"]["input_tokens_details"]["cached_tokens"] >= first["usage"]["input_tokens"]


def test_input_tokens(api: openai.OpenAI, client: Client) -> None:
    counted = api.responses.input_tokens.count(model="m", input="Name one colour.", instructions="Be brief.")
    assert counted.object == "response.input_tokens"
    whole = respond(client, instructions="Be brief.", max_output_tokens=1)
    assert counted.input_tokens == whole["usage"]["input_tokens"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name one colour."}]
    for path in ("/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"):
        assert client.post(path, messages=messages) == counted.model_dump(exclude_none=True)
    assert client.post("/responses/input_tokens", input="word " * 3000)["input_tokens"] > 3000  # more than fit


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
        ({"max_output_tokens": -5}, "max_output_tokens"),
        ({"text": {"format": NO_SCHEMA}}, "text.format.schema"),
        ({"tools": [WEATHER | {"parameters": 3}]}, "tools[0].parameters"),
        ({"background": True}, "background"),
        ({"temperature": "hot"}, "temperature"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"}]}, "input[0].arguments"),
    ],
)  # fmt: skip
def test_errors_name_the_field(client: Client, fields: dict[str, Any], param: str) -> None:
    for path in (PATH, f"{PATH}/input_tokens") if "input" in fields else (PATH,):
        assert client.error(path, {"input": "x", **fields})["param"] == param
