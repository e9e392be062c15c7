"""Memory after thousands of mixed requests is what it was after the first hundreds."""

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Abandoned, Client
from tests.support.server.process import ServerProcess
from tests.support.server.traffic import at_once

pytestmark = pytest.mark.slow
REQUESTS = 3000  # make soak runs for an hour
GROWTH = 20 * 1024 * 1024  # bytes
MESSAGES = [{"role": "user", "content": "Hello"}]


def one(client: Client, number: int) -> None:
    """Request `number` of a fixed mix: answers, streams, errors, monitoring, slots, cancellations."""
    rng = random.Random(number)
    text = f"{number} " * rng.randint(1, 3)
    kind = rng.randrange(10)
    call: Any = {
        0: lambda: client.events("/completion", prompt=text, n_predict=2),
        1: lambda: client.post("/v1/chat/completions", messages=MESSAGES, max_tokens=2, seed=number),
        2: lambda: client.events("/v1/chat/completions", messages=MESSAGES, max_tokens=2, logprobs=True),
        3: lambda: client.error("/completion", {"prompt": [10**7]}),
        4: lambda: client.post("/tokenize", content=text),
        5: lambda: (client.slots(), client.http.get("/metrics"), client.get("/props")),
        6: lambda: client.complete(text, n_predict=2, grammar="root ::= [a-z]+", n_probs=5),
        7: lambda: client.complete(text, n_predict=2, json_schema={"enum": [number]}),
        8: lambda: client.complete(text, n_predict=1, stop=["a", "b"], logit_bias=[[number % 300, 2.0]]),
        9: lambda: abandon(client, text),
    }[kind]
    call()


def abandon(client: Client, text: str) -> None:
    with Abandoned(client, {"prompt": text, "n_predict": 20, "stream": True}) as request:
        request.socket.settimeout(0.05)
        with suppress(TimeoutError):
            request.socket.recv(10)


def anonymous(process: psutil.Process) -> int:
    return sum(m.anonymous for m in process.memory_maps(grouped=False))


def test_memory_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny model leaves most of the time to what could leak: everything around the decodes."""
    model = str(Models(tmp_path).llama())
    with ServerProcess(
        "-m", model, "-t", "1", "-c", "2048", "-np", "4", "-cb", "--metrics", "--log-disable"
    ) as process:
        client = Client(process.url, limits=httpx2.Limits(max_connections=16))
        watched = psutil.Process(process.pid)
        at_once(lambda number: one(client, number), range(REQUESTS // 5), 8)
        before = anonymous(watched)
        at_once(lambda number: one(client, number), range(REQUESTS // 5, REQUESTS + REQUESTS // 5), 8)
        grown = anonymous(watched) - before
        until(lambda: not any(slot["state"] for slot in client.slots()), "the last, abandoned ones have ended")
    with capsys.disabled():
        print(f"\n{REQUESTS} mixed requests: {grown / 2**20:+.1f} MiB")
    assert grown < GROWTH
