"""LangChain: tools that are bound, streams, and structured output."""

import os
from typing import Literal

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

MODEL = ChatOpenAI(
    model="default",
    base_url=os.environ["LLAMASERVER_URL"] + "/v1",
    max_retries=0,
    temperature=0,
    max_tokens=60,
)
QUESTION = HumanMessage("What is the weather in Rome?")


@tool
def get_weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]
    sunny: bool


@pytest.mark.parametrize("choice", ["any", "get_weather"])
def test_a_bound_tool(choice: str) -> None:
    model = MODEL.bind_tools([get_weather], tool_choice=choice)
    called = model.invoke([QUESTION])
    (call,) = called.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = MODEL.bind_tools([get_weather]).invoke([QUESTION, called, result])
    assert answer.content or answer.tool_calls


def test_a_stream() -> None:
    chunks = list(MODEL.bind_tools([get_weather], tool_choice="any").stream([QUESTION]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.tool_calls[0]["args"]["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output(method: str) -> None:
    answer = MODEL.with_structured_output(Weather, method=method).invoke([QUESTION])
    assert isinstance(answer, Weather)
