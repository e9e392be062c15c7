"""LlamaIndex: a tool that is called, and structured prediction."""

import os
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel

# The name decides the context size that the library assumes.
MODEL = OpenAI(
    model="gpt-4o-mini",
    api_base=os.environ["LLAMASERVER_URL"] + "/v1",
    api_key="x",
    max_retries=0,
    temperature=0,
    max_tokens=60,
)


def get_weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]


def test_a_tool() -> None:
    tool = FunctionTool.from_defaults(fn=get_weather)
    answer = MODEL.chat_with_tools([tool], user_msg="What is the weather in Rome?", tool_required=True)
    (call,) = MODEL.get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather"
    assert call.tool_kwargs["city"] in ("Rome", "Oslo")


def test_a_structured_answer() -> None:
    answer = MODEL.as_structured_llm(Weather).chat([ChatMessage(role="user", content="What is the weather in Rome?")])
    assert isinstance(answer.raw, Weather)
