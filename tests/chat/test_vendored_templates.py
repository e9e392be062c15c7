"""All chat templates in llama.cpp's source render conversations of every shape, and nothing is lost."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from llamaserver.api.chat_template import ChatTemplate
from llamaserver.api.fields import Fields
from llamaserver.api.messages import read_messages, read_tools
from llamaserver.errors import ServerError
from llamaserver.llama.templates import LlamaTemplates

from tests.support.vendored import vendored_templates

JSON = dict[str, Any]

SYSTEM = {"role": "system", "content": "zucchini"}
LATER = {"role": "system", "content": "yam"}
DEVELOPER = {"role": "developer", "content": "zucchini"}
ASK = {"role": "user", "content": "apricot"}
ANSWER = {"role": "assistant", "content": "banana"}
ASK_MORE = {"role": "user", "content": "cherry"}
ANSWER_MORE = {"role": "assistant", "content": "damson"}
THOUGHT = {"reasoning_content": "walnut"}


def turn(*values: str, content: str | None = None, **more: str) -> list[JSON]:
    """An assistant's message with a call for each value, and the results, as clients of OpenAI's API send them."""
    calls, results = [], []
    for place, (value, result) in enumerate(zip(values, ("saffron", "thyme"), strict=False)):
        name = f"call_{place:020}{value}"  # longer than Mistral's
        arguments = json.dumps({"parsnip": value, "number": 7, "flag": True})
        calls.append({"id": name, "type": "function", "function": {"name": "tangerine", "arguments": arguments}})
        results.append({"role": "tool", "tool_call_id": name, "content": result})
    return [{"role": "assistant", "content": content, "tool_calls": calls, **more}, *results]


def parts(role: str, *texts: str) -> JSON:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts]}


FENNEL = {"type": "object", "properties": {"fennel": {"type": "string", "description": "peppermint"}}}
TOOLS = [
    {"type": "function", "function": {"name": "tangerine", "description": "dandelion", "parameters": FENNEL}},
    {"type": "function", "function": {"name": "nectarine"}},
]
TOOL_WORDS = ("tangerine", "dandelion", "fennel", "nectarine")

PLAIN: dict[str, list[JSON]] = {
    "user": [ASK],
    "system and user": [SYSTEM, ASK],
    "developer": [DEVELOPER, ASK],
    "system and developer": [SYSTEM, {"role": "developer", "content": "yam"}, ASK],
    "many turns": [ASK, ANSWER, ASK_MORE, ANSWER_MORE, {"role": "user", "content": "fig"}],
    "many turns after a system message": [SYSTEM, ASK, ANSWER, ASK_MORE],
    "system messages together": [SYSTEM, LATER, ASK],
    "system in the middle": [ASK, ANSWER, SYSTEM, ASK_MORE],
    "system in the middle again": [SYSTEM, ASK, ANSWER, LATER, ASK_MORE],
    "system after a user": [ASK, SYSTEM, ANSWER, ASK_MORE],
    "system at the end": [ASK, ANSWER, ASK_MORE, SYSTEM],
    "developer in the middle": [ASK, ANSWER, DEVELOPER, ASK_MORE],
    "users together": [ASK, ASK_MORE],
    "assistants together": [ASK, ANSWER, ANSWER_MORE, ASK_MORE],
    "assistant first": [ANSWER, ASK],
    "an empty answer": [ASK, {"role": "assistant", "content": ""}, ASK_MORE],
    "content parts": [parts("system", "zucchini"), parts("user", "apricot", "cherry")],
    "content parts of an answer": [parts("user", "apricot"), parts("assistant", "banana", "damson"), ASK_MORE],
    "reasoning history": [ASK, ANSWER | THOUGHT, ASK_MORE, ANSWER_MORE | THOUGHT],
}
CALLS: dict[str, list[JSON]] = {
    "result": [ASK, *turn("quince")],
    "system and result": [SYSTEM, ASK, *turn("quince")],
    "result and more turns": [SYSTEM, ASK, *turn("quince"), ANSWER, ASK_MORE],
    "result and a user": [SYSTEM, ASK, *turn("quince"), ASK_MORE],
    "result and a system message": [SYSTEM, ASK, *turn("quince"), LATER],
    "text and a call": [ASK, *turn("quince", content="banana")],
    "text and a call and more turns": [SYSTEM, ASK, *turn("quince", content="banana"), ANSWER_MORE, ASK_MORE],
    "calls together": [ASK, *turn("quince", "rhubarb")],
    "calls together and more turns": [DEVELOPER, ASK, *turn("quince", "rhubarb"), ANSWER_MORE, LATER, ASK_MORE],
    "calls in a row": [SYSTEM, ASK, *turn("quince"), *turn("rhubarb"), ANSWER],
    "reasoning and a call": [ASK, *turn("quince", **THOUGHT)],
    "reasoning, text and calls": [ASK, *turn("quince", "rhubarb", content="banana", **THOUGHT), ANSWER_MORE, ASK_MORE],
    "a result in parts": [ASK, *turn("quince")[:1], turn("quince")[1] | parts("tool", "saffron")],
    "an old function call": [
        ASK,
        {"role": "assistant", "content": None, "function_call": {"name": "tangerine", "arguments": "{}"}},
        {"role": "function", "name": "tangerine", "content": "saffron"},
    ],
}
WITH_TOOLS = {f"tools: {name}": messages for name, messages in (PLAIN | CALLS).items()}
CASES = [
    *((name, messages, []) for name, messages in (PLAIN | CALLS).items()),
    *((name, messages, TOOLS) for name, messages in WITH_TOOLS.items()),
]


@pytest.fixture(scope="module")
def templates() -> dict[str, ChatTemplate]:
    builtin = LlamaTemplates()
    return {name: ChatTemplate(text, builtin, "<BOS>", "<EOS>") for name, text in vendored_templates().items()}


def words(messages: list[JSON]) -> Iterator[str]:
    """All that was said."""
    for message in messages:
        content = message["content"]
        yield from (part["text"] for part in content) if isinstance(content, list) else [content or ""]
        for call in message.get("tool_calls", ()):
            yield call["function"]["name"]
            yield json.loads(call["function"]["arguments"])["parsnip"]


def prompt(template: ChatTemplate, messages: list[JSON], tools: list[JSON]) -> str:
    fields = Fields({"messages": messages, "tools": tools})
    read = read_messages(fields, [])
    generate = read[-1]["role"] != "assistant"
    return template.render(read, read_tools(fields), generate=generate, variables={})


def missing(template: ChatTemplate, messages: list[JSON], tools: list[JSON]) -> list[str]:
    """The words that a prompt lacks."""
    try:
        text = prompt(template, messages, tools)
    except ServerError as error:
        return [error.message]
    return [word for word in (*words(messages), *(TOOL_WORDS if tools else ())) if word not in text]


def test_there_are_seventy(templates: dict[str, ChatTemplate]) -> None:
    assert len(templates) == 70


@pytest.mark.parametrize(("messages", "tools"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_nothing_is_lost(templates: dict[str, ChatTemplate], messages: list[JSON], tools: list[JSON]) -> None:
    lost = {name: missing(template, messages, tools) for name, template in templates.items()}
    assert {name: lacks for name, lacks in lost.items() if lacks} == {}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "object"},
        {
            "type": "object",
            "properties": {"inner": {"type": "object", "properties": {}}},
            "additionalProperties": False,
        },
        {"type": "array"},
        {"type": "array", "items": {"type": "object", "properties": {"inner": {"type": "integer"}}}},
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        {"enum": ["one", 2]},
        {"$ref": "#/$defs/Inner"},
        {},
    ],
    ids=str,
)
def test_tools_with_schemas_of_every_form(templates: dict[str, ChatTemplate], schema: Any) -> None:
    function = {"name": "tangerine", "parameters": {"type": "object", "properties": {"fennel": schema}}}
    for name, template in templates.items():
        text = prompt(template, [SYSTEM, ASK], [{"type": "function", "function": function}])
        assert all(word in text for word in ("tangerine", "fennel", "zucchini", "apricot")), name


def test_arguments_are_written_as_the_template_has_them(templates: dict[str, ChatTemplate]) -> None:
    """Neither quoted twice nor in Python's form."""
    for name, template in templates.items():
        text = prompt(template, [ASK, *turn("quince")], [])
        assert "{'parsnip'" not in text, name
        assert '\\"parsnip' not in text, name


