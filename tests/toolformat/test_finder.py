"""Formats of templates that are not among llama.cpp's."""

from typing import Any

import pytest
from llamaserver.toolformat.finder import find_format
from llamaserver.toolformat.form import Mode
from llamaserver.toolformat.marks import common_prefix, common_suffix, first_piece, pieces, trigger


def template(begin: str, end: str) -> Any:
    """Renders calls as Hermes does, between other marks."""

    def render(messages: Any, tools: Any, generate: bool) -> str:
        text = ""
        for message in messages:
            text += f"<{message['role']}>{message['content']}"
            for call in message.get("tool_calls", ()):
                text += begin + str(call["function"]).replace("'", '"') + end
            text += "</s>\n"
        return text + ("<assistant>" if generate else "")

    return render


def test_marks_are_what_is_around_the_call() -> None:
    form = find_format(template("<CALL>", "<END>"), "")
    assert form is not None
    assert (form.mode, form.call) == (Mode.JSON, ("<CALL>", "<END>"))
    assert (form.turn, form.name_path, form.arguments_path) == ("<assistant>", ("name",), ("arguments",))


def test_a_template_that_writes_no_calls_has_no_format() -> None:
    assert find_format(lambda messages, tools, generate: "nothing", "") is None


@pytest.mark.parametrize("text", ["[" * 200_000, "{" * 200_000, "<" * 50_000, "<think>" + " " * 20_000])
def test_hostile_templates_have_no_format_or_another(text: str) -> None:
    """Finding out ends, with whatever result."""
    for size in (len(text), 20_000):
        find_format(template(text[:size], "x"), "<think></think>")


def test_pieces() -> None:
    assert pieces("<a> b[TOOL_CALLS]{x}<") == ["<a>", " ", "b", "[TOOL_CALLS]", "{x}", "<"]
    assert common_prefix("<a>xy", "<a>xz") == "<a>"
    assert common_suffix("xy</a>", "zy</a>") == "</a>"
    assert first_piece(" <a>b") == "<a>"
    assert first_piece("") == ""


def test_what_a_mark_is_recognised_by() -> None:
    assert trigger("<a>\n<b=") == "<a>"
    assert trigger("]<]x[>[<b>") == "]<]x[>"
    assert trigger("Action:\n```json") == "Action:\n```json"
