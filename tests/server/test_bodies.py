"""JSON bodies as clients write them: with a mark before, and with half a character where a text was cut."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamaserver.api.body import parse
from llamaserver.errors import InvalidRequest

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("body", [b'{"a": "b"}', b' {"a":"b"}\n'])
def test_a_byte_order_mark_is_no_content(body):
    assert parse(BOM + body) == {"a": "b"}


async def test_a_byte_order_mark_is_taken_by_every_endpoint(ports):
    server = await ports()
    for path in ("/completion", "/tokenize", "/v1/chat/completions", "/v1/embeddings", "/apply-template"):
        for body in (BOM + b'{"prompt": "x"}', BOM):
            answer = await server.client.post(path, data=body)
            assert answer.status == 503, path  # it was read; nothing is loaded
    answer = await server.client.post("/completion", data=BOM + BOM + b"{}")
    assert answer.status == 400


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'{"a": "\ud83d"}', "\ufffd"),
        (rb'{"a": "\udE00x"}', "\ufffdx"),
        (rb'{"a": "cut \uD83D"}', "cut \ufffd"),
        (rb'{"a": "\ude00\ud83d"}', "\ufffd\ufffd"),
        (rb'{"a": "\ud83d\ud83d\ude00"}', "\ufffd\U0001f600"),
        (rb'{"a": "\ud83d\ude00\ude00"}', "\U0001f600\ufffd"),
        (rb'{"a": "\ud83d\u0041"}', "\ufffdA"),
        (rb'{"a": "\\ud83d \ud83d"}', "\\ud83d \ufffd"),
        (rb'{"a": "\\\ud83d"}', "\\\ufffd"),
        (rb'{"a": "\ud83d\\ude00"}', "\ufffd\\ude00"),
    ],
)
def test_half_a_character_is_replaced(body, value):
    assert parse(body) == {"a": value}


def test_half_a_character_in_a_name():
    assert parse(rb'{"\udc00": 1}') == {"\ufffd": 1}


PIECES = st.sampled_from([r"\ud83d", r"\uDE00", r"\\", r"\n", r"\"", "u", "d83d", "ude00", r"\u00e9", "x", "é"])


@given(st.lists(PIECES, max_size=9).map("".join))
def test_replaced_is_what_is_no_character_and_nothing_else(text):
    body = f'{{"a": "{text}"}}'.encode()
    python = json.loads(body)["a"]  # which keeps halves
    assert parse(body)["a"] == "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in python)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"a": "\ud83d}', rb'{"a": "\ud83d" "\ud83d"}', rb'{"a": "\ud8"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\xff"}',
        b'{"a": "\\ud83d\0\0"}', b'{"a": \0\0"\\ud83d"}', '{"a": 1}'.encode("utf-16"), b"\xef\xbb{}",
        rb'{"a": NaN, "b": "\ud83d"}',
        b'{"a": "' + rb"\ud83d" * 20_000 + b'"}',
    ],
    ids=range(11),
)  # fmt: skip
def test_invalid_json_is_refused(body):
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        parse(body)


def test_the_parser_still_tells_what_we_look_for():
    """Only then is a body looked through for halves."""
    for text in (rb'"\ud83d"', rb'"\ude00"', rb'"\ud83d\u0041"', rb'"\ud83dx"'):
        with pytest.raises(orjson.JSONDecodeError, match="surrogate"):
            orjson.loads(text)
