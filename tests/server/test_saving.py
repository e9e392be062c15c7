"""How long an ending server waits for its KV store."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest
from llamaserver import shutdown
from llamaserver.config import Config
from llamaserver.shutdown import Shutdown


class Saving:
    """An engine whose store writes `bytes` in as many looks, of one conversation."""

    def __init__(self, looks: float) -> None:
        self.looks, self.seen = looks, 0
        self.snapshot = SimpleNamespace(kv_unsaved=1)
        self.store = self
        self._done = asyncio.Event()

    def stats(self) -> Any:
        self.seen += self.seen < self.looks
        if self.seen == self.looks:
            self._done.set()
        return SimpleNamespace(bytes_written=self.seen)

    async def saved(self) -> None:
        await self._done.wait()


async def finish(engine: Any, end: float = math.inf) -> bool:
    """Whether all was saved."""
    context: Any = SimpleNamespace(config=Config(), engine=engine)
    ports: Any = None
    async with asyncio.timeout(30):
        await Shutdown(context, ports, asyncio.Event()).finish_saving(end)
    return bool(engine.seen == engine.looks)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "_STORE_STALLS", 0.01)


async def test_one_large_conversation_is_waited_for_while_it_is_written(caplog: pytest.LogCaptureFixture) -> None:
    assert await finish(Saving(20))
    assert "not saved" not in caplog.text


async def test_a_volume_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    engine = Saving(20)
    engine.stats = lambda: SimpleNamespace(bytes_written=7)  # type: ignore[method-assign]
    assert not await finish(engine)
    assert "1 conversations are not saved" in caplog.text


async def test_a_slow_volume_is_given_up_at_the_end() -> None:
    assert not await finish(Saving(math.inf), asyncio.get_running_loop().time() + 0.1)
