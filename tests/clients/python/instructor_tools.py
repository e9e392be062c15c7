"""instructor: answers as objects, by a tool and by a schema."""

import os
from typing import Literal

import instructor
import openai
import pytest
from pydantic import BaseModel

CLIENT = openai.OpenAI(base_url=os.environ["LLAMASERVER_URL"] + "/v1", max_retries=0)


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]
    days: Literal[1, 2]


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA])
def test_an_object(mode: instructor.Mode) -> None:
    answer = instructor.from_openai(CLIENT, mode=mode).chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        response_model=Weather,
        max_retries=0,
        temperature=0,
        max_tokens=60,
    )
    assert isinstance(answer, Weather)
