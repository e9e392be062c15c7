"""The parser at what is not, or not wholly, in the format."""

import json
from dataclasses import replace
from typing import Any

import pytest
from llamaserver.toolformat.events import Arguments, Call, Content, End, Event, Reasoning
from llamaserver.toolformat.form import NAME_HERE, Format, Mode
from llamaserver.toolformat.parser import Parser
from llamaserver.toolformat.values import python_source

PARAMETERS = {"properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}
TOOLS = {"f": PARAMETERS, "g": {}}
HERMES = Format(
    Mode.JSON,
    turn="<|im_start|>assistant\n",
    think=("<think>", "</think>"),
    call=("<tool_call>", "</tool_call>"),
    name_path=("name",),
    arguments_path=("arguments",),
    id_path=("id",),
)
LLAMA = Format(Mode.JSON, name_path=("name",), arguments_path=("parameters",))
QWEN = Format(
    Mode.TAGGED,
    call=("<tool_call>\n<function=", "</function>\n</tool_call>"),
    name_end=">",
    argument=("<parameter=", "\n</parameter>"),
    key_end=">\n",
)
MISTRAL = Format(Mode.TAG_JSON, call=("[TOOL_CALLS]", ""), name_end="[CALL_ID]", id_end="[ARGS]")
DEEPSEEK = Format(Mode.TAG_JSON, section=("<calls>", "</calls>"), call=("<call>", "</call>"), name_end="<sep>")
GEMMA = Format(Mode.GEMMA, call=("<|tool_call>call:", "<tool_call|>"))
PYTHON = Format(Mode.PYTHON, call=("<|tool_call_start|>", "<|tool_call_end|>"))
HARMONY = Format(Mode.HARMONY, turn="<|start|>assistant")


def events(form: Format, text: str, *, prompt: str = "", size: int = 1) -> list[Event]:
    """All events, with neighbours of one kind joined."""
    parser = Parser(form, TOOLS, prompt)
    found = [event for place in range(0, len(text), size) for event in parser.feed(text[place : place + size])]
    joined: list[Any] = []
    for event in found + parser.close():
        if joined and type(joined[-1]) is type(event) and isinstance(event, Content | Reasoning | Arguments):
            joined[-1] = type(event)(joined[-1].text + event.text)
        else:
            joined.append(event)
    return joined


CALL = [Call("f"), Arguments('{"n": 1}'), End()]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'),
        (HERMES, '<tool_call>{"arguments": {"n": 1}, "more": [{}], "name": "f"}</tool_call>'),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"n\\": 1}"}'),
        (LLAMA, '{"name": "f", "parameters": {"n": 1}}'),
        (QWEN, "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"),
        (DEEPSEEK, '<calls><call>f<sep>{"n": 1}</call></calls>'),
        (GEMMA, "<|tool_call>call:f{n:1}<tool_call|>"),
        (PYTHON, "<|tool_call_start|>[f(n=1)]<|tool_call_end|>"),
        (HARMONY, '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"n": 1}<|call|>'),
    ],
)
def test_a_call(form: Format, text: str, size: int) -> None:
    assert events(form, text, size=size) == CALL


def test_ids() -> None:
    assert events(MISTRAL, '[TOOL_CALLS]f[CALL_ID]abc[ARGS]{"n": 1}') == [Call("f", "abc"), *CALL[1:]]
    assert events(HERMES, '<tool_call>{"id": "x", "name": "f", "arguments": {"n": 1}}') == [Call("f", "x"), *CALL[1:]]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "arguments": {"n": 1}}</tool_call><tool_call>{"name": "f", "arguments": {"n": 1}}',
        '<tool_call>[{"name": "f", "arguments": {"n": 1}}, {"name": "f", "arguments": {"n": 1}}]</tool_call>',
    ],
)
def test_several_calls(text: str) -> None:
    assert events(HERMES, text) == CALL * 2


def test_several_calls_without_marks() -> None:
    one = '{"name": "f", "parameters": {"n": 1}}'
    assert events(LLAMA, f"{one}; {one}") == CALL * 2
    assert events(LLAMA, f"[{one}, {one}]") == CALL * 2


def test_content_around_calls() -> None:
    text = 'Wait.\n\n<tool_call>{"name": "f", "arguments": {"n": 1}}</tool_call>\nDone. '
    assert events(HERMES, text) == [Content("Wait."), *CALL, Content("\n\nDone. ")]


