"""Answers that nobody reads do not stay for ever: their connections are cut off."""

import contextlib
import json
import socket
import time

import psutil
import pytest

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess, free_port

pytestmark = pytest.mark.model
TIMEOUT = 1
LARGE = 7_000_000  # bytes of an answer, more than the kernel's buffers take
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(path, **fields):
    body = json.dumps(fields).encode()
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path, len(body)) + body


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    (folder / "large.bin").write_bytes(bytes(LARGE))
    (folder / "page").write_bytes(b"small")
    (folder / "page.gz").write_bytes(bytes(LARGE))
    management = free_port()
    options = ("--path", str(folder), "--metrics", "--timeout", str(TIMEOUT), "--management-port", str(management))
    with ServerProcess("-m", str(model_path()), "-c", "512", *options) as process:
        process.management = management
        yield process


class Unread:
    """A client with a small window that sends and never reads."""

    def __init__(self, port):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port))
        self._port = self.socket.getsockname()[1]

    def send(self, data):
        self.socket.settimeout(0.2)
        try:
            while data:
                data = data[self.socket.send(data) :]
        except OSError:
            pass  # the server reads no more, or has closed

    def wait_for_the_end(self, process):
        """Wait until the server has closed the connection. It must not have sent everything to the kernel."""
        until(lambda: self.is_open(process), "the connection is open")
        until(lambda: not self.is_open(process), "the connection is closed")
        self.socket.settimeout(10)
        read = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := self.socket.recv(1 << 20):
                read += len(piece)
        self.socket.close()
        assert read < LARGE

    def is_open(self, process):
        connections = psutil.Process(process.pid).net_connections("tcp")
        return any(one.raddr and one.raddr.port == self._port for one in connections)


@pytest.mark.parametrize(
    "sent",
    [
        post(b"/apply-template", messages=[{"role": "user", "content": "x" * LARGE}]),
        GET % b"/large.bin",
        b"GET /page HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n",
        GET % b"/props" * 4_000,
        GET % b"/health" * 200,
    ],
    ids=["answer", "file", "packed file", "many answers", "a few answers"],
)
def test_what_nobody_reads_is_cut_off(server, sent):
    client = Unread(server.port)
    client.send(sent)
    client.wait_for_the_end(server)
    assert Client(server.url).get("/health")["status"] == "ok"


def test_on_the_management_port_too(server):
    client = Unread(server.management)
    client.send(GET % b"/metrics" * 4_000)
    client.wait_for_the_end(server)


def test_a_slow_reader_is_not_cut_off(server):
    """It takes much longer than the time-out, but it reads."""
    client = Unread(server.port)
    client.send(GET % b"/large.bin")
    client.socket.settimeout(10)
    end = time.monotonic() + 4 * TIMEOUT
    while time.monotonic() < end:
        assert client.socket.recv(100)
        time.sleep(0.01)  # the kernel's buffers are full all the time
    client.socket.close()
