"""OpenAI's dialect, through OpenAI's own client and by hand."""

import json
import math
from typing import Any

import openai
import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client

pytestmark = pytest.mark.model
MESSAGES: Any = [
    {"role": "system", "content": "You are ChatGPT, an AI assistant."},
    {"role": "user", "content": "Name one colour."},
]


@pytest.fixture
def api(client: Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{client.url}/v1", api_key="sk-no-key-required", max_retries=0)


def chat(client: Client, **fields: Any) -> Any:
    return client.post("/v1/chat/completions", {"messages": MESSAGES, "temperature": 0, "max_tokens": 12, **fields})


def test_chat(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(model="gpt-3.5-turbo", messages=MESSAGES, temperature=0, max_tokens=12)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 12


def test_chat_stream(api: openai.OpenAI, client: Client) -> None:
    chunks = list(
        api.chat.completions.create(
            model="m",
            messages=MESSAGES,
            temperature=0,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = chat(client)
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == whole["usage"]["completion_tokens"]
    assert chunks[-2].choices[0].finish_reason == whole["choices"][0]["finish_reason"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_ends_with_done(client: Client) -> None:
    assert client.events("/v1/chat/completions", messages=MESSAGES, max_tokens=3)[-1] == "[DONE]"
    assert client.events("/v1/completions", prompt="Hi", max_tokens=3)[-1] == "[DONE]"


async def test_async_client(client: Client) -> None:
    async with openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key="x", max_retries=0) as api:
        stream = await api.chat.completions.create(
            model="m", messages=MESSAGES, temperature=0, max_tokens=8, stream=True
        )
        text = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(text)


def test_mirostat_and_other_fields_of_completion_work_in_chat(client: Client) -> None:
    plain = chat(client)["choices"][0]["message"]["content"]
    assert (
        chat(client, temperature=1.0, mirostat=2, mirostat_tau=0.01, seed=1)["choices"][0]["message"]["content"]
        == plain
    )
    assert chat(client, grammar='root ::= "blue" | "red"')["choices"][0]["message"]["content"] in ("blue", "red")
    assert client.error("/v1/chat/completions", {"messages": MESSAGES, "mirostat": 9})["param"] == "mirostat"


def test_no_repeat_penalty(client: Client) -> None:
    chat(client, id_slot=0)
    assert client.slots()[0]["repeat_penalty"] == 1.0


def test_n_and_seed(client: Client) -> None:
    fields: dict[str, Any] = {"n": 3, "seed": 7, "temperature": 1.5, "max_tokens": 10}
    one, two = (chat(client, **fields) for _ in range(2))
    texts = [choice["message"]["content"] for choice in one["choices"]]
    assert texts == [choice["message"]["content"] for choice in two["choices"]]
    assert [choice["index"] for choice in one["choices"]] == [0, 1, 2]
    assert len(set(texts)) > 1
    events = client.events("/v1/chat/completions", messages=MESSAGES, **fields)
    streamed = ["", "", ""]
    for event in events[:-1]:
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert streamed == texts


def test_stop(client: Client) -> None:
    text = chat(client)["choices"][0]["message"]["content"]
    word = text.split()[-1]
    for stop in (word, [word]):
        answer = chat(client, stop=stop)["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"]) == (text[: text.index(word)], "stop")


def test_logprobs(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(
        model="m", messages=MESSAGES, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert "".join(item.token for item in logprobs.content).startswith(answer.choices[0].message.content or "")
    for item in logprobs.content:
        assert len(item.top_logprobs) == 3
        assert item.logprob == item.top_logprobs[0].logprob <= 0
        assert bytes(item.bytes or ()).decode() == item.token
        assert sum(math.exp(top.logprob) for top in item.top_logprobs) <= 1.0001


def test_response_format(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "n": {"type": "integer", "maximum": 99}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema, "strict": True}}
    value = json.loads(chat(client, response_format=form, max_tokens=60)["choices"][0]["message"]["content"])
    assert value["colour"] in ("red", "blue")
    answer = chat(client, response_format={"type": "json_object"}, max_tokens=200)["choices"][0]
    if answer["finish_reason"] == "stop":
        assert isinstance(json.loads(answer["message"]["content"]), dict)
    else:
        assert answer["message"]["content"].lstrip().startswith("{")
    error = client.error("/v1/chat/completions", {"messages": MESSAGES, "response_format": {"type": "xml"}})
    assert error["param"] == "response_format"


def test_completions(api: openai.OpenAI, client: Client) -> None:
    answer = api.completions.create(
        model="m", prompt="One two three", temperature=0, max_tokens=5, echo=True, logprobs=2
    )
    assert answer.object == "text_completion"
    assert answer.choices[0].text.startswith("One two three")
    assert answer.choices[0].logprobs
    assert len(answer.choices[0].logprobs.tokens or []) == 3 + 5
    several = client.post("/v1/completions", prompt=["One two", "Red green"], max_tokens=3, temperature=0)
    assert [choice["index"] for choice in several["choices"]] == [0, 1]


def test_completions_stream(api: openai.OpenAI) -> None:
    whole = api.completions.create(model="m", prompt="One two three", temperature=0, max_tokens=5)
    chunks = list(api.completions.create(model="m", prompt="One two three", temperature=0, max_tokens=5, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_models(api: openai.OpenAI) -> None:
    assert [model.id for model in api.models.list()] == [str(model_path())]


def test_continues_an_assistant_message(client: Client) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "The colour of the sky is"}]
    prompt = client.post("/apply-template", messages=messages)["prompt"]
    assert prompt.endswith("<|im_start|>assistant\nThe colour of the sky is")


def test_a_second_turn_reuses_the_first(client: Client) -> None:
    first = chat(client, id_slot=0)
    messages = [*MESSAGES, first["choices"][0]["message"], {"role": "user", "content": "Another one."}]
    second = client.post("/v1/chat/completions", messages=messages, max_tokens=4, id_slot=0, temperature=0)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["prompt_tokens"]
    assert second["timings"]["prompt_n"] == second["usage"]["prompt_tokens"] - cached


@pytest.mark.parametrize(("field", "param"), [("tools", "tools[0].function.name"), ("functions", "functions[0].name")])
def test_a_tool_without_a_name_is_refused(client: Client, field: str, param: str) -> None:
    error = client.error("/v1/chat/completions", {"messages": MESSAGES, field: [{"type": "function"}]})
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"), ([], "messages"), ("hello", "messages"), ([5], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"), ([{"role": 5, "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "video"}]}], "messages[0].content[0]"),
    ],
)  # fmt: skip
def test_bad_messages(client: Client, messages: Any, param: str) -> None:
    assert client.error("/v1/chat/completions", {"messages": messages})["param"] == param


def test_errors_reach_the_client_library(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(model="m", messages=MESSAGES, temperature=-5000)
    assert caught.value.status_code == 400
    assert caught.value.param == "temperature"


def test_without_a_limit_an_answer_ends_with_the_slot(client: Client) -> None:
    answer = client.post("/v1/completions", prompt=list(range(100, 900)), ignore_eos=True, temperature=0)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 1024
