"""Anthropic's answers: each event and each answer is read by the types of Anthropic's own client."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from llamaserver.api.anthropic_answer import PING, Ending, Head, MessageWriter, event, whole
from llamaserver.interfaces.output import Finish, Timings
from llamaserver.toolformat.events import Arguments, Call, Content, End, Event, Reasoning
from pydantic import TypeAdapter

TIMINGS = Timings(5, 1, 5, 1, 4)
FINISH = Finish("", "eos", "", False, n_prompt=9, n_cached=4, n_decoded=5, id_slot=0, timings=TIMINGS, n_reasoning=3)
ENDED = Ending(FINISH, "end_turn", None)
HEAD = Head("tiny", 9)
STREAMED: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
EVERYTHING: list[Event] = [
    Reasoning("Two "),
    Reasoning("calls."),
    Content("I "),
    Content("look."),
    Call("list", "call_1"),
    Arguments('{"path":'),
    Arguments('"x"}'),
    End(),
    Call("now", "call_2"),
    End(),
    Content("Done."),
]


def events(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream. Each has its type in both places, and is one that Anthropic's client knows."""
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        head, body = block.split("\n")
        one = orjson.loads(body.removeprefix("data: "))
        assert head == f"event: {one['type']}"
        if one["type"] != "ping":
            STREAMED.validate_python(one)
            found.append(one)
    return found


def streamed(written: Sequence[Event], ending: Ending = ENDED) -> list[dict[str, Any]]:
    stream = MessageWriter(HEAD)
    return events(stream.begin(4) + b"".join(stream.add([one]) for one in written) + stream.end(ending))


def answered(written: Sequence[Event], ending: Ending = ENDED) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(whole(HEAD, written, ending))
    Message.model_validate(answer)
    return answer


def test_events_in_their_order() -> None:
    found = streamed(EVERYTHING)
    start = found[0]["message"]
    assert start.pop("id").startswith("msg_")
    assert start == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 0,
        },
    }

    def begin(index: int, **block: Any) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": block}

    def delta(index: int, **delta: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": delta}

    def stop(index: int) -> dict[str, Any]:
        return {"type": "content_block_stop", "index": index}

    assert found[1:-2] == [
        begin(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="Two "),
        delta(0, type="thinking_delta", thinking="calls."),
        delta(0, type="signature_delta", signature=""),
        stop(0),
        begin(1, type="text", text=""),
        delta(1, type="text_delta", text="I "),
        delta(1, type="text_delta", text="look."),
        stop(1),
        begin(2, type="tool_use", id="call_1", name="list", input={}),
        delta(2, type="input_json_delta", partial_json='{"path":'),
        delta(2, type="input_json_delta", partial_json='"x"}'),
        stop(2),
        begin(3, type="tool_use", id="call_2", name="now", input={}),
        stop(3),
        begin(4, type="text", text=""),
        delta(4, type="text_delta", text="Done."),
        stop(4),
    ]
    assert found[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }
    assert found[-1]["type"] == "message_stop"


def test_a_whole_answer() -> None:
    answer = answered(EVERYTHING)
    assert answer["content"] == [
        {"type": "thinking", "thinking": "Two calls.", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_1", "name": "list", "input": {"path": "x"}},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
        {"type": "text", "text": "Done."},
    ]
    assert answer["usage"]["input_tokens"] == 5
    assert answer["usage"]["cache_read_input_tokens"] == 4
    assert answer["usage"]["output_tokens"] == 5


@pytest.mark.parametrize(("reason", "word"), [("stop_sequence", "END"), ("max_tokens", None), ("tool_use", None)])
def test_stop_reasons(reason: str, word: str | None) -> None:
    ending = Ending(FINISH, reason, word)
    assert streamed([], ending)[-2]["delta"] == {"stop_reason": reason, "stop_sequence": word}
    answer = answered([], ending)
    assert (answer["stop_reason"], answer["stop_sequence"], answer["content"]) == (reason, word, [])


def test_a_call_that_is_cut_off() -> None:
    """It ends in a stream, and is left out of a whole answer: a client must not carry it out."""
    cut: list[Event] = [Content("I look."), Call("list", "call_1"), Arguments('{"path":')]
    ending = Ending(FINISH, "max_tokens", None)
    assert streamed(cut, ending)[-3] == {"type": "content_block_stop", "index": 1}
    assert answered(cut, ending)["content"] == [{"type": "text", "text": "I look."}]


def test_events_without_an_answer() -> None:
    assert event("ping", {}) == PING
    assert event("error", {"type": "error", "error": {}}) == b'event: error\ndata: {"type":"error","error":{}}\n\n'


def test_arguments_that_are_no_json_are_left_out() -> None:
    """No grammar restricts a call in a thought."""
    wrong: list[Event] = [Content("I look."), Call("list", "call_1"), Arguments("{path: 1}"), End()]
    assert answered(wrong)["content"] == [{"type": "text", "text": "I look."}]
