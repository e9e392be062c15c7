"""What surrounds every handler, without a model: CORS, health, draining, limits, and the management port."""

import asyncio
import json
import re

import pytest
from llamaserver.engine.snapshot import SlotView, Snapshot

from tests.support.polling import eventually

LOADING = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
READY = Snapshot(state="ready", slots=(SlotView(0, 512), SlotView(1, 512, state=1)), requests_processing=1)
FULL = Snapshot(state="ready", slots=(SlotView(0, 512, state=1),), requests_processing=1, requests_deferred=3)


# ---- pages of other origins

ORIGIN = "https://app.example"


def may_be_read(headers, origin=ORIGIN):
    """Whether a browser gives an answer to a page that sent its cookies along."""
    assert headers["Access-Control-Allow-Origin"] == origin
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert "*" not in headers.get("Access-Control-Allow-Headers", "") + headers.get("Access-Control-Allow-Methods", "")
    assert "Retry-After" in headers["Access-Control-Expose-Headers"]
    return "Origin" in headers["Vary"].split(", ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 503), ("GET", "/", 200), ("GET", "/completion.js", 200), ("GET", "/nothing", 404),
        ("POST", "/completion", 401), ("GET", "/v1/models/x", 401), ("PUT", "/completion", 404),
        ("GET", "/openapi.json", 401),
    ],
)  # fmt: skip
async def test_every_answer_may_be_read_by_any_origin(ports, method, path, status):
    server = await ports(api_keys=("key",))
    for origin in (ORIGIN, "null"):  # null: a page from a file
        answer = await server.client.request(method, path, headers={"Origin": origin})
        assert answer.status == status
        assert may_be_read(answer.headers, origin)
    answer = await server.client.request(method, path)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" in answer.headers["Vary"].split(", ")  # else a shared cache gives it to a page


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("POST", "/completion", 503), ("GET", "/slots", 501), ("POST", "/tokenize", 503)],
)
async def test_errors_may_be_read_by_any_origin(ports, method, path, status):
    server = await ports(slots_endpoint=False, allowed_origins=("*",))
    answer = await server.client.request(method, path, headers={"Origin": ORIGIN})
    assert answer.status == status
    assert may_be_read(answer.headers)


async def test_a_304_may_be_read_by_any_origin(ports):
    server = await ports(allowed_origins=("*",))
    stamp = (await server.client.get("/index.js")).headers["Last-Modified"]
    answer = await server.client.get("/index.js", headers={"Origin": ORIGIN, "If-Modified-Since": stamp})
    assert answer.status == 304
    assert may_be_read(answer.headers)


