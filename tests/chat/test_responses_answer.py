"""OpenAI's Responses answers: each event and each answer is read by the types of OpenAI's own client."""

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from llamaserver.api.fields import Fields
from llamaserver.api.kept_responses import Earlier, KeptResponses
from llamaserver.api.responses_answer import Answer, Ending, Head
from llamaserver.api.responses_input import packed
from llamaserver.api.responses_items import Form
from llamaserver.api.responses_request import read_request
from llamaserver.api.text_tokens import TextTokens
from llamaserver.errors import ContextExceeded, EngineFailure
from llamaserver.interfaces.output import Finish, Timings, TokenProb, TokenProbs
from llamaserver.toolformat.events import Arguments, Call, Content, End, Event, Reasoning
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

FINISH = Finish("", "eos", "", False, n_prompt=9, n_cached=4, n_decoded=5, id_slot=0, timings=Timings(5, 1, 5, 1, 4))
WHOLE = Ending(FINISH, cut=False, reasoning_tokens=2)
CUT = Ending(FINISH, cut=True, reasoning_tokens=2)
NOTHING = Earlier(KeptResponses(0), "", 0)
_UNLISTED = ('"context_length_exceeded"', '"server_error"')  # a code that the client's list of codes lacks
STREAMED: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
EVERYTHING = [
    Reasoning("Two "),
    Reasoning("calls."),
    Content("I "),
    Content("look."),
    Call("list", "call_1"),
    Arguments('{"path":'),
    Arguments('"x"}'),
    End(),
    Call("mcp__docs__search", "call_2"),
    Arguments("{}"),
    End(),
    Content("Done."),
]


def answer(form: Form | None = None) -> Answer:
    return Answer(Head("tiny", read_request(Fields({"input": "Hello"}), NOTHING).echo, form or Form()))


