"""Thoughts and calls in Anthropic's form, as a model with the chat template of Qwen3.5 writes them."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.support.models import Models
from tests.support.server.client import Client
from tests.support.vendored import vendored_templates

QUESTION: Any = {"role": "user", "content": "What is in a.py?"}
ONE: Any = {"type": "any", "disable_parallel_tool_use": True}
THOUGHT = "A file.\\n</think>\\n\\n"


def read(*paths: str) -> Any:
    """A tool for files of these names."""
    schema = {"type": "object", "properties": {"path": {"enum": paths}}, "required": ["path"]}
    return {"name": "Read", "description": "Reads a file.", "input_schema": schema | {"additionalProperties": False}}


@pytest.fixture(scope="module")
def client(serve: Any, models: Models) -> Iterator[Client]:
    model = models.templated(vendored_templates()["Qwen3.5-4B"])
    with serve(model, "-c", "4096", "-np", "1") as made:
        yield made


@pytest.fixture
def api(client: Client) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=client.url, api_key="none", max_retries=0)


def answer(api: anthropic.Anthropic, *messages: Any, grammar: str = "", **fields: Any) -> anthropic.types.Message:
    """The answer in one piece, which the one in a stream must be too."""
    asked: Any = {
        "model": "m",
        "max_tokens": 300,
        "messages": [QUESTION, *messages],
        "extra_body": {"temperature": 0, "grammar": grammar},
        **fields,
    }
    whole: anthropic.types.Message = api.messages.create(**asked)
    with api.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    for one, other in zip(whole.content, final.content, strict=True):
        assert one.model_dump(exclude={"id"}) == other.model_dump(exclude={"id", "parsed_output"})
    assert whole.stop_reason == final.stop_reason
    return whole


def test_a_thought_and_a_call(api: anthropic.Anthropic) -> None:
    """The thought is nonsense, and ends at its budget."""
    thinking: Any = {"type": "enabled", "budget_tokens": 8}
    first = answer(api, tools=[read("a.py")], tool_choice=ONE, thinking=thinking)
    thought, call = first.content
    assert thought.type == "thinking"
    assert thought.thinking
    assert thought.signature == ""
    assert first.usage.output_tokens_details
    assert first.usage.output_tokens_details.thinking_tokens >= 8
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("Read", {"path": "a.py"})
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "print(1)"}
    history: Any = ({"role": "assistant", "content": first.content}, {"role": "user", "content": [result]})
    counted = [
        api.messages.count_tokens(model="m", messages=[QUESTION, *messages], tools=[read("a.py")]).input_tokens
        for messages in (history, ({"role": "assistant", "content": first.content[1:]}, history[1]))
    ]
    assert counted[0] > counted[1]  # the model sees its thought again


def test_a_thought_and_words(api: anthropic.Anthropic) -> None:
    both = answer(api, grammar=f'root ::= "{THOUGHT}It prints."', thinking={"type": "adaptive"}, max_tokens=200)
    thought, words = both.content
    assert thought.type == "thinking"
    assert thought.thinking == "A file."
    assert words.type == "text"
    assert words.text.startswith("It prints.")


def test_a_thought_is_cut_off(api: anthropic.Anthropic) -> None:
    grammar = f'root ::= "{THOUGHT}It prints."'
    cut = answer(api, grammar=grammar, thinking={"type": "adaptive"}, max_tokens=12)
    assert cut.stop_reason == "max_tokens"
    [thought] = cut.content
    assert thought.type == "thinking"


def test_a_call_is_cut_off(api: anthropic.Anthropic) -> None:
    """What there is of it comes in a stream. A whole answer leaves it out, so that nobody carries it out."""
    fields: Any = {"model": "m", "max_tokens": 150, "messages": [QUESTION], "tools": [read("a" * 300)]}
    fields["tool_choice"] = {"type": "tool", "name": "Read"}
    whole = api.messages.create(**fields)
    assert (whole.stop_reason, whole.content) == ("max_tokens", [])
    with api.messages.stream(**fields) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "max_tokens"
    [call] = final.content
    assert call.type == "tool_use"


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_no_thoughts_unless_asked_for(client: Client, thinking: Any) -> None:
    fields = {"messages": [QUESTION], "thinking": thinking, "enable_thinking": None}
    off = client.post("/v1/messages/count_tokens", fields)["input_tokens"]
    on = client.post("/v1/messages/count_tokens", fields | {"thinking": {"type": "adaptive"}})["input_tokens"]
    chat = client.post("/v1/chat/completions/input_tokens", {"messages": [QUESTION], "enable_thinking": False})
    assert off == chat["input_tokens"] > on  # the template has ended the thought
