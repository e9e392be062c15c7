"""The OpenAI Agents SDK, with the API that it uses unless it is told otherwise."""

import asyncio
import os
from typing import Any, Literal

import pytest
from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool
from openai import AsyncOpenAI
from openai.types.responses import ResponseCompletedEvent
from pydantic import BaseModel

QUESTION = "How is the weather in Rome?"
# The SDK takes an answer that a limit has cut for an error.
ADA = ModelSettings(temperature=0, extra_body={"grammar": 'root ::= "Ada."'})
CALLS = ModelSettings(temperature=0, max_tokens=400, tool_choice="required", parallel_tool_calls=False)
asked: list[str] = []


class Colour(BaseModel):
    colour: Literal["red", "blue"]


@function_tool
def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather of a city."""
    asked.append(city)
    return f"It is sunny in {city}."


def agent(settings: ModelSettings, **options: Any) -> Agent[None]:
    client = AsyncOpenAI(base_url=f"{os.environ['LLAMASERVER_URL']}/v1", api_key="x", max_retries=0)
    model = OpenAIResponsesModel("default", client)
    return Agent("Helper", instructions="Be brief.", model=model, model_settings=settings, **options)


def test_a_function_is_called_and_its_result_answered() -> None:
    asked.clear()
    result = asyncio.run(Runner.run(agent(CALLS, tools=[weather]), QUESTION))
    assert asked
    assert [item.type for item in result.new_items][:2] == ["tool_call_item", "tool_call_output_item"]
    assert isinstance(result.final_output, str)


def test_a_stream() -> None:
    async def run() -> tuple[list[Any], Any]:
        asked.clear()
        result = Runner.run_streamed(agent(CALLS, tools=[weather], tool_use_behavior="stop_on_first_tool"), QUESTION)
        events = [event async for event in result.stream_events()]
        return events, result

    events, result = asyncio.run(run())
    assert asked
    raw = [event.data for event in events if event.type == "raw_response_event"]
    assert sum(isinstance(event, ResponseCompletedEvent) for event in raw) == 1
    assert result.final_output == f"It is sunny in {asked[0]}."
    assert result.context_wrapper.usage.total_tokens > 0


def test_an_output_type() -> None:
    result = asyncio.run(
        Runner.run(agent(ModelSettings(temperature=0), output_type=Colour), "Which colour has the sky?")
    )
    assert isinstance(result.final_output, Colour)


@pytest.mark.parametrize("linked", [False, True])
def test_a_second_turn(linked: bool) -> None:
    async def run() -> list[int]:
        helper = agent(ADA)
        first = await Runner.run(helper, "My name is Ada.")
        more = "What is my name?"
        if linked:
            second = await Runner.run(helper, more, previous_response_id=first.last_response_id)
        else:
            second = await Runner.run(helper, [*first.to_input_list(), {"role": "user", "content": more}])
        return [each.raw_responses[-1].usage.input_tokens for each in (first, second)]

    before, after = asyncio.run(run())
    assert after > before + 10