def test_text_without_calls_is_all_there_at_once() -> None:
    parser = Parser(HERMES, TOOLS)
    assert parser.feed("Two < three") == [Content("Two < three")]
    assert parser.feed(" <tool") == []
    assert parser.feed("box>") == [Content(" <toolbox>")]


def test_reasoning() -> None:
    assert events(HERMES, "<think>\nHm. \n</think>\n\nYes.") == [Reasoning("Hm."), Content("Yes.")]
    begun = events(HERMES, "Hm.\n</think>\n\nYes.", prompt="<|im_start|>assistant\n<think>\n")
    assert begun == [Reasoning("Hm."), Content("Yes.")]
    ended = events(HERMES, "Yes.", prompt="<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert ended == [Content("Yes.")]
    assert events(HERMES, "<think>Hm") == [Reasoning("Hm")]


def test_channels() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
    assert events(HARMONY, text) == [Reasoning("Hm."), Content("Yes.")]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, '<tool_call>{"name": "nobody", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": {}, "arguments": {}}</tool_call>'),
        (HERMES, "<tool_call>soon</tool_call>"),
        (HERMES, '<tool_call>{"name": "f'),
        (HERMES, "<tool_call>"),
        (HERMES, "<tool_call>{}</tool_call>"),
        (LLAMA, '{"answer": 42}'),
        (LLAMA, "[1, 2, 3]"),
        (LLAMA, "{"),
        (QWEN, "<tool_call>\n<function=nobody>\n</function>\n</tool_call>"),
        (QWEN, "<tool_call>\n<function=" + "f" * 5000),
        (DEEPSEEK, "<calls>none</calls>"),
        (GEMMA, "<|tool_call>call:nobody{}<tool_call|>"),
        (PYTHON, "<|tool_call_start|>[f(1)]<|tool_call_end|>"),
        (PYTHON, "<|tool_call_start|>[import os]<|tool_call_end|>"),
        (PYTHON, "<|tool_call_start|>[f(n=__import__('os'))]<|tool_call_end|>"),
        (PYTHON, "<|tool_call_start|>[" + "(" * 5000 + "]<|tool_call_end|>"),
        (PYTHON, "<|tool_call_start|>[f(n=" + "-" * 50_000 + "1)]<|tool_call_end|>"),
    ],
)
def test_what_is_no_call_is_content(form: Format, text: str) -> None:
    """Nothing of it is lost."""
    assert events(form, text, size=50) == [Content(text)]


def test_only_what_follows_the_last_whole_call_is_content() -> None:
    text = '<tool_call>[{"name": "f", "arguments": {"n": 1}}, {"name": "nobody"}]</tool_call>'
    assert events(HERMES, text) == [*CALL, Content(', {"name": "nobody"}]</tool_call>')]


@pytest.mark.parametrize(
    ("form", "text", "arguments"),
    [
        (HERMES, '<tool_call>{"name": "f", "arguments": {"n": 1, "s": "ab', '{"n": 1, "s": "ab'),
        (QWEN, "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n<parameter=s>\nab", '{"n": 1'),
        (GEMMA, "<|tool_call>call:f{n:1,", '{"n": 1'),
    ],
)
def test_a_call_that_is_cut_off_has_no_end(form: Format, text: str, arguments: str) -> None:
    assert events(form, text) == [Call("f"), Arguments(arguments)]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1), ("01", "01"), ("true", True), ("True", True), ("None", None), ("null", None), ("Rome", "Rome"),
        ('{"a": [1]}', {"a": [1]}), ("{'a': (1, 2)}", {"a": [1, 2]}), ("NaN", "NaN"), ("{1, 2}", "{1, 2}"),
        ("<![CDATA[x]]>", "x"), ("a\nb", "a\nb"), ("'\\ud83d'", "?"),
    ],
)  # fmt: skip
def test_values_in_tags(written: str, value: object) -> None:
    text = f"<tool_call>\n<function=g>\n<parameter=v>\n{written}\n</parameter>\n</function>\n</tool_call>"
    _, arguments, _ = events(QWEN, text)
    assert isinstance(arguments, Arguments)
    assert json.loads(arguments.text) == {"v": value}


