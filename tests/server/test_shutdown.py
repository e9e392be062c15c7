"""Signals to a real server that serves: draining, deadlines, and stopping at once."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from tests.support.paths import model_path
from tests.support.polling import tried, until
from tests.support.server import certificates
from tests.support.server.client import Client, read_events
from tests.support.server.process import ServerProcess, free_port

pytestmark = pytest.mark.model
ENDLESS = {"n_predict": -1, "ignore_eos": True}


@contextmanager
def started(*args):
    """A server with two slots, and the URL of its management port."""
    port = free_port()
    management = ("--management-port", str(port), "--management-host", "127.0.0.1")
    arguments = ("-m", str(model_path()), "-c", "1024", "-np", "2", "-cb", *management, *args)
    with ServerProcess(*arguments, wait=False) as server:
        url = f"http://127.0.0.1:{port}"
        until(tried(lambda: ready(url).status_code == 200, httpx2.HTTPError), "the server is ready", 120)
        yield server, url


class Reader(threading.Thread):
    """A client that streams a completion; `begun` is set at the first event."""

    def __init__(self, url, **fields):
        super().__init__(daemon=True)
        self.url, self.fields = url, {"prompt": "Once upon a time", "temperature": 0, "stream": True, **fields}
        self.begun, self.events, self.error = threading.Event(), [], None
        self.start()
        assert self.begun.wait(60)

    def run(self):
        try:
            with httpx2.stream(
                "POST", f"{self.url}/completion", json=self.fields, timeout=60, trust_env=False
            ) as answer:
                for event in read_events(answer.iter_lines()):
                    self.events.append(event)
                    self.begun.set()
        except httpx2.HTTPError as error:
            self.error = error

    def ended(self):
        """All events, once the server has ended the stream properly."""
        self.join(60)
        assert not self.is_alive()
        assert self.error is None
        return self.events


class Held:
    """A request whose body is not complete yet, so that a drain has to wait for it."""

    def __init__(self, port):
        body = json.dumps({"prompt": "held", "n_predict": 3, "temperature": 0, "ignore_eos": True}).encode()
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        head = f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self.sock.sendall(head.encode() + body[:10])
        self.rest = body[10:]

    def finish(self):
        """Send the rest; the head and the JSON body of the answer, up to the end of the connection."""
        self.sock.sendall(self.rest)
        answer = b""
        while data := self.sock.recv(65536):
            answer += data
        self.sock.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head.decode(), json.loads(body)


def completion(server):
    """A short request on a connection of its own."""
    fields = {"prompt": "Hello", "n_predict": 2, "temperature": 0}
    return httpx2.post(f"{server.url}/completion", json=fields, timeout=60, trust_env=False)


def ready(management):
    return httpx2.get(f"{management}/readyz", timeout=10, trust_env=False)


def exit_code(server):
    until(lambda: server.process.poll() is not None, "the server ends", 60)
    return server.process.returncode


def test_a_drain_turns_clients_away_and_finishes_what_runs():
    with started("--drain-delay", "6", "--drain-timeout", "120") as (server, management):
        assert ready(management).status_code == 200
        stream = Reader(server.url, n_predict=200, ignore_eos=True)
        held = Held(server.port)
        server.process.send_signal(signal.SIGTERM)

        # unready at once, still serving
        until(lambda: ready(management).status_code == 503, "readiness is off")
        assert ready(management).text == "shutting down\n"
        answer = completion(server)
        assert answer.status_code == 200
        assert answer.headers["Connection"] == "close"
        assert answer.json()["content"]

        # then refusing, while what began before goes on
        until(lambda: completion(server).status_code == 503, "requests are refused")
        refused = completion(server)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.headers["Connection"] == "close"
        assert refused.json()["error"]["type"] == "unavailable_error"
        health = httpx2.get(f"{server.url}/health", timeout=60, trust_env=False)
        assert (health.status_code, health.json()["status"]) == (503, "shutting down")
        state = httpx2.get(f"{management}/status", timeout=60, trust_env=False).json()
        assert (state["state"], state["ready"]) == ("draining", False)
        assert httpx2.get(f"{management}/livez", timeout=60, trust_env=False).status_code == 200

        head, body = held.finish()
        assert head.startswith("HTTP/1.1 200 ")
        assert body["tokens_predicted"] == 3
        events = stream.ended()
        assert events[-1]["stop"] is True
        assert events[-1]["tokens_predicted"] == 200
        assert exit_code(server) == 0
        assert "cut off" not in server.log


def test_a_stream_that_starts_while_draining_closes_its_connection():
    with started("--drain-delay", "60") as (server, management):
        server.process.send_signal(signal.SIGTERM)
        until(lambda: ready(management).status_code == 503, "readiness is off")
        fields = {"prompt": "Hello", "n_predict": 3, "stream": True}
        with httpx2.stream("POST", f"{server.url}/completion", json=fields, timeout=60, trust_env=False) as answer:
            assert answer.headers["Connection"] == "close"
            assert list(read_events(answer.iter_lines()))[-1]["stop"] is True
        server.process.send_signal(signal.SIGTERM)  # a second one ends the wait
        assert exit_code(server) == 0


def test_a_stream_that_outlasts_the_drain_ends_with_an_error():
    with started("--drain-delay", "0", "--drain-timeout", "1") as (server, _):
        stream = Reader(server.url, **ENDLESS)
        server.process.send_signal(signal.SIGTERM)
        events = stream.ended()
        error = events[-1]["error"]
        assert (error["code"], error["type"]) == (503, "unavailable_error")
        assert "not complete" in error["message"]
        assert all(event["stop"] is False for event in events[:-1])
        assert exit_code(server) == 0
        assert "running requests are cut off" in server.log
        assert "Traceback" not in server.log


class Kept:
    """A connection that its client keeps open: what is sent, and one answer after the other."""

    def __init__(self, port, cafile=None):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        if cafile:
            context = ssl.create_default_context(cafile=cafile)
            context.check_hostname = False
            self.sock = context.wrap_socket(self.sock)
        self.reader = self.sock.makefile("rb")

    def send(self, *bodies):
        requests = []
        for fields in bodies:
            body = json.dumps({"prompt": "Once upon a time", "temperature": 0, "ignore_eos": True, **fields}).encode()
            head = f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            requests.append(head.encode() + body)
        self.sock.sendall(b"".join(requests))

    def begin(self):
        """Read the head of an answer: its status, and whether it says that the connection ends with it."""
        status = int(self.reader.readline().split()[1])
        headers = http.client.parse_headers(self.reader)
        self.length = headers.get("Content-Length")
        return status, headers.get("Connection") == "close"

    def finish(self):
        """Read the rest of it: its last JSON value."""
        if self.length is not None:
            return json.loads(self.reader.read(int(self.length)))
        chunks = []
        while size := int(self.reader.readline(), 16):
            chunks.append(self.reader.read(size))
            self.reader.readline()
        self.reader.readline()
        return list(read_events(iter(b"".join(chunks).decode().splitlines())))[-1]

    def ended(self):
        """Whether the server has closed the connection and sent nothing else."""
        return self.reader.read() == b""

    def close(self):
        self.reader.close()
        self.sock.close()


@pytest.fixture(params=["http", "https"])
def transport(request, tmp_path):
    """Options of a server, and the certificate that its clients trust."""
    if request.param == "http":
        return (), None
    certificate, key = certificates.make(tmp_path, "127.0.0.1")
    return ("--ssl-cert-file", str(certificate), "--ssl-key-file", str(key)), str(certificate)


@pytest.mark.parametrize("stage", ["draining", "refusing"])
def test_kept_connections_get_one_last_answer_at_every_stage(stage, transport):
    options, trusted = transport
    delay = {"draining": "60", "refusing": "1"}[stage]
    with started("--drain-delay", delay, "--drain-timeout", "120", *options) as (server, management):
        idle, ahead, streaming, held = [Kept(server.port, trusted) for _ in range(4)]
        for kept in (idle, ahead):
            kept.send({"n_predict": 2})
            assert kept.begin() == (200, False)
            kept.finish()
        held.send({"n_predict": -1, "stream": True})  # so the drain lasts
        streaming.send({"n_predict": 100, "stream": True})
        assert held.begin() == streaming.begin() == (200, False)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: ready(management).status_code == 503, "readiness is off")
        if stage == "refusing":
            until(lambda: refuses(server.port, trusted), "new connections are refused")

        idle.send({"n_predict": 2})
        assert idle.begin() == (200, True)
        assert idle.finish()["tokens_predicted"] == 2
        assert idle.ended()

        ahead.send({"n_predict": 2}, {"n_predict": 3, "stream": True}, {"n_predict": 4})
        answers = [(ahead.begin(), ahead.finish()["tokens_predicted"]) for _ in range(3)]
        assert answers == [((200, False), 2), ((200, False), 3), ((200, True), 4)]
        assert ahead.ended()

        assert streaming.finish()["tokens_predicted"] == 100
        streaming.send({"n_predict": 2, "stream": True})  # at once: it cannot know
        assert streaming.begin() == (200, True)
        assert streaming.finish()["tokens_predicted"] == 2
        assert streaming.ended()

        held.close()
        assert exit_code(server) == 0


def refuses(port, trusted):
    late = Kept(port, trusted)
    late.send({"n_predict": 1})
    return late.begin() == (503, True)


def test_clients_that_send_without_a_pause_are_told_before_their_connections_end():
    """Streams of many lengths, so that a drain begins and goes on at any moment of them."""
    with started("--drain-delay", "1", "--drain-timeout", "120") as (server, _):
        begun = threading.Barrier(7, timeout=60)

        def client(number):
            kept, sent = Kept(server.port), 0
            while True:
                tokens = 1 + (7 * number + 11 * sent) % 40
                kept.send({"n_predict": tokens, "stream": bool((number + sent) % 3)})
                status, last = kept.begin()
                assert status == 200, kept.finish()
                assert kept.finish()["tokens_predicted"] == tokens
                if last:
                    return kept.ended()
                sent += 1
                if sent == 3:
                    begun.wait()

        with ThreadPoolExecutor(6) as pool:
            clients = [pool.submit(client, number) for number in range(6)]
            begun.wait()
            server.process.send_signal(signal.SIGTERM)
            assert [each.result() for each in clients] == [True] * 6
        assert exit_code(server) == 0


def test_a_connection_that_idles_is_closed_when_nobody_else_is_waited_for():
    with started("--drain-delay", "1", "--drain-timeout", "3600") as (server, _):
        idle = Kept(server.port)
        idle.send({"n_predict": 2})
        assert idle.begin() == (200, False)
        idle.finish()
        server.process.send_signal(signal.SIGTERM)
        assert idle.ended()
        assert exit_code(server) == 0


# A single long call would not do: a signal just before it is only handled at its end.
SLOW_IMPORT = """
import time
print("importing", flush=True)
while True:
    time.sleep(0.01)
