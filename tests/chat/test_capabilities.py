"""What is found out about templates that are not among llama.cpp's."""

import pytest
from llamaserver.api import chat_template
from llamaserver.api.capabilities import Capabilities
from llamaserver.api.chat_template import ChatTemplate
from llamaserver.llama.templates import LlamaTemplates

USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
SMOLVLM = (
    "{% for message in messages %}{{ message['role'] | capitalize }}{{ ': ' }}{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, LlamaTemplates())


def test_a_template_that_takes_parts_only() -> None:
    vision = template(SMOLVLM)
    assert (vision.capabilities.string_content, vision.capabilities.typed_content) == (False, True)
    assert vision.render([SYSTEM, USER], generate=True, variables={}) == (
        "System: Be brief.<end_of_utterance>\nUser: Hi<end_of_utterance>\nAssistant:"
    )


def test_a_template_that_writes_parts_as_a_list_does_not_take_them() -> None:
    plain = template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert (plain.capabilities.string_content, plain.capabilities.typed_content) == (True, False)


@pytest.mark.parametrize(("name", "system"), [("chatml", True), ("llama2", True), ("gemma", True), ("phi3", True)])
def test_formats_that_llama_cpp_knows_by_name(name: str, system: bool) -> None:
    named = template(name)
    assert named.capabilities.system is system
    assert not named.capabilities.tool_calls
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    history = [USER, {"role": "assistant", "content": "", "tool_calls": [call]}]
    text = named.render([SYSTEM, *history], generate=True, variables={})
    assert all(word in text for word in ("Hi", "Be brief.", '"name": "f"', '{"a": 1}'))


def test_a_developer_is_the_system_unless_the_template_has_the_word() -> None:
    chatml = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    developer = [{"role": "developer", "content": "Be brief."}, USER]
    assert template(chatml).render(developer, generate=True, variables={}) == "<system>Be brief.<user>Hi"
    knows = chatml + "{# role developer #}"
    assert template(knows).render(developer, generate=True, variables={}) == "<developer>Be brief.<user>Hi"


def test_a_template_that_refuses_plain_chats_gets_messages_as_they_are() -> None:
    strict = template("{{ raise_exception('language, please') if not language is defined }}{{ messages }}")
    assert strict.capabilities == Capabilities()
    text = strict.render([SYSTEM, USER], generate=True, variables={"language": "de"})
    assert text == str([SYSTEM, USER])


def test_a_template_that_changes_its_messages_changes_nothing_else() -> None:
    greedy = template("{% for m in messages %}{{ m.content }}{% endfor %}{% set _ = messages.append(messages[0]) %}")
    assert greedy.capabilities == greedy.capabilities
    assert template(greedy.source).capabilities == greedy.capabilities
    assert greedy.render([USER], generate=True, variables={}) == "Hi"


def test_finding_out_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each short chat has its own limit."""
    monkeypatch.setattr(chat_template, "_PROBE_SECONDS", 0.01)
    endless = template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    assert endless.capabilities == Capabilities()


def test_names_of_llama_server() -> None:
    """As common/jinja/caps.cpp has them."""
    names = (
        "string_content", "typed_content", "tools", "tool_calls", "parallel_tool_calls", "system_role",
        "preserve_reasoning", "reasoning_effort", "object_arguments",
    )  # fmt: skip
    assert {f"supports_{name}" for name in names} < Capabilities().by_name().keys()
