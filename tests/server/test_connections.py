"""Limits of connections, on real sockets: how many, how long without a request, and what that leaves of the probes."""

import asyncio
import contextlib
import errno
import json
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from aiohttp import web
from llamaserver import file_limit
from llamaserver.api.connections import Counts
from llamaserver.api.unread import Unread
from llamaserver.listener import Limits, Listener

from tests.support.polling import eventually, until
from tests.support.server import certificates
from tests.support.server.process import ServerProcess, free_port

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Port:
    """A listener over a handler that answers when the test lets it."""

    def __init__(self, listener: Listener, counts: Counts, number: int) -> None:
        self.listener, self.counts, self.number = listener, counts, number
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.running += 1
        await self.gate.wait()
        self.running -= 1
        return web.Response(text=f"{len(await request.read())}")

    async def connect(self) -> Pair:
        return await asyncio.open_connection("127.0.0.1", self.number)

    async def many(self, count: int) -> list[Pair]:
        return [await self.connect() for _ in range(count)]

    async def ask(self, pair: Pair, sent: bytes = REQUEST) -> bytes:
        """The head of the answer, b"" if the connection is closed."""
        pair[1].write(sent)
        return await head(pair)


async def head(pair: Pair) -> bytes:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        async with asyncio.timeout(20):
            found = await pair[0].readuntil(b"\r\n\r\n")
            await pair[0].readexactly(1)  # its body
            return found
    return b""


@asynccontextmanager
async def port(
    most: int = 100,
    of_address: int = 0,
    head: float = 0.0,
    keep_alive: float = 75.0,
    secure: ssl.SSLContext | None = None,
) -> AsyncIterator[Port]:
    app = web.Application()
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, keepalive_timeout=keep_alive)
    made: list[Port] = []

    async def handle(request: web.Request) -> web.Response:
        return await made[0].handle(request)

    app.router.add_route("*", "/", handle)
    await runner.setup()
    assert runner.server
    counts = Counts()
    listener = Listener(runner.server, Limits(most, of_address, head), counts, secure)
    where = await listener.listen("127.0.0.1", 0)
    made.append(Port(listener, counts, int(where.rpartition(",")[2].strip(" )"))))
    try:
        yield made[0]
    finally:
        listener.close()
        await runner.cleanup()


# ---- how many


async def test_the_oldest_idle_connection_makes_room() -> None:
    async with port(most=4) as it:
        first, second, third, fourth = await it.many(4)
        for pair in (first, second, third, fourth, first):  # the second one is idle longest now
            assert (await it.ask(pair)).startswith(b"HTTP/1.1 200")
        fifth = await it.connect()
        assert (await it.ask(fifth)).startswith(b"HTTP/1.1 200")
        assert await head(second) == b""
        assert it.counts.limited["idle"] == 1
        for pair in (first, third, fourth, fifth):
            assert (await it.ask(pair)).startswith(b"HTTP/1.1 200")
        await eventually(lambda: it.counts.open == 4, "four are open")


async def test_busy_connections_are_spared_and_new_ones_wait() -> None:
    async with port(most=2) as it:
        it.gate.clear()
        busy = await it.many(2)
        answers = [asyncio.create_task(it.ask(pair)) for pair in busy]
        await eventually(lambda: it.running == 2, "both run")
        late = asyncio.create_task(it.ask(await it.connect()))
        await eventually(lambda: it.counts.limited["busy"] > 0, "it has to wait")
        assert not late.done()
        it.gate.set()
        assert all([(await answer).startswith(b"HTTP/1.1 200") for answer in answers])
        assert (await late).startswith(b"HTTP/1.1 200")


async def test_a_flood_of_idle_connections_does_not_keep_a_client_out() -> None:
    async with port(most=16) as it:
        idle = await it.many(200)
        client = await it.connect()
        assert (await it.ask(client)).startswith(b"HTTP/1.1 200")
        assert it.counts.open <= 16
        for pair in idle:
            pair[1].close()


async def test_a_limit_for_each_address() -> None:
    async with port(of_address=2) as it:
        first, _ = await it.many(2)
        assert (await it.ask(first)).startswith(b"HTTP/1.1 200")
        assert await it.ask(await it.connect()) == b""
        assert it.counts.limited["address"] == 1
        first[1].close()
        await eventually(lambda: it.counts.open == 1, "it is gone")
        assert (await it.ask(await it.connect())).startswith(b"HTTP/1.1 200")


# ---- how long


async def test_a_slow_head_is_cut_off_whatever_bytes_come() -> None:
    async with port(head=0.6) as it:
        silent, slow, quick = await it.many(3)

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
                    slow[1].write(bytes([byte]))
                    await slow[1].drain()
                    await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert (await it.ask(quick)).startswith(b"HTTP/1.1 200")
        assert await head(silent) == b""
        assert await head(slow) == b""
        await dripping
        assert it.counts.limited["head"] == 2
        assert (await it.ask(quick)).startswith(b"HTTP/1.1 200")  # idle after an answer is another limit


async def test_a_slow_second_head_is_cut_off_too() -> None:
    async with port(head=0.3) as it:
        pair = await it.connect()
        assert (await it.ask(pair)).startswith(b"HTTP/1.1 200")
        pair[1].write(REQUEST[:9])
        assert await head(pair) == b""
        assert it.counts.limited["head"] == 1


