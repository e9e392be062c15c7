"""The operator's health port, as HTTP."""

import asyncio

import pytest
from llamaserver_operator.config import Config
from llamaserver_operator.health import Health
from llamaserver_operator.metrics import Metrics


@pytest.mark.parametrize("sent", ["GET /healthz HTTP/1.1", "GET /nothing HTTP/1.1", "nonsense"])
async def test_no_answer_names_versions(sent: str) -> None:
    health = Health(Config(health_port=0, health_host="127.0.0.1"), Metrics(), lambda: "", lambda: True)
    port = await health.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{sent}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read()).lower()
        writer.close()
    finally:
        await health.stop()
    assert b"server: llamaserver\r\n" in answer
    assert b"aiohttp" not in answer
    assert b"python" not in answer