def test_reasoning_reaches_the_templates_that_take_it(templates: dict[str, ChatTemplate]) -> None:
    taking = {name: template for name, template in templates.items() if template.capabilities.reasoning}
    last = [ASK, ANSWER | THOUGHT]
    call = [ASK, *turn("quince", **THOUGHT)]
    lost = [
        name
        for name, template in taking.items()
        if not any("walnut" in prompt(template, m, TOOLS) for m in (last, call))
    ]
    assert lost == []
    assert len(taking) > 25


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        ("Qwen-Qwen3-0.6B", {"tools", "tool_calls", "parallel_tool_calls", "system", "reasoning"}),
        ("meta-llama-Llama-3.1-8B-Instruct", {"tools", "tool_calls", "system"}),
        ("google-gemma-2-2b-it", set()),
        ("mistralai-Mistral-Nemo-Instruct-2407", {"tools", "tool_calls", "parallel_tool_calls"}),
        ("openai-gpt-oss-120b", {"tools", "tool_calls", "system", "reasoning", "reasoning_effort", "developer"}),
        ("deepseek-ai-DeepSeek-V3.1", {"tool_calls", "parallel_tool_calls", "system"}),
        ("microsoft-Phi-3.5-mini-instruct", {"system"}),
    ],
)
def test_capabilities(templates: dict[str, ChatTemplate], name: str, capabilities: set[str]) -> None:
    can = templates[name].capabilities
    asked = ("tools", "tool_calls", "parallel_tool_calls", "system", "reasoning", "reasoning_effort", "developer")
    assert {each for each in asked if getattr(can, each)} == capabilities
    assert can.string_content
