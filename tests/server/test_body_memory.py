"""The memory of a real server while clients send it bodies that are cheap for them."""

import gzip
import re
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.client import Abandoned, Client
from tests.support.server.process import ServerProcess, free_port
from tests.support.server.traffic import at_once

pytestmark = pytest.mark.model
MIB = 2**20
BOMB = gzip.compress(b'{"prompt": "x", "unknown": [' + b'{"":0},' * 9_500_000 + b"0]}")  # 67 MB, and 2 GB when parsed
OBJECTS = b'{"prompt": "x", "unknown": [' + b'{"":0},' * 1_150_000 + b"0]}"  # 8 MiB, and 270 MiB when parsed
FLOATS = [1.5] * 1_000_000  # 4 MB, and 32 MB when parsed


class Server:
    """A server with one slot, and its memory."""

    def __init__(self, process, management):
        self.process, self.client = process, Client(process.url)
        self._livez = f"http://127.0.0.1:{management}/livez"

    def memory(self, name):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M)[1]) * 1024

    def forget_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def lives(self):
        return httpx2.get(self._livez, timeout=30, trust_env=False).status_code == 200

    def send(self, body, headers):
        """Status of the answer."""
        with httpx2.Client(base_url=self.process.url, timeout=60, trust_env=False) as http:
            return http.post("/completion", content=body, headers=headers).status_code


@pytest.fixture(scope="module")
def server():
    port = free_port()
    with ServerProcess("-m", str(model_path()), "-c", "512", "--management-port", str(port), "--metrics") as process:
        made = Server(process, port)
        made.client.complete("warm")
        yield made


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [(BOMB, {"Content-Encoding": "gzip"}, {415}), (OBJECTS, {}, {400, 503})],
    ids=["gzip", "objects"],
)
def test_ten_bombs_at_once_take_little(server, body, headers, status):
    server.forget_peak()
    before = server.memory("VmRSS")
    assert set(at_once(lambda _: server.send(body, headers), range(10), 10)) <= status
    assert server.lives()
    assert server.memory("VmHWM") - before < 250 * MIB
    assert server.client.complete("x", n_predict=1)["tokens_predicted"] == 1


def test_what_waits_or_runs_does_not_keep_its_parsed_body(server):
    body = {"prompt": "Once", "n_predict": -1, "ignore_eos": True, "unknown": FLOATS}
    before = server.memory("VmRSS")
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(Abandoned(server.client, body))
        until(lambda: server.client.metric("llamacpp:requests_deferred") == 7, "one runs and the others wait")
        assert server.memory("VmRSS") - before < 150 * MIB
    until(lambda: not server.client.slots()[0]["state"], "the slot is free")
