"""Thoughts and calls in Anthropic's form, as a model with Qwen3's chat template writes them."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.support.models import Models
from tests.support.server.client import Client
from tests.support.vendored import vendored_templates

THOUGHT = "<think>\\nA file.\\n</think>\\n\\n"
CALL = '<tool_call>\\n{\\"name\\": \\"Read\\", \\"arguments\\": {\\"path\\": \\"a.py\\"}}\\n</tool_call>'
READ: Any = {"name": "Read", "description": "Reads a file.", "input_schema": {"type": "object"}}
QUESTION: Any = {"role": "user", "content": "What is in a.py?"}


@pytest.fixture(scope="module")
def client(serve: Any, models: Models) -> Iterator[Client]:
    model = models.templated(vendored_templates()["Qwen-Qwen3-0.6B"])
    with serve(model, "-c", "4096", "-np", "1") as made:
        yield made


@pytest.fixture
def api(client: Client) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=client.url, api_key="none", max_retries=0)


def answer(api: anthropic.Anthropic, text: str, *messages: Any, **fields: Any) -> anthropic.types.Message:
    """The answer in one piece, which the one in a stream must be too."""
    asked: Any = {
        "model": "m",
        "max_tokens": 200,
        "messages": [QUESTION, *messages],
        "tools": [READ],
        "extra_body": {"temperature": 0, "grammar": f'root ::= "{text}"'},
        **fields,
    }
    whole = api.messages.create(**asked)
    with api.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    for one, other in zip(whole.content, final.content, strict=True):
        assert one.model_dump(exclude={"id"}) == other.model_dump(exclude={"id", "parsed_output"})
    assert whole.stop_reason == final.stop_reason
    return whole


def test_a_thought_words_and_a_call(api: anthropic.Anthropic) -> None:
    first = answer(api, f"{THOUGHT}I look.\\n{CALL}", thinking={"type": "enabled", "budget_tokens": 1024})
    thought, words, call = first.content
    assert (thought.type, words.type, call.type) == ("thinking", "text", "tool_use")
    assert thought.type == "thinking"
    assert (thought.thinking, thought.signature) == ("A file.", "")
    assert words.type == "text"
    assert words.text == "I look."
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("Read", {"path": "a.py"})
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "print(1)"}
    history: Any = ({"role": "assistant", "content": first.content}, {"role": "user", "content": [result]})
    second = answer(api, f"{THOUGHT}It prints.", *history, thinking={"type": "adaptive"})
    assert [block.type for block in second.content] == ["thinking", "text"]
    assert second.usage.cache_read_input_tokens is not None
    assert second.usage.cache_read_input_tokens >= first.usage.input_tokens


def test_a_thought_is_cut_off(api: anthropic.Anthropic) -> None:
    cut = answer(api, f"{THOUGHT}It prints.", thinking={"type": "adaptive"}, max_tokens=12)
    assert cut.stop_reason == "max_tokens"
    [thought] = cut.content
    assert thought.type == "thinking"


def test_a_call_is_cut_off(api: anthropic.Anthropic) -> None:
    """What there is of it comes in a stream. A whole answer leaves it out, so that nobody carries it out."""
    fields: Any = {"model": "m", "max_tokens": 150, "messages": [QUESTION], "tools": [READ]}
    fields["extra_body"] = {"temperature": 0, "grammar": f'root ::= "{CALL.replace("a.py", "a" * 300)}"'}
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