def test_strings_stay_strings() -> None:
    text = "<tool_call>\n<function=f>\n<parameter=s>\n5\n</parameter>\n</function>\n</tool_call>"
    assert events(QWEN, text)[1] == Arguments('{"s": "5"}')


def test_gemmas_values() -> None:
    text = '<|tool_call>call:g{a:<|"|>x,}<|"|>,b:[1,<|"|>y<|"|>,[]],c:{d:true,e:{}},<|"|>f g<|"|>:null}<tool_call|>'
    _, arguments, _ = events(GEMMA, text)
    assert isinstance(arguments, Arguments)
    value = {"a": "x,}", "b": [1, "y", []], "c": {"d": True, "e": {}}, "f g": None}
    assert json.loads(arguments.text) == value


def test_deep_values_end() -> None:
    assert events(GEMMA, "<|tool_call>call:g{a:" + "[" * 5000, size=5000)[0] == Call("g")
    assert events(HERMES, '<tool_call>{"name": "g", "arguments": ' + '{"a":' * 5000, size=5000)[0] == Call("g")


def test_line_ends_in_python_strings() -> None:
    text = "<|tool_call_start|>[f(s='a\nb', n=None)]<|tool_call_end|>"
    assert events(PYTHON, text)[1] == Arguments('{"s": "a\\nb", "n": null}')


def test_a_long_answer_at_once() -> None:
    count = 20_000
    text = "<tool_call>\n<function=g>\n" + "<parameter=v>\n1\n</parameter>\n" * count + "</function>\n</tool_call>"
    _, arguments, end = events(QWEN, text, size=len(text))
    assert isinstance(arguments, Arguments)
    assert arguments.text.count("1") == count
    assert end == End()


def test_a_call_in_a_thought_is_a_call_only_if_the_thought_does_not_end() -> None:
    call = '<tool_call>{"name": "f", "arguments": {"n": 1}}</tool_call>'
    assert events(HERMES, f"<think>Hm. {call}") == [Reasoning("Hm."), *CALL]
    assert events(HERMES, f"<think>Hm. {call} No.</think>Yes.") == [Reasoning(f"Hm. {call} No."), Content("Yes.")]


def test_calls_in_a_thought_that_a_limit_has_cut() -> None:
    call = '<tool_call>{"name": "f", "arguments": {"n": 1}}</tool_call>'
    assert events(HERMES, f"<think>Hm. {call}{call}") == [Reasoning("Hm."), *CALL, *CALL]
    cut = [Call("f"), Arguments('{"n": ')]
    assert events(HERMES, f"<think>Hm. {call}{call[:44]}") == [Reasoning("Hm."), *CALL, *cut]
    assert events(HERMES, f"<think>Hm. {call}<tool_ca") == [Reasoning("Hm."), *CALL, Content("<tool_ca")]


def test_many_calls_in_a_thought_that_does_not_end() -> None:
    """Each call once moved all that follows it."""
    count = 30_000
    parser = Parser(HERMES, TOOLS)
    text = "<think>Hm." + '<tool_call>{"name": "f", "arguments": {}}</tool_call>' * count
    assert parser.feed(text) == [Reasoning("Hm.")]
    assert parser.held == 0
    assert parser.feed("<tool_call>") == []
    assert parser.held == len("<tool_call>")
    assert parser.close().count(Call("f")) == count


def test_much_white_space_between_words() -> None:
    """Each piece of it was once looked at together with all before it."""
    parser = Parser(HERMES, TOOLS)
    assert parser.feed("a") == [Content("a")]
    assert not any(parser.feed(" " * 50) for _ in range(20_000))
    assert parser.feed("b") == [Content(" " * 1_000_000 + "b")]


def test_python_that_takes_long_to_parse_is_content() -> None:
    long = "f(s='" + "x" * 200_000 + "')"
    assert events(PYTHON, f"<|tool_call_start|>[{long}]<|tool_call_end|>", size=5000)[0] == Call("f")
    many = "f(s=[" + "1," * 10_000 + "])"
    [content] = events(PYTHON, f"<|tool_call_start|>[{many}]<|tool_call_end|>", size=5000)
    assert content == Content(f"<|tool_call_start|>[{many}]<|tool_call_end|>")


