"""What the probes and the process say about an engine that hangs or fails. The backend has no weights."""

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.polling import tried, until
from tests.support.server.process import ServerProcess, free_port

ROOT = Path(__file__).parents[2]
SHORT = {"prompt": "ab c", "n_predict": 4, "temperature": 0}


class Faulty:
    """A server whose decodes fail or hang while a file is there."""

    def __init__(self, server: ServerProcess, management: str, folder: Path) -> None:
        self.server, self.management, self.folder = server, management, folder
        self.log = folder / "termination-log"

    def probe(self, path: str) -> httpx2.Response:
        return httpx2.get(f"{self.management}{path}", timeout=10, trust_env=False)

    def ask(self, **fields: object) -> httpx2.Response:
        return httpx2.post(f"{self.server.url}/completion", json={**SHORT, **fields}, timeout=60, trust_env=False)

    def metric(self, name: str) -> float:
        lines = self.probe("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])

    @contextmanager
    def fault(self, kind: str, rows: int = 1) -> Iterator[None]:
        """Of all decodes of at least that many rows."""
        (self.folder / kind).write_text(str(rows))
        try:
            yield
        finally:
            (self.folder / kind).unlink(missing_ok=True)


Start = Callable[..., "Faulty"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start such a server with these options."""
    running = []

    def begin(*options: str) -> Faulty:
        port = free_port()
        command = (sys.executable, "-m", "tests.support.server.toy_server", str(tmp_path), "-m", "toy", "--log-disable")
        own = ("--management-port", str(port), "--management-host", "127.0.0.1", "--termination-log")
        faulty = Faulty(
            ServerProcess(
                "-np", "2", "-cb", *own, str(tmp_path / "termination-log"), *options, command=command, cwd=ROOT
            ),
            f"http://127.0.0.1:{port}",
            tmp_path,
        )
        running.append(faulty.server)
        faulty.server.start()
        return faulty

    yield begin
    for kind in ("hang", "fatal"):
        (tmp_path / kind).unlink(missing_ok=True)
    for server in running:
        server.stop()


def test_failed_decodes_are_counted_and_the_server_goes_on(start: Start) -> None:
    faulty = start()
    assert faulty.ask().status_code == 200
    assert faulty.metric('llamaserver:decode_failures_total{status="fatal"}') == 0
    with faulty.fault("fatal", rows=2):
        for _ in range(4):
            assert faulty.ask(cache_prompt=False).status_code == 500
    assert faulty.ask().status_code == 200
    assert faulty.metric('llamaserver:decode_failures_total{status="fatal"}') == 4
    assert faulty.metric('llamaserver:requests_failed_total{code="500"}') == 4
    assert faulty.probe("/livez").status_code == faulty.probe("/readyz").status_code == 200


def test_a_backend_that_always_fails_ends_the_process_with_a_reason(start: Start) -> None:
    faulty = start()
    with faulty.fault("fatal"):
        answer = faulty.ask()  # one request is enough: tests of one row follow it
        assert answer.status_code == 500
        process = faulty.server.process
        assert process
        until(lambda: process.poll() is not None, "the process ends")
    assert process.returncode == 1
    told = json.loads(faulty.log.read_text())
    assert told == {
        "reason": "EngineFailed",
        "message": "3 decodes in a row have failed: llama_decode returned status FATAL",
    }
    assert "3 decodes in a row have failed" in faulty.server.log
    assert tried(lambda: faulty.probe("/livez"), httpx2.HTTPError)() is None


def test_a_decode_that_hangs_turns_readiness_and_then_liveness_off(start: Start) -> None:
    faulty = start("--decode-timeout", "1.5")
    assert faulty.ask().status_code == 200
    with faulty.fault("hang"), ThreadPoolExecutor() as pool:
        whole = pool.submit(faulty.ask)
        stream = pool.submit(lambda: faulty.ask(stream=True).text)
        until(lambda: faulty.probe("/readyz").status_code == 503, "it is unready")
        assert " tokens hangs since " in faulty.probe("/readyz").text
        health = httpx2.get(f"{faulty.server.url}/health", timeout=10, trust_env=False)
        assert (health.status_code, health.json()["status"]) == (503, "error")
        until(lambda: faulty.probe("/livez").status_code == 500, "it is not alive")
        assert whole.result(20).status_code == 500
        assert "tokens hangs since" in stream.result(20)  # with an error, although nothing was decoded
        assert faulty.ask().status_code == 503
        assert faulty.metric('llamaserver:decode_failures_total{status="fatal"}') == 0  # /metrics answers meanwhile
    until(lambda: faulty.probe("/readyz").status_code == 200, "it is ready again")
    assert faulty.probe("/livez").status_code == 200
    assert faulty.ask().status_code == 200
    lines = [line for line in faulty.server.log.splitlines() if "tokens hangs since" in line]
    assert len(lines) >= 2
    assert "toy_server.py" in lines[0]
    log = faulty.server.log
    assert log.index(": unready.") < log.index(": not alive")
    assert "goes on after" in log


def test_a_hung_server_ends_at_sigterm(start: Start) -> None:
    faulty = start("--decode-timeout", "0.5")
    with faulty.fault("hang"), ThreadPoolExecutor() as pool:
        asked = pool.submit(faulty.ask)
        until(lambda: faulty.probe("/livez").status_code == 500, "it is not alive")
        assert asked.result(20).status_code == 500
        assert faulty.server.stop(signal.SIGTERM) == 0


def test_clients_that_leave_in_a_stream_are_no_errors_of_the_server(start: Start) -> None:
    """A write may notice it before the connection's end is reported."""
    faulty = start()
    body = json.dumps({"prompt": "ab c", "n_predict": 200, "ignore_eos": True, "stream": True}).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for lines in range(60):
        with socket.create_connection(("127.0.0.1", faulty.server.port), timeout=20) as client:
            client.sendall(head + body)
            with client.makefile("rb") as answer:
                for _ in range(8 + lines % 10):
                    answer.readline()
    until(lambda: faulty.metric("llamaserver:connections") == 0, "all have left")
    until(lambda: faulty.metric("llamacpp:requests_processing") == 0, "no slot is busy")
    assert "Traceback" not in faulty.server.log
    assert '"status": 500' not in faulty.server.log
