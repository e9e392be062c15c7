"""What a reader makes of the engine's events."""

import json
from typing import Any

import pytest
from llamaserver.api.answer import join
from llamaserver.api.answer_reader import AnswerReader, ToolCall
from llamaserver.interfaces.output import Delta, Finish, Timings
from llamaserver.toolformat.events import Content
from llamaserver.toolformat.form import Format, Mode
from llamaserver.toolformat.parser import Parser

FORM = Format(
    Mode.JSON, think=("<think>", "</think>"), call=("<call>", "</call>"), name_path=("name",), arguments_path=("args",)
)
CALL = '<call>{"name": "f", "args": {"n": 1}}</call>'


def finish(content: str = "", reason: str = "eos", word: str = "") -> Finish:
    return Finish(content, reason, word, False, 1, 0, 1, 0, Timings(1, 1.0, 1, 1.0, 0))


def reader(**options: Any) -> AnswerReader:
    return AnswerReader(Parser(FORM, {"f": {}}), **options)


def test_text_passes_through() -> None:
    plain = AnswerReader(None)
    assert plain.feed(Delta(" a <call>")) == [Content(" a <call>")]
    assert plain.feed(Delta("")) == []
    assert plain.feed(finish("b", "word", "END")) == [Content("b")]
    assert (plain.plain, plain.stop_reason, plain.stopping_word) == (True, "stop", "END")


def test_a_whole_answer() -> None:
    one = reader()
    message = one.message(join([Delta("<think>Hm.</think>Wait. "), Delta(CALL + "<call>"), finish(CALL[6:])]))
    assert (message.reasoning, message.content, one.stop_reason) == ("Hm.", "Wait.", "tool_calls")
    assert [(call.name, json.loads(call.arguments)) for call in message.calls] == [("f", {"n": 1})] * 2
    assert one.finish.content == CALL[6:]


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("Yes.", "eos", "stop"),
        ("Yes.", "limit", "length"),
        (CALL, "eos", "tool_calls"),
        (CALL, "limit", "length"),
        (CALL[:-12], "limit", "length"),
        (CALL[:-12], "eos", "length"),  # no client can use such a call
    ],
)
def test_why_it_has_ended(text: str, reason: str, expected: str) -> None:
    one = reader()
    one.message(join([Delta(text), finish("", reason)]))
    assert one.stop_reason == expected


def test_ids() -> None:
    calls: list[ToolCall] = []
    for short in (False, True):
        calls += reader(short_ids=short).message(join([Delta(CALL * 2), finish()])).calls
    ids = [call.id for call in calls]
    assert len(set(ids)) == 4
    assert [len(one) for one in ids] == [29, 29, 9, 9]
    assert all(one.startswith("call_") for one in ids[:2])
    assert all(one.isalnum() for one in ids[2:])
