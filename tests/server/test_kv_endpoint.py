"""What is said of a KV store whose volume hangs, and that it takes no thread that other requests need."""

import asyncio
import threading
from dataclasses import replace

from llamaserver.engine.snapshot import Snapshot
from llamaserver.kvstore.messages import StoreStats


class Hanging:
    """A store whose folder cannot be listed for now."""

    def __init__(self):
        self.listed, self.gate = threading.Event(), threading.Event()

    def listing(self):
        self.listed.set()
        assert self.gate.wait(30)
        return []

    def stats(self):
        return StoreStats(entries=3)


async def test_listings_that_hang_hold_up_nobody_else(ports):
    server, store = await ports(), Hanging()
    server.context.engine.snapshot, server.context.engine.store = Snapshot(state="ready"), store
    try:
        asked = [asyncio.create_task(server.client.get("/kv-store")) for _ in range(8)]
        assert await asyncio.to_thread(store.listed.wait, 30)
        async with asyncio.timeout(10):
            assert await server.context.blocking(lambda: "tokenized") == "tokenized"
    finally:
        store.gate.set()
    for answer in await asyncio.gather(*asked):
        assert (await answer.json())["entries"] == 3


async def test_a_store_that_is_being_opened_is_not_called_empty(ports):
    """Left out, it is unknown to the operator, which would tell its owner of an empty one."""
    server = await ports()
    for kept, shown in ((None, None), (StoreStats(opening=True), None), (StoreStats(entries=3), 3)):
        server.context.engine.snapshot = replace(server.context.engine.snapshot, kv_store=kept)
        body = await (await server.management.get("/status")).json()
        assert body.get("kv_store", {}).get("entries") == shown
