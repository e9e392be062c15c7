"""litellm: whole and streamed calls."""

import json
import os
from typing import Any

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]},
    },
}


def complete(**fields: Any) -> Any:
    return litellm.completion(
        model="openai/default",
        api_base=os.environ["LLAMASERVER_URL"] + "/v1",
        api_key="x",
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[TOOL],
        tool_choice="required",
        temperature=0,
        max_tokens=60,
        **fields,
    )


def test_a_call() -> None:
    (choice,) = complete().choices
    assert choice.finish_reason == "tool_calls"
    assert json.loads(choice.message.tool_calls[0].function.arguments)["city"] in ("Rome", "Oslo")


def test_a_stream() -> None:
    whole = litellm.stream_chunk_builder(list(complete(stream=True)))
    assert json.loads(whole.choices[0].message.tool_calls[0].function.arguments)["city"] in ("Rome", "Oslo")
