"""pydantic-ai: an agent with an answer of a type, which is a tool to the model."""

import os
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

MODEL = OpenAIChatModel("default", provider=OpenAIProvider(base_url=os.environ["LLAMASERVER_URL"] + "/v1", api_key="x"))


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]
    sunny: bool


def test_an_answer_of_a_type() -> None:
    agent = Agent(MODEL, output_type=Weather, model_settings={"temperature": 0, "max_tokens": 60})
    result = agent.run_sync("What is the weather in Rome?")
    assert isinstance(result.output, Weather)