"""
MISSING = '{"path": "key/model.gguf", "http": {"url": "http://127.0.0.1:9/model.gguf"}}'


@pytest.mark.parametrize(("command", "code"), [(("-m", "model.gguf"), 0), (("fetch", "--file", MISSING), 143)])
def test_a_signal_before_anything_has_begun_ends_the_process(tmp_path, command, code):
    """Process 1 of a container has no default action for it: a handler must be there from the start."""
    for module in ("aiohttp", "uvloop"):
        (tmp_path / f"{module}.py").write_text(SLOW_IMPORT)
    argv, env = [sys.executable, "-m", "llamaserver", *command], {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env, cwd=tmp_path) as process:
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == code


def test_an_answer_that_outlasts_the_drain_is_a_503():
    with started("--drain-delay", "0", "--drain-timeout", "1") as (server, _):
        answers = []

        def ask():
            fields = {"prompt": "Once", **ENDLESS}
            answers.append(httpx2.post(f"{server.url}/completion", json=fields, timeout=60, trust_env=False))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        client = Client(server.url)
        until(lambda: any(slot["state"] for slot in client.slots()), "the request runs")
        server.process.send_signal(signal.SIGTERM)
        asking.join(60)
        (answer,) = answers
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "unavailable_error"
        assert exit_code(server) == 0


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_stopping_at_once(sig, code):
    """SIGINT does not drain; neither does a second SIGTERM."""
    with started("--drain-delay", "3600", "--drain-timeout", "3600") as (server, management):
        stream = Reader(server.url, **ENDLESS)
        if sig == signal.SIGTERM:
            server.process.send_signal(sig)
            until(lambda: ready(management).status_code == 503, "readiness is off")
        server.process.send_signal(sig)
        assert exit_code(server) == code
        assert "error" in stream.ended()[-1]
        assert "Traceback" not in server.log


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_an_idle_server_ends_at_once(sig, code):
    """Nobody has asked for a delay: at a terminal there is no load balancer to wait for."""
    with ServerProcess("-m", str(model_path()), "-c", "512") as server:
        assert Client(server.url).complete("x")["content"]
        assert server.stop(sig, timeout=10) == code
        messages = [json.loads(line)["msg"] for line in server.log.splitlines()]
        assert messages[-1] == "stopped"
        assert ("draining: unready now, refusing new connections in 0s" in messages) == (sig == signal.SIGTERM)


def test_without_a_delay_nothing_new_is_taken_and_what_runs_is_finished():
    with started() as (server, management):
        stream = Reader(server.url, n_predict=60, ignore_eos=True)
        held = Held(server.port)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: ready(management).status_code == 503, "readiness is off")
        assert completion(server).status_code == 503
        assert held.finish()[1]["tokens_predicted"] == 3
        assert stream.ended()[-1]["tokens_predicted"] == 60
        assert exit_code(server) == 0
        assert "cut off" not in server.log


def test_an_open_connection_does_not_hold_up_the_end():
    with started("--drain-delay", "0", "--drain-timeout", "3600") as (server, _):
        client = Client(server.url)
        client.get("/health")  # keeps its connection
        silent = socket.create_connection(("127.0.0.1", server.port))
        assert server.stop(signal.SIGTERM) == 0
        silent.close()
        client.http.close()
