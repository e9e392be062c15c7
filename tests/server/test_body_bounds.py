"""What request bodies can cost: bytes that are held, values that are parsed, requests that wait already."""

import asyncio
import gzip
import json
import re
from unittest.mock import Mock

import pytest
from llamaserver.api import body
from llamaserver.api.body import parse
from llamaserver.api.fields import Fields
from llamaserver.api.json_size import MAX_CONTAINERS, MAX_MEMBERS, MAX_STRINGS, MAX_VALUES
from llamaserver.api.messages import read_messages
from llamaserver.errors import InvalidRequest, Unavailable

from tests.support.polling import eventually

BOMB = gzip.compress(b'{"prompt": "' + b" " * 94_000_000 + b'"}')  # 92 KB


def head(length, *more):
    lines = ["POST /completion HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


async def ask(server, data):
    """Status, headers and error of an answer. It comes before the body has been sent or read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.client.port)
    writer.write(data)
    first = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(re.search(r"Content-Length: (\d+)", first)[1])
    error = json.loads(await reader.readexactly(length))["error"]
    writer.transport.abort()
    return int(first.split()[1]), first, error


# ---- no inflation


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-anything"])
async def test_a_compressed_body_is_refused(ports, encoding):
    server = await ports()
    data = head(len(BOMB), f"Content-Encoding: {encoding}") + BOMB
    status, first, error = await ask(server, data)
    assert (status, error["type"]) == (415, "invalid_request_error")
    assert encoding in error["message"]
    assert "Accept-Encoding: identity" in first
    assert server.context.bodies.total == 0


async def test_identity_is_no_compression(ports):
    server = await ports()
    answer = await server.client.post("/completion", data=b"{}", headers={"Content-Encoding": "Identity"})
    assert answer.status == 503  # read; nothing is loaded


# ---- the sizes


@pytest.mark.parametrize(("options", "most"), [({}, 8), ({"mmproj": "p.gguf"}, 64), ({"max_body": 1 << 20}, 1)])
async def test_the_largest_body_depends_on_what_is_served(ports, options, most):
    server = await ports(**options)
    size = most * 2**20
    status, _, _ = await ask(server, head(size + 1))
    assert status == 413
    answer = await server.client.post("/completion", data=b"{}" + b" " * (size - 2))
    assert answer.status == 503  # read; nothing is loaded


# ---- bytes in flight


@pytest.fixture
async def upload(ports):
    """Open a connection, and send a part of a body."""
    writers = []

    async def begin(server, announced, sent, *more):
        before = server.context.bodies.total
        reader, writer = await asyncio.open_connection("127.0.0.1", server.client.port)
        writers.append(writer)
        writer.write(head(announced, *more) + b" " * sent)
        await eventually(lambda: server.context.bodies.total >= before + sent, "the part has been read")
        return reader, writer

    yield begin
    for writer in writers:
        writer.transport.abort()


async def test_bytes_in_flight_are_bounded(ports, upload):
    server = await ports(max_body=60_000, max_body_bytes_in_flight=100_000)
    reader, writer = await upload(server, 60_000, 50_000)
    status, first, error = await ask(server, head(20_000))  # before it is read
    assert (status, error["type"]) == (503, "unavailable_error")
    assert "Retry-After: 1" in first
    assert "--max-body-bytes-in-flight" in error["message"]
    answer = await server.client.post("/completion", data=b"{}")
    assert "in-flight" not in await answer.text()  # there is room for it
    writer.write(b"{}" + b" " * 9_998)
    assert b" 503 " in await reader.readline()  # it was read; nothing is loaded
    await eventually(lambda: server.context.bodies.total == 0, "all is released")


async def test_announced_bytes_are_not_held_before_they_arrive(ports, upload):
    """Otherwise a few heads would keep everybody else out."""
    server = await ports(max_body=60_000, max_body_bytes_in_flight=100_000)
    for _ in range(10):
        await upload(server, 50_000, 10)
    answer = await server.client.post("/completion", data=b"{}" + b" " * 40_000)
    assert "in-flight" not in await answer.text()


async def test_a_body_without_a_length_is_counted_as_it_arrives(ports, upload):
    server = await ports(max_body=60_000, max_body_bytes_in_flight=100_000)
    await upload(server, 60_000, 50_000)
    chunk = b"%x\r\n%s\r\n" % (20_000, b" " * 20_000)
    start = head(0, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    status, _, error = await ask(server, start + chunk)
    assert (status, "in-flight" in error["message"]) == (503, True)


async def test_a_client_that_leaves_releases_its_bytes(ports, upload):
    server = await ports()
    _, writer = await upload(server, 60_000, 50_000)
    writer.transport.abort()
    await eventually(lambda: server.context.bodies.total == 0, "all is released")


async def test_one_client_has_half_of_the_bytes(ports):
    bodies = (await ports(max_body=1024, max_body_bytes_in_flight=100_000)).context.bodies
    with bodies.hold("a") as one, bodies.hold("a") as two, bodies.hold("b") as other:
        one.add(30_000)
        two.add(20_000)
        other.add(1)
        with pytest.raises(Unavailable):
            two.add(1)
        other.add(49_999)
        with pytest.raises(Unavailable):
            other.check(1)
    assert bodies.total == 0


async def test_a_client_alone_leaves_room_for_one_body_of_others(ports):
    """All clients behind a proxy are one."""
    bodies = (await ports(max_body=1024, max_body_bytes_in_flight=100_000)).context.bodies
    with bodies.hold("a") as one, bodies.hold("b") as other:
        one.add(100_000 - 1024)
        with pytest.raises(Unavailable):
            one.add(1)
        other.add(1024)
        one.keep(49_000)
        one.keep(60_000)  # no more than before
        assert bodies.total == 50_024
        one.add(1000)


async def test_with_keys_a_client_is_a_key(ports, upload):
    server = await ports(api_keys=("one", "two"))
    for key in ("one", "two"):
        await upload(server, 60_000, 10, f"Authorization: Bearer {key}")
    held = server.context.bodies._held
    assert sorted(held.values()) == [10, 10]
    assert "127.0.0.1" not in held


# ---- the queue


async def test_a_full_queue_is_told_before_the_body_is_read(ports):
    server = await ports(max_queue=1)
    server.context.engine._streams = {Mock(**{"task.tenant.key": ""}): Mock() for _ in range(2)}
    for path in ("/completion", "/infill", "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/embedding"):
        data = head(60_000).replace(b"/completion", path.encode())
        status, first, error = await ask(server, data)
        assert (status, error["message"]) == (503, "1 request is waiting already"), path
        assert "Retry-After: 1" in first


# ---- values


def test_a_text_with_too_many_values_is_refused_before_it_is_parsed():
    for text in (
        b'{"a":[' + b'{"":0},' * MAX_CONTAINERS + b"0]}",
        b'{"a":[' + b"[]," * MAX_CONTAINERS + b"0]}",
        b'{"a":[' + b"1," * MAX_VALUES + b"0]}",
        b'{"a":{' + b'"":0,' * MAX_MEMBERS + b'"":0}}',
        b'{"a":[' + b'"x",' * MAX_STRINGS + b"0]}",
        b'{"a":[' + b'"\\\\","\\"",' * MAX_STRINGS + b"0]}",
    ):
        with pytest.raises(InvalidRequest, match="more than"):
            parse(text)


@pytest.mark.parametrize("text", ["{[,", '"', '\\",{[', "\\\\{[,", "é{,"])
def test_what_stands_in_strings_is_not_counted(text):
    value = {"prompt": text * MAX_VALUES, "b": [1, {}]}
    assert parse(json.dumps(value).encode()) == value


def test_as_many_values_as_are_allowed_are_parsed():
    assert len(parse(b'{"a":[' + b"[]," * (MAX_CONTAINERS - 3) + b"0]}")["a"]) == MAX_CONTAINERS - 2
    assert len(parse(b'{"a":[' + b'"\\"",' * (MAX_STRINGS - 1) + b"0]}")["a"]) == MAX_STRINGS


def calls(arguments, count):
    return Fields(
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}] * 2},
                {"role": "assistant", "function_call": {"name": "f", "arguments": arguments}},
            ]
            * count
        },
        None,
    )


def test_the_arguments_of_all_calls_have_the_bounds_of_one_body():
    """Each would pass by itself, and together they would take gigabytes."""
    arguments = '{"a":[' + "[]," * (MAX_CONTAINERS // 4) + "0]}"
    messages = read_messages(calls(arguments, 1), [])
    assert len(messages[1]["tool_calls"][0]["function"]["arguments"]["a"]) == MAX_CONTAINERS // 4 + 1
    with pytest.raises(InvalidRequest, match=r"arguments as JSON: .* more than") as caught:
        read_messages(calls(arguments, 2), [])
    assert caught.value.field == "messages"


@pytest.mark.parametrize("arguments", [" ", "", None, {}, "{}"])
def test_calls_without_arguments(arguments):
    messages = read_messages(calls(arguments, 1), [])
    assert [call["function"]["arguments"] for call in messages[0]["tool_calls"]] == [{}, {}]


@pytest.mark.parametrize("arguments", ["[1]", "{", [1], 5])
def test_wrong_arguments_name_their_call(arguments):
    with pytest.raises(InvalidRequest) as caught:
        read_messages(calls(arguments, 1), [])
    assert caught.value.field == "messages[0].tool_calls[0].function.arguments"


# ---- halves of emoji


def test_halves_are_replaced_wherever_a_text_is_cut(monkeypatch):
    halves = rb"\ud83d\ude00 \ud83d x\ude00\ud83d\ud83d\ude00\ude00 \\ud83d \\\ud83d."
    whole = rb"\ud83d\ude00 \ufffd x\ufffd\ufffd\ud83d\ude00\ufffd \\ud83d \\\ufffd."
    for step in range(1, len(halves) + 1):
        monkeypatch.setattr(body, "_STEP", step)
        assert body._without_halves(halves * 3) == whole * 3


def test_no_search_for_halves_is_long(monkeypatch):
    """It holds the interpreter, and so all answers."""
    spans = []

    class Spy:
        def finditer(self, text, start, end):
            spans.append(end - start)
            return iter(())

    monkeypatch.setattr(body, "_HALF", Spy())
    assert body._without_halves(b"x" * (1 << 20)) == b"x" * (1 << 20)
    assert len(spans) == 4
    assert max(spans) < 1 << 19
