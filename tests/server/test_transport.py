"""HTTP as clients, proxies and tools speak it: encodings, chunks, old versions, several requests at once."""

import json

import pytest

BODY = json.dumps({"prompt": "x"}).encode()


def request(body=BODY, *headers, version="1.1", length=True):
    lines = [f"POST /completion HTTP/{version}", "Host: x", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def statuses(answer):
    """Of all answers in what came back; nothing is loaded here, so 503 means that the body was read."""
    return [int(part.split()[0]) for part in answer.replace(b"HTTP/1.0", b"HTTP/1.1").split(b"HTTP/1.1 ")[1:]]


def chunked(body, size=3):
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        request(BODY, "Connection: close"),
        request(chunked(BODY), "Connection: close", "Transfer-Encoding: chunked", length=False),
        request(chunked(BODY, 1), "Connection: close", "Transfer-Encoding: chunked", length=False),
        request(BODY, version="1.0"),
        request(BODY, "Connection: close", "Content-Type: text/plain"),
        request(BODY, "Connection: close", "Content-Type: application/x-www-form-urlencoded"),
        request(b"", "Connection: close"),
    ],
    ids=["plain", "chunks", "letters", "HTTP 1.0", "text", "form", "empty"],
)
async def test_a_body_is_read(ports, sent):
    server = await ports()
    assert statuses(await server.raw(sent)) == [503]


async def test_expect_is_answered(ports):
    server = await ports()
    assert statuses(await server.raw(request(BODY, "Connection: close", "Expect: 100-continue"))) == [100, 503]


async def test_requests_one_after_the_other_without_waiting(ports):
    server = await ports()
    answer = await server.raw(request() + request() + request(BODY, "Connection: close"))
    assert statuses(answer) == [503, 503, 503]


# ---- design differences, told in docs/reference/compatibility.md


async def test_header_fields_that_are_too_long_are_refused(ports):
    server = await ports()
    for length, status in ((8_000, 503), (8_300, 400)):
        cookie = f"Cookie: a={'x' * length}"
        answer = await server.raw(request(BODY, "Connection: close", cookie))
        assert statuses(answer) == [status]
        assert answer.startswith(b"HTTP/1.0" if status == 400 else b"HTTP/1.1")


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models", "/v1/chat/completions/", "/health/"])
async def test_slashes_too_many_are_other_paths(ports, path):
    server = await ports()
    assert (await server.get(path))[0] == 404