@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions", "/slots/0", "/anything"])
@pytest.mark.parametrize("headers", ["authorization", "authorization,content-type,x-api-key,x-stainless-os"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH"])
async def test_preflight(ports, path, headers, method):
    server = await ports(api_keys=("key",))
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    answer = await server.client.options(path, headers={"Origin": ORIGIN, **asked})
    assert answer.status == 200
    assert may_be_read(answer.headers)
    assert {"GET", "POST", method} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    assert answer.headers["Access-Control-Allow-Headers"] == headers
    assert set(asked) <= set(answer.headers["Vary"].split(", "))
    assert await answer.read() == b""


async def test_options_without_a_question(ports):
    server = await ports(api_keys=("key",))
    answer = await server.client.options("/completion")
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type, X-Api-Key"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize("value", [b"\xff", "ä".encode(), b"a\x7fb"])
async def test_odd_bytes_are_not_repeated(ports, value):
    server = await ports(allowed_origins=("*",))
    names = (b"Origin", b"Access-Control-Request-Headers", b"Access-Control-Request-Method")
    lines = b"".join(name + b": " + value + b"\r\n" for name in names)
    for method in (b"OPTIONS", b"GET"):
        answer = await server.raw(method + b" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines + b"\r\n")
        head = answer.partition(b"\r\n\r\n")[0]
        assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 400 "))
        assert value not in head


# ---- health


async def test_health_while_loading(ports):
    server = await ports()
    server.context.engine.snapshot = Snapshot(load_progress=0.25)
    answer = await server.client.get("/health")
    assert answer.status == 503
    assert await answer.json() == {"status": "loading model", "progress": 0.25, "error": LOADING}


async def test_health_after_a_failed_load(ports):
    server = await ports()
    server.context.engine.snapshot = Snapshot(state="failed", error="no such file")
    answer = await server.client.get("/health")
    body = await answer.json()
    assert (answer.status, body["status"], body["error"]["message"]) == (500, "error", "no such file")


async def test_health_with_idle_slots(ports):
    server = await ports()
    server.context.engine.snapshot = READY
    for query in ("", "?fail_on_no_slot", "?fail_on_no_slot=0"):
        answer = await server.client.get(f"/health{query}")
        assert answer.status == 200
        assert await answer.json() == {"status": "ok", "slots_idle": 1, "slots_processing": 1}


@pytest.mark.parametrize(("query", "status"), [("", 200), ("?fail_on_no_slot", 503), ("?fail_on_no_slot=0", 503)])
async def test_health_without_idle_slots(ports, query, status):
    server = await ports()
    server.context.engine.snapshot = FULL
    answer = await server.client.get(f"/health{query}")
    assert answer.status == status
    assert await answer.json() == {"status": "no slot available", "slots_idle": 0, "slots_processing": 1}


async def test_endpoints_while_loading(ports):
    server = await ports(metrics=True)
    posts = ("/completion", "/infill", "/tokenize", "/detokenize", "/v1/chat/completions", "/v1/completions")
    for method, path in [("POST", path) for path in posts] + [("GET", "/props"), ("GET", "/slots")]:
        answer = await server.client.request(method, path, json={"prompt": "x", "messages": []})
        assert answer.status == 503, path
        assert await answer.json() == {"error": LOADING}
        assert answer.headers["Retry-After"] == "1"
    assert (await server.client.get("/metrics")).status == 200


# ---- draining


async def test_a_draining_server_closes_connections_and_says_so(ports):
    server = await ports()
    server.context.engine.snapshot = READY
    server.context.drain.begin()
    health = await server.client.get("/health")
    assert (health.status, (await health.json())["status"]) == (503, "shutting down")
    for path, status in (("/", 200), ("/nothing", 404), ("/metrics", 501)):
        answer = await server.client.get(path)
        assert answer.status == status
        assert answer.headers["Connection"] == "close"


async def test_a_refusing_server_tells_when_to_come_again(ports):
    server = await ports(api_keys=("key",))
    server.context.drain.refuse()
    for method, path in (("GET", "/"), ("POST", "/completion"), ("GET", "/v1/models")):
        answer = await server.client.request(method, path, headers={"Origin": "https://app.example"})
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "5"
        assert answer.headers["Connection"] == "close"
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert (await answer.json())["error"]["type"] == "unavailable_error"
    assert (await server.client.get("/health")).status == 503


async def test_requests_whose_body_is_on_its_way_are_waited_for(ports):
    server = await ports()
    drain = server.context.drain
    assert not drain.busy
    reader, writer = await asyncio.open_connection("127.0.0.1", server.client.port)
    writer.write(b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
    await eventually(lambda: drain.busy, "the request begins")
    assert not drain.is_over([], 0)
    writer.write(b'"prompt": "123456"}')
    assert b" 503 " in await reader.readline()
    await eventually(lambda: not drain.busy, "the request ends")
    assert drain.is_over([], 0)
    writer.close()


class Kept:
    """A connection that its client keeps open."""

    def __init__(self, reader, writer):
        self._reader, self.writer = reader, writer

    def send(self, *paths):
        self.writer.write(b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() for path in paths))

    async def answer(self):
        """The status of the next answer, and whether it says that it is the last one."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)content-length: (\d+)", head)
        await self._reader.readexactly(int(length[1]))
        return int(head.split()[1]), "connection: close" in head.lower()

    async def ended(self):
        return await self._reader.read() == b""


@pytest.fixture
async def connect():
    made = []

    async def to(server):
        made.append(Kept(*await asyncio.open_connection("127.0.0.1", server.client.port)))
        return made[-1]

    yield to
    for each in made:
        each.writer.close()


async def test_kept_connections_get_one_last_answer_when_new_ones_are_refused(ports, connect):
    server = await ports()
    kept = await connect(server)
    kept.send("/")
    assert await kept.answer() == (200, False)
    server.context.drain.refuse(spared=server.connections)
    late = await connect(server)
    late.send("/")
    assert await late.answer() == (503, True)
    kept.send("/")
    assert await kept.answer() == (200, True)
    assert await kept.ended()


async def test_requests_sent_ahead_are_all_answered_and_only_the_last_answer_says_so(ports, connect):
    server = await ports()
    first, second = await connect(server), await connect(server)
    second.send("/")
    assert await second.answer() == (200, False)
    server.context.drain.begin()
    first.send("/", "/nothing", "/health")
    assert [await first.answer() for _ in range(3)] == [(200, False), (404, False), (503, True)]
    assert await first.ended()
    server.context.drain.refuse(spared=server.connections)
    second.send("/", "/")
    assert [await second.answer() for _ in range(2)] == [(200, False), (200, True)]
    assert await second.ended()


async def test_nobody_is_answered_after_the_deadline(ports, connect):
    server = await ports()
    kept = await connect(server)
    kept.send("/")
    assert await kept.answer() == (200, False)
    server.context.drain.refuse()
    kept.send("/")
    assert await kept.answer() == (503, True)


# ---- limits


async def test_a_body_that_does_not_arrive_is_given_up(ports):
    server = await ports(timeout=1)
    head = b"POST /completion HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 20\r\n\r\n{"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.client.port)
    writer.write(head)
    answer = await reader.readuntil(b"}}")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"--timeout" in answer
    writer.close()


@pytest.mark.parametrize("headers", ["Content-Length: 2000", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_too_large(ports, headers):
    server = await ports(max_body=1024)
    body = b'{"prompt": "' + b"x" * 1986 + b'"}'
    sent = body if "Length" in headers else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = f"POST /completion HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n\r\n"
    answer = await server.raw(head.encode() + sent)
    assert answer.startswith(b"HTTP/1.1 413 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["message"]) == (413, "the body exceeds --max-body")


# ---- the management port


async def test_management_while_loading(ports):
    server = await ports(api_keys=("key",), alias="mine")
    server.context.engine.snapshot = Snapshot(load_progress=0.5)
    assert (await server.management.get("/livez")).status == 200
    ready = await server.management.get("/readyz")
    assert (ready.status, await ready.text()) == (503, "loading\n")
    status = await (await server.management.get("/status")).json()
    assert status["state"] == "loading"
    assert status["ready"] is False
    assert status["load_progress"] == 0.5
    assert "model" not in status
    assert (await server.management.get("/metrics")).status == 200


async def test_readiness_can_be_waited_for(ports):
    """A probe that waits learns it as soon as it is so."""
    server = await ports()
    assert (await server.management.get("/readyz?wait=0")).status == 503
    waiting = asyncio.ensure_future(server.management.get("/readyz?wait=60"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.2)
    server.context.engine.snapshot = READY
    server.context.settled.set()
    assert (await waiting).status == 200
    server.context.drain.begin()
    assert (await server.management.get("/readyz?wait=60")).status == 503


@pytest.mark.parametrize("wait", ["x", "-1", "100", "1.5", ""])
async def test_a_time_to_wait_that_is_none(ports, wait):
    server = await ports()
    answer = await server.management.get(f"/readyz?wait={wait}")
    assert answer.status == 400
    assert "seconds" in (await answer.json())["error"]["message"]


async def test_management_after_a_failed_load(ports):
    server = await ports()
    server.context.engine.snapshot = Snapshot(state="failed", error="too little memory")
    assert (await server.management.get("/livez")).status == 500
    assert (await server.management.get("/readyz")).status == 503
    status = await (await server.management.get("/status")).json()
    assert (status["state"], status["ready"]) == ("failed", False)
    assert "too little memory" in status["reason"]


async def test_management_ready_and_draining(ports):
    server = await ports()
    server.context.engine.snapshot = Snapshot(state="ready", slots=(SlotView(0, 512),))
    ready = await server.management.get("/readyz")
    assert (ready.status, await ready.text()) == (200, "ok\n")
    server.context.drain.begin()
    ready = await server.management.get("/readyz")
    assert (ready.status, await ready.text()) == (503, "shutting down\n")
    assert (await server.management.get("/livez")).status == 200


async def test_the_management_port_has_nothing_else(ports):
    server = await ports()
    for method, path in (("GET", "/"), ("POST", "/completion"), ("GET", "/slots"), ("POST", "/readyz")):
        answer = await server.management.request(method, path)
        assert answer.status == 404
        assert (await answer.json())["error"]["type"] == "not_found_error"
