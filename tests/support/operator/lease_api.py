"""A Lease in memory with resource versions, as in an API server, and failures of a network."""

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any, TypeVar

from llamaserver_operator.errors import Conflict, NotFound, Unreachable
from llamaserver_operator.kinds import Kind

Object = dict[str, Any]
T = TypeVar("T")


class Store:
    """The Lease that all instances share."""

    def __init__(self) -> None:
        self.body: Object | None = None
        self._version = 0
        self.writes: list[str] = []  # who held it after each write

    @property
    def holder(self) -> str:
        return self.body["spec"]["holderIdentity"] if self.body else ""

    def put(self, body: Object) -> Object:
        self._version += 1
        stored = copy.deepcopy(body)
        stored["metadata"]["resourceVersion"] = str(self._version)
        self.body = stored
        self.writes.append(self.holder)
        return copy.deepcopy(stored)

    def edit(self, **spec: Any) -> None:
        """A change by another client."""
        assert self.body is not None
        self.put({**self.body, "spec": {**self.body["spec"], **spec}})


class LeaseApi:
    """The connection of one instance to the store: `get`, `create` and `replace` of Cluster."""

    def __init__(self, store: Store, seed: int = 0) -> None:
        self.store = store
        self.down = False  # refused at once
        self.silent = False  # no answer at all, and nothing arrives
        self.loses_answers = False  # of writes: done, but nobody hears of it
        self.latency = 0.0
        self.calls = 0
        self._chance = random.Random(seed)

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return await self._call(lambda: copy.deepcopy(self.store.body))

    async def create(self, body: Object) -> Object:
        def do() -> Object:
            if self.store.body is not None:
                raise Conflict("already exists")
            return self.store.put(body)

        return await self._call(do)

    async def replace(self, body: Object) -> Object:
        body = copy.deepcopy(body)

        def do() -> Object:
            if self.store.body is None:
                raise NotFound("not found")
            if body["metadata"]["resourceVersion"] != self.store.body["metadata"]["resourceVersion"]:
                raise Conflict("the object has been modified")
            return self.store.put(body)

        return await self._call(do)

    async def _call(self, do: Callable[[], T]) -> T:
        self.calls += 1
        if self.down:
            raise Unreachable("connection refused")
        if self.silent:
            await asyncio.Event().wait()
        await asyncio.sleep(self.latency * self._chance.random())  # on its way: cancelled now, it never arrives
        before = len(self.store.writes)
        answer = do()
        if self.loses_answers and len(self.store.writes) > before:
            raise Unreachable("connection reset")
        await asyncio.sleep(self.latency * self._chance.random())  # on its way back: cancelled now, it is done
        return answer