def events(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream. Each has its type in both places, and is one that OpenAI's client knows."""
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        head, body = block.split("\n")
        event = orjson.loads(body.removeprefix("data: "))
        assert head == f"event: {event['type']}"
        STREAMED.validate_python(orjson.loads(body.removeprefix("data: ").replace(*_UNLISTED)))
        found.append(event)
    return found


def streamed(written: Iterable[Event], ending: Ending = WHOLE, form: Form | None = None) -> list[dict[str, Any]]:
    one = answer(form)
    data = one.add([]) + b"".join(one.add([event]) for event in written) + one.end(ending)
    return events(data)


def whole(written: Iterable[Event], ending: Ending = WHOLE, form: Form | None = None) -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(answer(form).whole(written, ending))
    Response.model_validate(value)
    return value


def kinds(told: Iterable[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in told]


def plain(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items without their random ids."""
    return [{key: value for key, value in item.items() if key != "id"} for item in items]


def test_the_events_of_a_text_and_their_order() -> None:
    told = streamed([Content("Hel"), Content("lo")])
    assert kinds(told) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[6]["text"] == told[7]["part"]["text"] == "Hello"
    assert told[8]["item"] == told[9]["response"]["output"][0]
    assert told[0]["response"]["status"] == told[1]["response"]["status"] == "in_progress"
    assert len({event["response"]["id"] for event in told if "response" in event}) == 1
    assert told[-1]["response"]["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }


def test_the_call_of_a_custom_tool() -> None:
    form = Form(custom={"mcp__shout"}, spaces={"mcp__shout": ("mcp", "shout")})
    text = 'say "hi"\n\U0001f600 ok\\'
    parts = ['{"in', 'put": "say \\"hi', '\\"\\', "n\\ud83d", "\\ude", '00 ok\\\\"', "}"]
    written = [Call("mcp__shout", "call_1"), *map(Arguments, parts), End()]
    told = streamed(written, form=form)
    deltas = [event["delta"] for event in told if event["type"] == "response.custom_tool_call_input.delta"]
    assert deltas == ['say "hi', '"', "\n", "\U0001f600 ok\\"]
    [done] = [event for event in told if event["type"] == "response.custom_tool_call_input.done"]
    assert done["input"] == text
    [item] = plain(told[-1]["response"]["output"])
    expected = {"type": "custom_tool_call", "call_id": "call_1", "name": "shout", "namespace": "mcp", "input": text}
    assert item == expected | {"status": "completed"}
    assert plain(whole(written, form=form)["output"]) == [item]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (['{"input": "a'], "a"),  # cut off
        (['{"input": "a\\u00'], "a"),
        (['{"input": "a\\q b"}'], "a"),  # no JSON
        (['{"input": "a"', ', "b": "c"}'], "a"),
        (['{"other": 1}'], '{"other": 1}'),
        (["x" * 300, "y"], "x" * 300 + "y"),
        (['{"input": "\\ud83d', '\\u0041"}'], "?A"),
        (['{"input": ""}'], ""),
        ([], ""),
    ],
)
def test_arguments_of_a_custom_tool_in_any_form(parts: list[str], text: str) -> None:
    written = [Call("shout", "c"), *map(Arguments, parts)]
    [item] = whole(written, CUT, Form(custom={"shout"}))["output"]
    assert (item["input"], item["status"]) == (text, "incomplete")


def tokens(*pieces: str) -> list[TokenProbs]:
    probs = [TokenProb(number, piece.encode(), 0.5) for number, piece in enumerate(pieces)]
    return [TokenProbs(one, (one, TokenProb(99, b"\xc3", 0.25))) for one in probs]


PIECES = ("<think>", "Hm", "</think>", "\n\n", "Hel", "lo", " ", "<call>", "f", "{}", "</call>", "Do", "ne", "")
WRITTEN = [Reasoning("Hm"), Content("Hel"), Content("lo"), Call("f", "c"), Arguments("{}"), End(), Content("Done")]


def test_logprobs_are_those_of_the_tokens_of_messages() -> None:
    form = Form(logprobs=1)
    one = answer(form)
    told = events(one.add([], tokens(*PIECES)) + one.add(WRITTEN) + one.end(WHOLE))
    deltas = [
        [each["token"] for each in event["logprobs"]]
        for event in told
        if event["type"].endswith("text.delta") and "logprobs" in event
    ]
    assert deltas == [["Hel"], ["lo"], ["Do", "ne"]]
    [first, last] = [event for event in told if event["type"] == "response.output_text.done"]
    assert [each["token"] for each in first["logprobs"]] == ["Hel", "lo"]
    assert last["logprobs"][0]["top_logprobs"] == [
        {"token": "Do", "logprob": pytest.approx(-0.693, abs=0.001), "bytes": [68, 111]}
    ]
    found = orjson.loads(answer(form).whole(WRITTEN, WHOLE, tokens(*PIECES)))
    Response.model_validate(found)
    assert plain(told[-1]["response"]["output"])[1:2] == plain(found["output"])[1:2]
    assert found["output"][3]["content"][0]["logprobs"] == last["logprobs"]
    assert whole(WRITTEN)["output"][1]["content"][0]["logprobs"] == []


def test_the_tokens_of_a_text_that_is_not_there_literally() -> None:
    found = TextTokens()
    found.put(tokens("a ", "<b", "c"))
    assert [each.chosen.piece for each in found.of("a")] == [b"a "]
    assert found.of(" ") == []
    assert [each.chosen.piece for each in found.of("\ufffd")] == [b"<b", b"c"]
    assert found.of("more") == []


@pytest.mark.parametrize("summary", [False, True])
@pytest.mark.parametrize("ending", [WHOLE, CUT])
def test_a_stream_ends_with_the_whole_answer(summary: bool, ending: Ending) -> None:
    form = Form(summary=summary, packs=True, spaces={"mcp__docs__search": ("mcp__docs__", "search")})
    told = streamed(EVERYTHING, ending, form)
    last = told[-1]["response"]
    expected = whole(EVERYTHING, ending, form)
    assert plain(last["output"]) == plain(expected["output"])
    assert {**last, "output": 0, "id": 0, "created_at": 0, "completed_at": 0} == {
        **expected, "output": 0, "id": 0, "created_at": 0, "completed_at": 0,
    }  # fmt: skip
    done = [event for event in told if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == [0, 1, 2, 3, 4]
    assert [event["item"] for event in done] == last["output"]


def test_items_of_every_kind() -> None:
    form = Form(spaces={"mcp__docs__search": ("mcp__docs__", "search")})
    assert plain(whole(EVERYTHING, form=form)["output"]) == [
        {
            "type": "reasoning",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Two calls."}],
        },
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
        },
        {
            "type": "function_call",
            "status": "completed",
            "call_id": "call_1",
            "name": "list",
            "arguments": '{"path":"x"}',
        },
        {
            "type": "function_call",
            "status": "completed",
            "call_id": "call_2",
            "namespace": "mcp__docs__",
            "name": "search",
            "arguments": "{}",
        },
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Done.", "annotations": [], "logprobs": []}],
        },
    ]


def test_every_event_of_an_item_names_it() -> None:
    for summary in (False, True):
        told = streamed(EVERYTHING, form=Form(summary=summary))
        items: dict[int, str] = {}
        for event in told:
            if event["type"] == "response.output_item.added":
                assert event["output_index"] == len(items)
                items[event["output_index"]] = event["item"]["id"]
            elif "item_id" in event:
                assert event["item_id"] == items[event["output_index"]]


def test_thoughts_are_a_summary_where_one_was_asked_for() -> None:
    told = streamed([Reasoning("Hm."), Content("Yes")], form=Form(summary=True, packs=True))
    assert kinds(told)[2:7] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    item = told[7]["item"]
    assert item["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert item["encrypted_content"] == packed("Hm.")
    assert "content" not in item


def test_thoughts_come_back_as_they_were() -> None:
    for form in (Form(), Form(summary=True), Form(packs=True)):
        [thought, *_] = whole([Reasoning("Hm.\nSo."), Content("Yes")], form=form)["output"]
        [message] = read_request(Fields({"input": [thought]}), NOTHING).chat.get("messages")[1]
        assert message["reasoning_content"] == "Hm.\nSo."


def test_arguments_come_as_deltas_and_whole() -> None:
    told = streamed([Call("list", "call_1"), Arguments('{"path":'), Arguments('"x"}'), End()])
    assert kinds(told)[2:-1] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert told[2]["item"]["arguments"] == ""
    assert told[2]["item"]["call_id"] == "call_1"
    assert told[5]["arguments"] == '{"path":"x"}'


def test_a_cut_answer_is_incomplete() -> None:
    told = streamed([Call("list", "call_1"), Arguments('{"path":')], CUT)
    assert told[-1]["type"] == "response.incomplete"
    assert told[-1]["response"]["status"] == "incomplete"
    assert told[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told[-2]["item"]["status"] == "incomplete"
    assert told[-2]["item"]["arguments"] == '{"path":'
    value = whole([Reasoning("Hm")], CUT)
    assert value["status"] == "incomplete"
    assert [item["status"] for item in value["output"]] == ["incomplete"]


@pytest.mark.parametrize("written", [[], [Reasoning("Hm.")]])
def test_an_answer_without_words_has_an_empty_message(written: list[Event]) -> None:
    last = whole(written)["output"][-1]
    assert last["type"] == "message"
    assert last["content"][0]["text"] == ""
    assert plain(streamed(written)[-1]["response"]["output"]) == plain(whole(written)["output"])


def test_signs_of_life_are_events() -> None:
    one = answer()
    told = events(
        one.ping() + one.ping() + one.add([Content("a")]) + one.ping() + one.add([Content("b")]) + one.end(WHOLE)
    )
    assert kinds(told)[:6] == [
        "created",
        "in_progress",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
    ]
    assert kinds(told)[6:8] == ["in_progress", "output_text.delta"]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))


def test_failures() -> None:
    one = answer()
    told = events(one.add([Content("Hel")]) + one.fail(EngineFailure("no memory")))
    assert told[-1]["type"] == "response.failed"
    failed = told[-1]["response"]
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "server_error"
    assert failed["error"]["message"] == "no memory"
    assert failed["output"][0]["status"] == "in_progress"


def test_a_prompt_that_is_too_long_fails_as_codex_expects() -> None:
    one = answer()
    error = ContextExceeded("too long", field="input", n_prompt_tokens=5000, n_ctx=1024)
    [created, _, failed] = events(one.fail(error))
    assert created["type"] == "response.created"
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["code"] == "context_length_exceeded"
    assert failed["response"]["error"]["n_ctx"] == 1024
