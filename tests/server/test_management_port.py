"""The management port has a thread of its own: it answers, truthfully, whatever the clients' event loop does."""

import asyncio
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager

import pytest
from llamaserver.api import heartbeat
from llamaserver.api.app import build_context
from llamaserver.api.context import Context
from llamaserver.api.heartbeat import DEAD, UNREADY, Heartbeat
from llamaserver.config import Config
from llamaserver.engine.loop import Engine
from llamaserver.engine_options import engine_settings
from llamaserver.errors import ConfigError
from llamaserver.listening import Ports
from llamaserver.llama.templates import LlamaTemplates
from llamaserver.standstill import TICK, Alarm

from tests.support.engine.toy import ToyBackend
from tests.support.polling import eventually
from tests.support.server.process import free_port


@asynccontextmanager
async def serving(**options: object) -> AsyncIterator[tuple[Context, str]]:
    """A ready server without weights, on real ports, and the URL of its management port."""
    port = free_port()
    config = Config(port=free_port(), management_host="127.0.0.1", management_port=port, **options)  # type: ignore[arg-type]
    engine = Engine(lambda progress: ToyBackend(n_ctx=512, n_seq_max=1), engine_settings(config))
    context = build_context(config, engine, LlamaTemplates())
    ports = Ports(context)
    await ports.open()
    engine.start()
    await engine.loaded()
    context.settled.set()
    try:
        yield context, f"http://127.0.0.1:{port}"
    finally:
        await engine.stop()
        await ports.close()
        context.close()


def probe(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_probes_answer_while_the_clients_loop_is_blocked() -> None:
    """The loop of this test is that of the clients."""
    async with serving() as (_, url):
        with ThreadPoolExecutor() as pool:
            ended = threading.Event()

            def ask() -> list[tuple[int, str]]:
                answers = [probe(url + path) for path in ("/livez", "/readyz?wait=4", "/status", "/metrics")]
                ended.set()
                return answers

            asked = pool.submit(ask)
            assert ended.wait(10)  # blocks the loop meanwhile
            answers = asked.result()
    assert [code for code, _ in answers] == [200] * 4
    assert "llamacpp:requests_processing 0.0" in answers[3][1]


async def test_a_loop_that_is_stuck_is_unready_then_not_alive_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "UNREADY", 0.5)
    monkeypatch.setattr(heartbeat, "DEAD", 2.5)
    async with serving() as (context, url):
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(wait_until_dead, url)
            wait([asked], timeout=60)  # blocks the loop
            first, ready = asked.result()
        assert first == (200, "ok\n")
        assert ready[0] == 503
        assert ready[1].startswith("the event loop hangs since ")
        await eventually(lambda: not context.hang, "the loop answers again")
        assert await asyncio.to_thread(probe, f"{url}/livez") == (200, "ok\n")


def wait_until_dead(url: str) -> tuple[tuple[int, str], tuple[int, str]]:
    """The first answer of /livez, and that of /readyz once /livez says no."""
    first = probe(f"{url}/livez")
    end = time.monotonic() + 30
    while probe(f"{url}/livez")[0] != 500:
        assert time.monotonic() < end
        time.sleep(0.02)
    return first, probe(f"{url}/readyz")


def test_the_limits_of_the_loop() -> None:
    now = [0.0]
    beat, questions = Heartbeat(), []
    beat.alarm = Alarm(lambda: "here", clock=lambda: now[0])
    seen = {}
    for second in range(round(DEAD) + 5):
        now[0] = second * TICK
        beat.look(questions.append)
        seen[second] = (bool(beat.alarm.reason), beat.alarm.dead)
    # The first look asks, the second one finds no answer.
    assert next(second for second in seen if seen[second][0]) == UNREADY + 1
    assert next(second for second in seen if seen[second][1]) == DEAD + 1
    assert len(questions) == 1
    questions[0]()
    beat.look(questions.append)
    assert (beat.alarm.reason, beat.alarm.dead) == ("", False)
    assert len(questions) == 2


async def test_probes_that_wait_leave_room_for_others() -> None:
    async with serving() as (context, url):
        context.settled.clear()
        with ThreadPoolExecutor(64) as pool:
            asked = [pool.submit(probe, f"{url}/readyz?wait=99") for _ in range(64)]
            try:
                await eventually(lambda: sum(one.done() for one in asked) == 64 - 16, "most do not wait")
                assert await asyncio.to_thread(probe, f"{url}/livez") == (200, "ok\n")
            finally:
                context.settled.set()
        assert {one.result() for one in asked} == {(200, "ok\n")}


async def test_a_port_that_is_taken_is_an_error_of_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = Config(port=free_port(), management_host="127.0.0.1", management_port=port)
        context = build_context(
            config, Engine(lambda progress: ToyBackend(), engine_settings(config)), LlamaTemplates()
        )
        ports = Ports(context)
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            await ports.open()
        await ports.close()
        context.close()
