"""Streams of events: what came before a failure, and answers whose end takes long to read."""

import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from llamaserver.api.app import build_context
from llamaserver.api.body import HOLD
from llamaserver.api.context import CONTEXT
from llamaserver.api.sse import respond
from llamaserver.config import Config
from llamaserver.engine.loop import Engine
from llamaserver.engine.stream import Stream
from llamaserver.engine_options import engine_settings
from llamaserver.errors import Unavailable
from llamaserver.interfaces.output import Delta, Event, Failed, Finish, Timings
from llamaserver.llama.templates import LlamaTemplates
from llamaserver.scheduling.client_flow import ClientFlow

FINISH = Finish("!", "eos", "", False, 1, 0, 1, 0, Timings(0, 0, 0, 0, 0))
FAILED = Failed(Unavailable("gone"))


class Served:
    """One stream behind a server. `threads` are those that have encoded its events."""

    def __init__(self) -> None:
        self.stream = Stream(1, ClientFlow(), lambda: None, lambda: None)
        self.threads: list[str] = []
        self.held = 0
        self.client: TestClient[Any, Any]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        with request.app[CONTEXT].bodies.hold("") as request[HOLD]:
            return await respond(request, [self.stream], self._encode, fail=_fail, held=lambda: self.held)

    def _encode(self, _: int, event: Event) -> bytes:
        assert isinstance(event, Delta | Finish)
        self.threads.append(threading.current_thread().name)
        return event.content.encode()


def _fail(error: Exception) -> bytes:
    return f"({error})".encode()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    config = Config(model="model.gguf")
    made, app = Served(), web.Application()
    app[CONTEXT] = build_context(config, Engine(lambda progress: None, engine_settings(config)), LlamaTemplates())  # type: ignore[arg-type, return-value]
    app.router.add_get("/", made.answer)
    async with TestClient(TestServer(app)) as made.client:
        yield made
    app[CONTEXT].close()


async def test_what_comes_together_with_a_failure_is_sent_before_it(served: Served) -> None:
    served.stream.put(Delta("a"))
    answer = await served.client.get("/")
    assert await answer.content.readexactly(1) == b"a"
    served.stream.put(Delta("b"))
    served.stream.put(FAILED)
    assert await answer.read() == b"b(gone)"


async def test_an_early_failure_is_an_answer_of_its_own(served: Served) -> None:
    served.stream.put(Delta("a"))
    served.stream.put(FAILED)
    answer = await served.client.get("/")
    assert answer.status == 500  # without the middleware that knows our errors
    assert served.threads == []


@pytest.mark.parametrize(("held", "thread"), [(0, "MainThread"), (1 << 20, "http_0")])
async def test_a_worker_thread_reads_an_end_that_takes_long(served: Served, held: int, thread: str) -> None:
    served.held = held
    served.stream.put(Delta("a"))
    answer = await served.client.get("/")
    assert await answer.content.readexactly(1) == b"a"
    served.stream.put(FINISH)
    assert await answer.read() == b"!"
    assert served.threads == ["MainThread", thread]