def test_a_second_thought() -> None:
    prompt = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert events(HERMES, "<think>Hm.</think>Yes.", prompt=prompt) == [Reasoning("Hm."), Content("Yes.")]


def test_marks_that_models_leave_out() -> None:
    assert events(QWEN, "<function=f>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>") == CALL
    assert events(DEEPSEEK, '<call>f<sep>{"n": 1}</call>') == CALL


def test_a_message_to_a_function_that_the_engine_ends() -> None:
    assert events(HARMONY, '<|channel|>commentary to=functions.f<|message|>{"n": 1}') == CALL
    assert events(HARMONY, '<|channel|>commentary to=functions.f<|message|>{"n":')[-1] == Arguments('{"n":')


def test_a_mark_in_a_quoted_value() -> None:
    value = "<![CDATA[a\n</parameter> b]]>"
    text = f"<tool_call>\n<function=f>\n<parameter=s>\n{value}\n</parameter>\n</function>\n</tool_call>"
    assert events(QWEN, text)[1] == Arguments('{"s": "a\\n</parameter> b"}')


def test_the_last_channel_counts() -> None:
    text = "<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm.<|end|>"
    assert events(HARMONY, text) == [Reasoning("Hm.")]


BARE = replace(HERMES, bare=True)


def test_calls_that_may_come_without_a_mark() -> None:
    call = '{"name": "f", "arguments": {"n": 1}}'
    assert events(BARE, call) == CALL
    assert events(BARE, f"\n[{call}, {call}]") == CALL * 2
    assert events(BARE, f"<tool_call>{call}</tool_call>") == CALL
    assert events(BARE, f"Hm. {call}") == [Content(f"Hm. {call}")]
    assert events(HERMES, call) == [Content(call)]


def test_json_that_is_no_call_is_there_at_once() -> None:
    parser = Parser(BARE, TOOLS)
    begun = parser.feed('{"answer": ')
    assert "".join(event.text for event in begun if isinstance(event, Content)) == '{"answer":'
    assert parser.feed("[1, 2]}") == [Content(" [1, 2]}")]


def test_a_call_that_the_prompt_has_begun_goes_on() -> None:
    begun = '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"s": "a'
    assert events(HERMES, 'b"}}\n</tool_call>', prompt=begun) == [Call("f"), Arguments('{"s": "ab"}'), End()]


def test_what_the_prompt_has_begun_is_not_in_the_content() -> None:
    begun = '<|im_start|>assistant\n<tool_call>\n{"name": '
    assert events(HERMES, '"other"}', prompt=begun) == [Content('"other"}')]


def test_strings_without_an_end_take_no_longer() -> None:
    """Each quote was once the begin of a search up to the end of the text."""
    assert python_source("f('" + r"\'" * 200_000 + ", null)") == "f('" + r"\'" * 200_000 + ", null)"
    assert python_source("[null, 'null', \"true\", true") == "[None, 'null', \"true\", True"


def test_many_ends_in_a_quoted_value() -> None:
    value = "<![CDATA[" + "\n</parameter>" * 20_000 + "]]>"
    text = f"<tool_call>\n<function=f>\n<parameter=s>\n{value}\n</parameter>\n</function>\n</tool_call>"
    _, arguments, _ = events(QWEN, text, size=100_000)
    assert isinstance(arguments, Arguments)
    assert len(json.loads(arguments.text)["s"]) > 200_000


NESTED = Format(Mode.NESTED, call=("<f=", "</f>"), name_end=">", argument=("<", "</"), key_end=">")
NESTED_TYPES = {
    "properties": {
        "id": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "deep": {"type": "object", "properties": {"item": {"type": "integer"}, "name": {"type": "string"}}},
    }
}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("<id>5</id>", {"id": "5"}),
        ("<tags><item>1</item>\n<item>b</item></tags>", {"tags": ["1", "b"]}),
        ("<tags></tags><deep></deep>", {"tags": [], "deep": {}}),
        ("<either>5</either>", {"either": "5"}),
        ("<either>null</either>", {"either": None}),
        ("<either><b>x</b></either>", {"either": "<b>x</b>"}),
        ("<deep><item>7</item><name>7</name></deep>", {"deep": {"item": 7, "name": "7"}}),
        ("<deep><item>7</item></deep>", {"deep": {"item": 7}}),
        ("<other><a><item>1</item><item><b>x</b></item></a></other>", {"other": {"a": [1, {"b": "x"}]}}),
        ("<a>1<a>2</a></a>", {"a": "1<a>2</a>"}),
        ("<a><b>1</c></a>", {"a": "<b>1</c>"}),
        ("<a>" + "<x>" * 100 + "</x>" * 100 + "</a>", {"a": "<x>" * 100 + "</x>" * 100}),
        ("", {}),
    ],
)
def test_arguments_in_tags_of_their_names(written: str, value: object) -> None:
    parser = Parser(NESTED, {"f": NESTED_TYPES})
    found = [event for letter in f"<f=f>{written}</f>" for event in parser.feed(letter)] + parser.close()
    assert found[0] == Call("f")
    assert found[-1] == End()
    assert json.loads("".join(event.text for event in found if isinstance(event, Arguments))) == value


