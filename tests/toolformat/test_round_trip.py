"""What the templates of llama.cpp's source write is read back: reasoning, content and calls, in pieces of any size."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from llamaserver.api.chat_template import ChatTemplate
from llamaserver.llama.templates import LlamaTemplates
from llamaserver.toolformat.events import Arguments, Call, Content, End, Event, Reasoning
from llamaserver.toolformat.finder import find_format
from llamaserver.toolformat.form import Format, Mode
from llamaserver.toolformat.marks import common_prefix, common_suffix, same_letters
from llamaserver.toolformat.parser import Parser

from tests.support.vendored import vendored_templates

JSON = dict[str, Any]

USER = {"role": "user", "content": "Weather in Rome?"}
TYPES = {"city": "string", "days": "integer", "wide": "boolean", "code": "string", "more": "object"}
PARAMETERS = {"type": "object", "properties": {name: {"type": kind, "description": ""} for name, kind in TYPES.items()}}
NAMES = ("get_weather", "run_code")
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": PARAMETERS}} for name in NAMES
]
FUNCTIONS = dict.fromkeys(NAMES, PARAMETERS)
CODE = "if a < b and c > 1:\n    print(\"x\\n\", '<b>')\n"
ONE = ("get_weather", {"city": "Rome", "days": 3, "wide": True})
OTHER = ("run_code", {"code": CODE, "more": {"deep": [1, "two", None]}})


@dataclass(frozen=True)
class Answer:
    """What a model says, or what was read of it."""

    content: str = ""
    calls: tuple[tuple[str, JSON], ...] = ()
    reasoning: str = ""


ANSWERS = {
    "content": Answer("It is sunny."),
    "one call": Answer(calls=(ONE,)),
    "code": Answer(calls=(OTHER,)),
    "two calls": Answer(calls=(ONE, OTHER)),
    "content and a call": Answer("Let me look.", (ONE,)),
    "reasoning": Answer("It is sunny.", reasoning="Easy."),
    "reasoning and a call": Answer(calls=(ONE,), reasoning="I must look."),
}


@dataclass(frozen=True)
class Model:
    """A template and its format."""

    template: ChatTemplate
    form: Format

    def written(self, answer: Answer) -> tuple[str, str]:
        """What the template has begun, and what the model wrote after that."""
        message: JSON = {"role": "assistant", "content": answer.content}
        if answer.reasoning:
            message |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), answer.reasoning)
        if answer.calls:
            message["tool_calls"] = [
                {"id": f"{place:09}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for place, (name, arguments) in enumerate(answer.calls)
            ]
        before, prompt, whole = self._text(), self._text(generate=True), self._text(message)
        begun, begin = (
            prompt.removeprefix(before),
            next((text for text in (prompt, before) if whole.startswith(text)), ""),
        )
        think, think_end = self.form.think
        left_out = answer.reasoning in whole and think in begun and think not in whole.removeprefix(before)
        if answer.reasoning and left_out:  # what the prompt begins a thought with
            begin = same_letters(prompt, whole)
        elif begin:
            begun = begin.removeprefix(before)
        else:  # the template writes something after the last message
            place = whole.rfind("Rome?") + len("Rome?")
            turn = self.form.turn.strip()
            begin = (
                whole[: whole.find(turn, place) + len(turn)]
                if turn
                else common_prefix(prompt, whole).removesuffix(think)
            )
        text = whole[len(begin) :]
        text = text.removesuffix(common_suffix(text, self._end()))
        if think and begun.rstrip().endswith(think) and think_end not in text:
            text = think_end + text  # the template writes content inside the thought that the prompt begins
        return begun, text

    def _end(self) -> str:
        """What follows an answer: the end of a turn, which the engine does not show."""
        return self._text({"role": "assistant", "content": "plain"}).rpartition("plain")[2]

    def _text(self, *messages: JSON, generate: bool = False) -> str:
        return self.template.render([USER, *messages], TOOLS, generate=generate, variables={})


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    found = {}
    builtin = LlamaTemplates()
    for name, source in vendored_templates().items():
        template = ChatTemplate(source, builtin, "<BOS>", "<EOS>")
        form = find_format(
            lambda messages, tools, generate, at=template: at.render(messages, tools, generate=generate, variables={}),
            source,
        )
        assert form is not None, name
        found[name] = Model(template, form)
    return found


def cut(text: str, size: int) -> Iterator[str]:
    """A text in pieces of a size. 0 is pieces of random sizes."""
    sizes = random.Random(len(text))
    place = 0
    while place < len(text):
        step = size or sizes.randint(1, 9)
        yield text[place : place + step]
        place += step


def parsed(model: Model, begun: str, text: str, size: int) -> Answer:
    parser = Parser(model.form, FUNCTIONS, begun)
    events: list[Event] = [event for piece in cut(text, size) for event in parser.feed(piece)]
    answer = read(events + parser.close())
    if answer.calls:  # tokens that end a turn after calls, which the engine does not show
        return replace(answer, content=re.sub(r"\s*(<[^<>\s]+>\s*)+$", "", answer.content))
    return answer


def read(events: list[Event]) -> Answer:
    """Calls must be complete, and their arguments parse."""
    calls: list[tuple[str, str]] = []
    texts = {Content: "", Reasoning: ""}
    for event in events:
        match event:
            case Call(name):
                calls.append((name, ""))
            case Arguments(text):
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
            case Content(text) | Reasoning(text):
                texts[type(event)] += text
    assert sum(isinstance(event, End) for event in events) == len(calls)
    return Answer(texts[Content], tuple((name, json.loads(text)) for name, text in calls), texts[Reasoning])


def keeps(model: Model, answer: Answer) -> Answer:
    """The answer without reasoning that the template does not write, and with "" where it writes nothing for null."""
    text = model.written(answer)[1]
    calls = (
        answer.calls
        if re.search("null|None", text)
        else tuple((name, without_null(each)) for name, each in answer.calls)
    )
    return Answer(answer.content, calls, answer.reasoning if answer.reasoning in text else "")


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_null(each) for key, each in value.items()}
    return [without_null(each) for each in value] if isinstance(value, list) else "" if value is None else value


def can_write(model: Model, answer: Answer) -> bool:
    """Whether the template writes this into one turn. `api/history.py` makes several turns of it otherwise."""
    can = model.template.capabilities
    return not (answer.calls and answer.content and not can.text_with_calls) and not (
        len(answer.calls) > 1 and not can.parallel_tool_calls and can.tool_calls
    )


SELDOM = {  # what is not read back, and why
    "LFM2.5-8B-A1B": ("code", "two calls"),  # the template does not escape quotation marks in strings
    "NVIDIA-Nemotron-Nano-v2": ("content and a call",),  # ends the turn after the content, if the message is the last
}


@pytest.mark.parametrize("size", [1, 0, 1 << 20], ids=["letters", "random pieces", "whole"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_read_back(models: dict[str, Model], name: str, size: int) -> None:
    answer, wrong = ANSWERS[name], []
    for each, model in models.items():
        if not can_write(model, answer):
            continue
        begun, text = model.written(answer)
        try:
            same = parsed(model, begun, text, size) == keeps(model, answer)
        except (AssertionError, ValueError):
            same = False
        if same is (name in SELDOM.get(each, ())):
            wrong.append(each)
    assert wrong == []


def test_all_but_two_templates_are_read_back_wholly(models: dict[str, Model]) -> None:
    assert len(models) - len(SELDOM) == 68


def well_formed(events: list[Event]) -> bool:
    """Arguments are inside calls, and calls are not inside each other."""
    calling = False
    for event in events:
        if isinstance(event, Arguments | End) and not calling:
            return False
        calling = isinstance(event, Call) or (calling and isinstance(event, Arguments))
    return True


def hostile(text: str) -> Iterator[tuple[int, str]]:
    """Each place of a text, and what is there in place of a letter: nothing and the end, or something else."""
    for place in range(len(text)):
        after = text[place : place + 1]
        yield from ((place, one) for one in ("", "{", "<" + after, '"' + after))


def test_no_cut_and_no_corruption_is_an_error(models: dict[str, Model]) -> None:
    """At every place in the answers of every template. What is after a corruption is fed with it."""
    formats = {model.form: model for model in models.values()}  # many templates share a format
    assert {form.mode for form in formats} == set(Mode)
    count = 0
    for model in formats.values():
        begun, text = model.written(ANSWERS["two calls" if can_write(model, ANSWERS["two calls"]) else "one call"])
        for place, corruption in hostile(text):
            parser = Parser(model.form, FUNCTIONS, begun)
            pieces = (text[:place], corruption + text[place + 1 :] if corruption else "")
            events = [event for piece in pieces for event in parser.feed(piece)] + parser.close()
            assert well_formed(events), (model.form, pieces)
            count += 1
    assert count > 20_000