async def test_a_body_is_no_head() -> None:
    async with port(head=0.3) as it:
        pair = await it.connect()
        pair[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
        for byte in b"123456":
            await asyncio.sleep(0.1)
            pair[1].write(bytes([byte]))
        assert (await head(pair)).startswith(b"HTTP/1.1 200")
        assert it.counts.limited["head"] == 0


async def test_an_idle_connection_ends_after_its_own_time() -> None:
    async with port(keep_alive=0.3) as it:
        pair = await it.connect()
        assert (await it.ask(pair)).startswith(b"HTTP/1.1 200")
        assert await pair[0].read() == b""
        assert it.counts.limited["head"] == 0


# ---- TLS


async def test_handshakes_that_never_end_count_and_are_cut_off(tmp_path: Path) -> None:
    made = certificates.make(tmp_path, "server")
    secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secure.load_cert_chain(*made)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with port(most=8, head=1.0, secure=secure) as it:
        silent = await it.many(30)
        reader, writer = await asyncio.open_connection("127.0.0.1", it.number, ssl=trusting)
        assert (await it.ask((reader, writer))).startswith(b"HTTP/1.1 200")
        assert it.counts.limited["idle"] > 0
        for pair in silent:
            assert await head(pair) == b""
        assert it.counts.limited["head"] > 0
        await eventually(lambda: it.counts.open == 1, "only the client is left")


# ---- answers that nobody reads


class Stuck:
    """A connection whose client takes nothing. One that is broken cannot even be asked."""

    def __init__(self, *, broken: bool = False) -> None:
        self.wire, self.broken, self.dropped = self, broken, False

    def get_write_buffer_size(self) -> int:
        if self.broken:
            raise RuntimeError
        return 9

    def get_extra_info(self, name: str) -> None:
        return None

    def drop(self) -> None:
        self.dropped = True


async def test_a_fault_of_one_connection_does_not_end_the_watch_over_the_others() -> None:
    stuck = Stuck()
    watching = asyncio.create_task(Unread([Stuck(broken=True), stuck], 0.05).watch())  # type: ignore[list-item]
    await eventually(lambda: stuck.dropped, "it is cut off")
    watching.cancel()


# ---- what the kernel lacks

HERE = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
NOT_HERE = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0))  # for documents, of no machine
NO_FAMILY = (socket.AF_X25, socket.SOCK_STREAM, 0, "", ("1", 0))


async def test_addresses_that_the_machine_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(*_: object, **__: object) -> list[object]:
        return addresses

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    listener = Listener(web.Server(web.Response), Limits(1, 0, 0.0), Counts())
    addresses = [NO_FAMILY, NOT_HERE, HERE]
    assert (await listener.listen("localhost", 0)).startswith("('127.0.0.1', ")
    listener.close()
    for lacking in (NO_FAMILY, NOT_HERE):
        addresses = [lacking]
        with pytest.raises(OSError, match="not"):
            await listener.listen("localhost", 0)


class Troubled:
    """A listening socket whose first connections fail in the network."""

    family = socket.AF_INET

    def __init__(self, *errors: int) -> None:
        self.errors = [OSError(number, "network") for number in errors]
        self.ends, self.pair = list[socket.socket](), socket.socketpair()

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.errors:
            raise self.errors.pop()
        if self.ends:
            raise BlockingIOError
        self.ends.append(self.pair[0])
        return self.pair[0], ("192.0.2.1", 9)


async def test_a_network_error_is_that_of_one_connection() -> None:
    async with port() as it:
        waiting = Troubled(errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ECONNABORTED)
        it.listener._accept(waiting)  # type: ignore[arg-type]
        assert it.counts.open == 1, "the next connection was accepted in the same go"
        assert it.counts.limited["files"] == 0
        for end in waiting.pair:
            end.close()


# ---- descriptors


def test_the_limit_of_files_is_raised_and_leaves_some() -> None:
    code = "from llamaserver import file_limit as f; import resource as r\nf.raise_file_limit()\n"
    code += "print(*r.getrlimit(r.RLIMIT_NOFILE), f.default_connections())"
    for soft, hard, connections in ((64, 256, 128), (100, 1024, 768), (1024, 8192, 4096)):
        done = subprocess.run(
            ["bash", "-c", f"ulimit -Sn {soft}; ulimit -Hn {hard}; exec '{sys.executable}' -c '{code}'"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == [str(hard), str(hard), str(connections)]


def test_without_a_limit_of_files_there_is_one_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda which: unlimited)
    assert file_limit.default_connections() == 4096


def test_idle_connections_do_not_keep_probes_and_clients_out(tmp_path: Path) -> None:
    """With 256 descriptors, more connections than descriptors, and none of them sends anything."""
    management = free_port()
    command = (
        "bash", "-c", 'ulimit -n 256; exec "$@"', "-",
        sys.executable, "-m", "tests.support.server.toy_server", str(tmp_path), "-m", "toy", "--log-disable",
    )  # fmt: skip
    options = ("--management-port", str(management), "--management-host", "127.0.0.1")
    with ServerProcess(*options, command=command, cwd=Path(__file__).parents[2]) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(300)]
        url = f"http://127.0.0.1:{management}"
        for path in ("/livez", "/readyz"):
            assert httpx2.get(url + path, timeout=10, trust_env=False).status_code == 200
        body = json.dumps({"prompt": "ab", "n_predict": 2})
        assert httpx2.post(f"{server.url}/completion", content=body, timeout=10, trust_env=False).status_code == 200
        metrics = httpx2.get(f"{url}/metrics", timeout=10, trust_env=False).text
        assert 'connections_limited_total{reason="idle"} 0.0' not in metrics
        assert "--max-connections is reached" in server.log
        assert server.log.count("--max-connections is reached") < 5
        # the management port has a limit of its own
        more = [socket.create_connection(("127.0.0.1", management), timeout=10) for _ in range(150)]
        until(lambda: httpx2.get(f"{url}/livez", timeout=10, trust_env=False).status_code == 200, "it answers")
        for sock in (*idle, *more):
            sock.close()
