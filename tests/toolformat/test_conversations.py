"""Real answers of models, from llama.cpp's own tests: they are read as expected, in pieces of any size."""

import json
from collections import Counter
from functools import lru_cache
from typing import Any

import pytest
from llamaserver.api.chat import begun
from llamaserver.api.chat_template import ChatTemplate
from llamaserver.errors import ServerError
from llamaserver.llama.templates import LlamaTemplates
from llamaserver.toolformat.events import Arguments, Call, Content, Event, Reasoning
from llamaserver.toolformat.parser import Parser

from tests.support.vendored import vendored_templates
from tests.toolformat.conversations import Conversation, conversations

Read = tuple[str, str, list[tuple[str, str]]]
DIFFERENT = {  # how many are read otherwise, and why
    # llama.cpp has the heading that the prompt begins a thought with in the thought. Here, it is the prompt's.
    "Apriel-1.6-15b-Thinker-fixed": 2,
    # llama.cpp leaves out calls of tools that the request does not have. Here, they are content: no text is lost.
    "openai-gpt-oss-120b": 2,
}


@lru_cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate(vendored_templates()[name], LlamaTemplates(), "<s>", "</s>")


@pytest.fixture(scope="module")
def answers() -> list[tuple[Conversation, list[Read]]]:
    """Conversations, and what is read of them in single letters and at once."""
    return [(one, [read(one, size) for size in (1, 1 << 20)]) for one in conversations() if prompt(one) is not None]


@lru_cache(maxsize=1000)
def _prompt(name: str, tools: str, variables: str) -> str | None:
    ask = {"role": "user", "content": "Hey"}
    try:
        return template(name).render([ask], json.loads(tools), generate=True, variables=json.loads(variables))
    except ServerError:  # a schema that the template cannot show
        return None


@lru_cache
def turn_end(name: str) -> str:
    """What follows an answer: a token that ends it, which the engine does not show."""
    messages = [{"role": "user", "content": "Hey"}, {"role": "assistant", "content": "plain"}]
    return template(name).render(messages, [], generate=False, variables={}).rpartition("plain")[2].strip()


def prompt(one: Conversation) -> str | None:
    return _prompt(one.template, json.dumps(one.tools), json.dumps(one.variables))


def read(one: Conversation, size: int) -> Read:
    form, text = template(one.template).form, prompt(one)
    functions = [tool["function"] for tool in one.tools]
    types = {function["name"]: function["parameters"] for function in functions}
    parser = Parser(form, types, begun(form, text or ""))
    answer = one.text.removesuffix(turn_end(one.template) or "\0")
    events: list[Event] = []
    for place in range(0, len(answer), size):
        events += parser.feed(answer[place : place + size])
    content = reasoning = ""
    calls: list[tuple[str, str]] = []
    for event in events + parser.close():
        match event:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case Call(name):
                calls.append((name, ""))
            case Arguments(text):
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
    return content, reasoning, calls


def value(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def same(one: Conversation, found: Read) -> bool:
    """Whether an answer was read as expected. Without a format for reasoning, thoughts are in the expected content."""
    content, reasoning, calls = found
    if [(name, value(text)) for name, text in calls] != [(name, value(text)) for name, text in one.calls]:
        return False
    apart = one.reasoning_format != "NONE"
    return not apart or (content.strip(), reasoning.strip()) == (one.content.strip(), one.reasoning.strip())


def fenced(one: Conversation) -> bool:
    """Whether there is a fence around JSON that has a schema. Here, the grammar of the schema allows none."""
    return one.has_schema and "```" in one.text


def test_most_of_the_file_is_used(answers: list[tuple[Conversation, list[Read]]]) -> None:
    assert len(answers) > 300
    assert len({one.template for one, _ in answers}) > 35


def test_single_letters_are_read_as_the_whole(answers: list[tuple[Conversation, list[Read]]]) -> None:
    assert [(one.template, one.line) for one, (letters, whole) in answers if letters != whole] == []


def test_answers_are_read_as_expected(answers: list[tuple[Conversation, list[Read]]]) -> None:
    compared = [(one, whole) for one, (_, whole) in answers if not (one.partial or one.special or fenced(one))]
    wrong = [(one.template, one.line) for one, whole in compared if not same(one, whole)]
    assert Counter(name for name, _ in wrong) == DIFFERENT, wrong