def test_many_tags_take_no_longer() -> None:
    """Each was once the begin of a search up to the end of the text."""
    text = "<f=f><a>" + "<b>1</b>" * 20_000 + "</a></f>"
    parser = Parser(NESTED, {"f": {}})
    assert parser.feed(text)[0] == Call("f")
    parser.close()
    Parser(NESTED, {"f": {}}).feed("<f=f><a>" + "<a>" * 50_000)


RECIPIENTS = Format(
    Mode.TAGGED,
    turn="<|start|>bot",
    think=("to=self<|text|>", "<|next|>"),
    content=("to=user<|text|>", "<|eot|>"),
    call=("to=", "</f>"),
    name_end=f'<|text|><f="{NAME_HERE}">',
    argument=('<p="', "</p>"),
    key_end='">',
)


def test_messages_with_recipients() -> None:
    call = 'to=f<|text|><f="f"><p="n">1</p></f>'
    text = f" to=self<|text|>Hm.<|next|><|start|>bot to=user<|text|>I go to=x.<|next|><|start|>bot {call}"
    assert events(RECIPIENTS, text) == [Reasoning("Hm."), Content("I go to=x."), *CALL]
    wrong = call.replace('"f"', '"g"')
    assert events(RECIPIENTS, wrong) == [Content(wrong)]


def test_marks_of_thoughts_after_the_content() -> None:
    form = Format(Mode.JSON, think=("<|thought|>", "<|end|>"), call=("<call>", "</call>"))
    assert events(form, "Yes.<|end|>") == [Content("Yes.")]
    assert events(form, "Yes.<|thought|>Hm.<|end|> No.") == [Content("Yes."), Reasoning("Hm."), Content(" No.")]
    assert events(HERMES, "Write <think>.") == [Content("Write <think>.")]


def test_numbers_of_calls_are_no_ids() -> None:
    form = Format(Mode.TAG_JSON, call=("<call>", "</call>"), name_end=":", id_end="<args>", numbered=True)
    assert events(form, '<call>f:0<args>{"n": 1}</call>') == CALL


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": ["string", "null"]}, "5"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "5"),
        ({"enum": ["5", "6"]}, "5"),
        ({"type": ["string", "number"]}, 5),
        ({"anyOf": [{"type": "string"}, {}]}, 5),
    ],
)
def test_values_in_tags_have_a_type_of_the_schema(schema: Any, value: object) -> None:
    parser = Parser(QWEN, {"f": {"properties": {"v": schema}}})
    found = parser.feed("<tool_call>\n<function=f>\n<parameter=v>\n5\n</parameter>\n</function>\n</tool_call>")
    assert json.loads("".join(event.text for event in found if isinstance(event, Arguments))) == {"v": value}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": ["string", "null"]}, "123", "123"),
        ({"type": ["string", "null"]}, "null", None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "true", "true"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"type": "string"}, "null", "null"),
    ],
)
def test_text_that_looks_like_another_value(schema: Any, text: str, value: object) -> None:
    form = Format(Mode.TAGGED, call=("<f=", "</f>"), name_end=">", argument=("<a=", "</a>"), key_end=">")
    parser = Parser(form, {"f": {"properties": {"a": schema}}})
    read = [*parser.feed(f"<f=f><a=a>{text}</a></f>"), *parser.close()]
    found = "".join(event.text for event in read if isinstance(event, Arguments))
    assert json.loads(found) == {"a": value}
