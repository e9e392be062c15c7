"""Calls in OpenAI's answers: whole, and in chunks."""

import json
from typing import Any

import pytest
from llamaserver.api.answer import join
from llamaserver.api.answer_reader import AnswerReader
from llamaserver.api.chat_call import ChatCall
from llamaserver.api.openai_answer import Head
from llamaserver.api.openai_chat_answer import Chat
from llamaserver.api.tool_text import FORMAT
from llamaserver.interfaces.output import Delta, Finish, Timings, TokenProb, TokenProbs
from llamaserver.toolformat.parser import Parser

JSON = dict[str, Any]
HEAD = Head(True, False, True, 10, "chatcmpl-1", 7, "m")
TEXT = (
    'Let me see.\n<tool_call>\n{"name": "f", "arguments": {"city": "Rome", "n": [1, 2]}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
)


def chat(*, choices: int = 1, functions: bool = False, logprobs: int | None = None) -> Chat:
    types = {"f": {}, "g": {}}
    readers = [AnswerReader(Parser(FORMAT, types)) for _ in range(choices)]
    call = ChatCall([None] * choices, readers)  # type: ignore[list-item]
    return Chat(HEAD, call, logprobs, functions=functions)


def finish(reason: str = "eos", **more: Any) -> Finish:
    return Finish("", reason, "", False, 5, 0, 9, 0, Timings(5, 1.0, 9, 1.0, 0), **more)


def streamed(text: str, *, reason: str = "eos", **options: Any) -> list[JSON]:
    """The events of a stream in which each letter comes alone."""
    chunks = chat(**options).chunks()
    data = chunks.begin() + b"".join(chunks.encode(0, Delta(letter)) for letter in text)
    return events(data + chunks.encode(0, finish(reason)))


def events(data: bytes) -> list[JSON]:
    return [json.loads(line.removeprefix(b"data: ")) for line in data.split(b"\n\n") if line]


def deltas(found: list[JSON]) -> list[JSON]:
    return [choice["delta"] for event in found for choice in event["choices"]]


def test_the_order_of_chunks() -> None:
    found = streamed(TEXT)
    first, *rest = deltas(found)
    assert first == {"role": "assistant", "content": None, "refusal": None}
    content = [delta["content"] for delta in rest if "content" in delta]
    assert "".join(content) == "Let me see."
    parts = [part for delta in rest for part in delta.get("tool_calls", ())]
    begins = [part for part in parts if "id" in part]
    assert [(part["index"], part["type"], part["function"]) for part in begins] == [
        (0, "function", {"name": "f", "arguments": ""}), (1, "function", {"name": "g", "arguments": ""}),
    ]  # fmt: skip
    assert len({part["id"] for part in begins}) == 2
    for index, arguments in enumerate(({"city": "Rome", "n": [1, 2]}, {})):
        own = [part for part in parts if part["index"] == index]
        assert own[0] in begins
        assert all(set(part) == {"index", "function"} and set(part["function"]) == {"arguments"} for part in own[1:])
        assert json.loads("".join(part["function"]["arguments"] for part in own)) == arguments
    assert [event["choices"][0]["finish_reason"] for event in found if event["choices"]][-1] == "tool_calls"
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["total_tokens"] == 14


def test_arguments_come_as_they_are_written() -> None:
    chunks = chat().chunks()
    for letter in '<tool_call>{"name": "f", "arguments": ':
        last = chunks.encode(0, Delta(letter))
    assert [chunks.encode(0, Delta(letter)) != b"" for letter in '{"a": "b c"}'] == [True] * 12
    assert last == b""


def test_a_whole_answer_is_the_same() -> None:
    value = json.loads(chat().whole([join([Delta(TEXT), finish()])]))["choices"][0]
    assert value["finish_reason"] == "tool_calls"
    message = value["message"]
    assert (message["role"], message["content"], message["refusal"]) == ("assistant", "Let me see.", None)
    calls = [call["function"] for call in message["tool_calls"]]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
        ("f", {"city": "Rome", "n": [1, 2]}), ("g", {}),
    ]  # fmt: skip


def test_a_call_without_words_has_no_content() -> None:
    message = json.loads(chat().whole([join([Delta(TEXT[12:]), finish()])]))["choices"][0]["message"]
    assert message["content"] is None
    assert "content" not in json.dumps(deltas(streamed(TEXT[12:]))[1:])


def test_a_cut_call_has_the_arguments_so_far() -> None:
    found = streamed(TEXT[:-70], reason="limit")
    assert found[-2]["choices"][0]["finish_reason"] == "length"
    parts = [part for delta in deltas(found) for part in delta.get("tool_calls", ())]
    assert "".join(part["function"]["arguments"] for part in parts).startswith('{"city": "Rome"')


@pytest.mark.parametrize("text", ["<tool_call>{}", "<tool_call>\n", '<tool_call>{"name": "x", "arguments": {}}'])
def test_what_is_no_call_is_content(text: str) -> None:
    found = deltas(streamed(text))
    assert "".join(delta.get("content") or "" for delta in found) == text
    assert not any("tool_calls" in delta for delta in found)


def test_functions_of_old_clients() -> None:
    text = TEXT.partition('\n<tool_call>\n{"name": "g"')[0]
    found = streamed(text, functions=True)
    parts = [delta["function_call"] for delta in deltas(found) if "function_call" in delta]
    assert parts[0] == {"name": "f", "arguments": ""}
    assert json.loads("".join(part["arguments"] for part in parts)) == {"city": "Rome", "n": [1, 2]}
    assert found[-2]["choices"][0]["finish_reason"] == "function_call"
    choice = json.loads(chat(functions=True).whole([join([Delta(text), finish()])]))["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert json.loads(choice["message"]["function_call"]["arguments"]) == {"city": "Rome", "n": [1, 2]}


def test_each_choice_has_calls_of_its_own() -> None:
    chunks = chat(choices=2).chunks()
    data = b"".join(chunks.encode(index, Delta(piece)) for piece in (TEXT[:60], TEXT[60:]) for index in (1, 0))
    found = events(data + chunks.encode(1, finish()) + chunks.encode(0, finish()))
    for index in (0, 1):
        own = [choice["delta"] for event in found for choice in event["choices"] if choice["index"] == index]
        ids = [part["index"] for delta in own for part in delta.get("tool_calls", ()) if "id" in part]
        assert ids == [0, 1]
    assert found[-1]["usage"]["completion_tokens"] == 18


def test_no_probability_is_lost() -> None:
    """A token whose text is held back has its probabilities in the next chunk."""
    chunks = chat(logprobs=0).chunks()
    probs = [TokenProbs(TokenProb(place, letter.encode(), 0.5), ()) for place, letter in enumerate(TEXT)]
    data = b"".join(chunks.encode(0, Delta(letter, probs=[prob])) for letter, prob in zip(TEXT, probs, strict=True))
    found = events(data + chunks.encode(0, finish()))
    told = [choice["logprobs"] for event in found for choice in event["choices"] if choice.get("logprobs")]
    assert "".join(item["token"] for part in told for item in part["content"]) == TEXT
