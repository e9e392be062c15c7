"""The two applications without a model: what they answer while nothing is loaded."""

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer
from llamaserver.api.app import build_app, build_context, build_management_app
from llamaserver.config import Config
from llamaserver.engine.loop import Engine
from llamaserver.engine_options import engine_settings
from llamaserver.llama.templates import LlamaTemplates


class Ports:
    """Client port, management port, and the state behind them."""

    def __init__(self, context, client, management):
        self.context, self.client, self.management = context, client, management

    @property
    def connections(self):
        """Of the client port, as the server has them."""
        return self.client.server.runner.server.connections

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are; everything that comes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.client.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def get(self, target: str) -> tuple[int, bytes]:
        """GET a request target that no client library may tidy up: status and body."""
        head = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await self.raw(head.encode("utf-8", "surrogateescape"))
        first, _, body = answer.partition(b"\r\n\r\n")
        return int(first.split()[1]), body


@pytest.fixture
async def ports():
    """Start both applications with these options; the engine has not begun to load."""
    stack = []

    async def start(**options):
        options.setdefault("allowed_hosts", ("x",))  # the name in the raw requests of tests
        config = Config(model="model.gguf", **options)
        context = build_context(config, Engine(lambda progress: None, engine_settings(config)), LlamaTemplates())
        clients = [TestClient(TestServer(app(context))) for app in (build_app, build_management_app)]
        for client in clients:
            await client.server.start_server(auto_decompress=False)  # as in listening.py
            await client.start_server()
        stack.append((context, clients))
        return Ports(context, *clients)

    yield start
    for context, clients in stack:
        for client in clients:
            await client.close()
        context.close()
