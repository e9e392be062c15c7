"""OpenAI's client: whole, streamed, asynchronous, parsed, and the Agents SDK."""

import asyncio
import json
import os
from typing import Literal

import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool
from pydantic import BaseModel

URL = os.environ["LLAMASERVER_URL"] + "/v1"
CLIENT = openai.OpenAI(base_url=URL, max_retries=0)
MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]
FIXED = {"model": "default", "messages": MESSAGES, "temperature": 0, "max_tokens": 60}


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]
    days: Literal[1, 2]


TOOL = openai.pydantic_function_tool(Weather, name="get_weather")


def test_required_and_the_second_turn() -> None:
    first = CLIENT.chat.completions.create(tools=[TOOL], tool_choice="required", **FIXED).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    Weather.model_validate_json(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*MESSAGES, first.message, result]
    second = CLIENT.chat.completions.create(tools=[TOOL], **FIXED | {"messages": messages, "max_tokens": 6})
    assert second.choices[0].message.content


def test_a_parsed_answer_and_a_parsed_call() -> None:
    answer = CLIENT.chat.completions.parse(response_format=Weather, **FIXED).choices[0].message
    assert answer.parsed.city in ("Rome", "Oslo")
    named = {"type": "function", "function": {"name": "get_weather"}}
    called = CLIENT.chat.completions.parse(tools=[TOOL], tool_choice=named, **FIXED).choices[0].message
    assert called.tool_calls[0].function.parsed_arguments.days in (1, 2)


def test_a_stream() -> None:
    with CLIENT.chat.completions.stream(tools=[TOOL], tool_choice="required", **FIXED) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments.city in ("Rome", "Oslo")


def test_the_asynchronous_client() -> None:
    async def arguments() -> str:
        async with openai.AsyncOpenAI(base_url=URL, max_retries=0) as client:
            stream = await client.chat.completions.create(tools=[TOOL], tool_choice="required", stream=True, **FIXED)
            parts = [chunk.choices[0].delta.tool_calls async for chunk in stream if chunk.choices]
        return "".join(part[0].function.arguments or "" for part in parts if part)

    assert json.loads(asyncio.run(arguments()))["city"] in ("Rome", "Oslo")


def test_an_agent() -> None:
    asked = []

    @function_tool
    def get_weather(city: Literal["Rome", "Oslo"]) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    model = OpenAIChatCompletionsModel("default", openai.AsyncOpenAI(base_url=URL, max_retries=0))
    agent = Agent(
        name="Weatherman",
        model=model,
        tools=[get_weather],
        model_settings=ModelSettings(tool_choice="required", temperature=0, max_tokens=40),
    )
    result = Runner.run_sync(agent, "What is the weather in Rome?")
    assert asked
    assert isinstance(result.final_output, str)
