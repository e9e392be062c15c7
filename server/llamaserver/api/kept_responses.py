"""Responses that clients can refer to by their ids. They are kept in memory only, within bounds."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from ..errors import InvalidRequest
from .json_size import check_size

_OVERHEAD = 1024  # bytes of a response beside its texts
_LONGEST = 10_000  # responses of one conversation

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """One response: the id of the one before it, and the items that it was asked with and has answered, as JSON.

    `rest` is the response object without its output.
    """

    previous: str
    input: bytes
    output: bytes
    ids: tuple[str, ...]  # of the items of the output
    rest: bytes = b"{}"

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return len(self.input) + len(self.output) + len(self.rest) + _OVERHEAD

    @property
    def response(self) -> bytes:
        """The response object."""
        return with_output(self.rest, self.output)


def with_output(rest: bytes, output: bytes) -> bytes:
    """A response object, of one without its output and the items of that, as JSON."""
    return rest[:-1] + b',"output":' + output + b"}"


class KeptResponses:
    """The last responses of all clients, each for its client only. Any thread can use it.

    All together take at most `limit` bytes, those of one client half of them. The least recently used go first: of
    a client that has reached its bound, else of the client that has most.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._clients: dict[str, _Client] = {}

    def keep(self, client: str, name: str, response: Kept) -> None:
        """Keep a response, unless it is larger than what one client can have."""
        share = self.limit // 2
        if response.size > share:
            return
        with self._lock:
            one = self._clients.setdefault(client, _Client())
            one.add(name, response)
            while one.size > share:
                one.forget_oldest()
            while self._total() > self.limit:
                max(self._clients.values(), key=lambda each: each.size).forget_oldest()

    def response(self, client: str, name: str) -> Kept | None:
        """A response by its id."""
        with self._lock:
            one = self._clients.get(client)
            return one.use(name) if one else None

    def forget(self, client: str, name: str) -> bool:
        """Forget a response. Returns whether there was one."""
        with self._lock:
            one = self._clients.get(client)
            return one is not None and one.forget(name)

    def response_of(self, client: str, item: str) -> Kept | None:
        """The response that has answered an item, by the id of the item."""
        with self._lock:
            one = self._clients.get(client)
            return one.use(one.owners.get(item, "")) if one else None

    def _total(self) -> int:
        return sum(client.size for client in self._clients.values())


class _Client:
    """The responses of one client, the least recently used first."""

    def __init__(self) -> None:
        self.size = 0
        self.owners: dict[str, str] = {}  # ids of responses by those of their items
        self._responses: OrderedDict[str, Kept] = OrderedDict()

    def add(self, name: str, response: Kept) -> None:
        self._responses[name] = response
        self.owners.update(dict.fromkeys(response.ids, name))
        self.size += response.size

    def use(self, name: str) -> Kept | None:
        if name in self._responses:
            self._responses.move_to_end(name)
        return self._responses.get(name)

    def forget_oldest(self) -> None:
        self.forget(next(iter(self._responses)))

    def forget(self, name: str) -> bool:
        response = self._responses.pop(name, None)
        if response is None:
            return False
        for item in response.ids:
            self.owners.pop(item, None)
        self.size -= response.size
        return True


class Earlier:
    """What one request can take from earlier responses of its client: items of at most `room` bytes in all."""

    def __init__(self, kept: KeptResponses, client: str, room: int) -> None:
        self._kept, self._client, self._room = kept, client, room
        self._items: dict[str, tuple[Item, int]] = {}  # with their bytes

    @property
    def keeps(self) -> bool:
        """Whether the server keeps responses at all."""
        return self._kept.limit > 0

    def conversation(self, name: str) -> list[Item]:
        """All items up to the end of a response, the earliest first. Raises InvalidRequest."""
        field, wanted = "previous_response_id", name
        parts: list[bytes] = []
        while name:
            response = self._kept.response(self._client, name)
            if response is None or len(parts) > _LONGEST:
                raise InvalidRequest(
                    f"Field '{field}': Previous response with id '{wanted:.100}' not found. The server keeps the last "
                    "responses in memory only",
                    field=field,
                    code="previous_response_not_found",
                )
            self._take(len(response.input) + len(response.output), field)
            parts += [response.output, response.input]
            name = response.previous
        check_size(b",".join(parts))
        return [item for part in reversed(parts) for item in orjson.loads(part)]

    def before(self, response: Kept) -> list[Item]:
        """All items that a response has answered, the earliest first. What is forgotten is left out."""
        try:
            earlier = self.conversation(response.previous)
        except InvalidRequest:
            earlier = []
        check_size(response.input)
        return [*earlier, *orjson.loads(response.input)]

    def item(self, name: str, field: str) -> Item:
        """An item of an answer by its id. Raises InvalidRequest that names the field."""
        if name not in self._items:
            response = self._kept.response_of(self._client, name)
            if response is None:
                raise InvalidRequest(
                    f"Field '{field}': Item with id '{name:.100}' not found. The server keeps the items of the last "
                    "responses in memory only. Send the item itself",
                    field=field,
                )
            self._take(len(response.output), field)
            self._items |= {item["id"]: (item, len(orjson.dumps(item))) for item in orjson.loads(response.output)}
        item, size = self._items[name]
        self._take(size, field)
        return item

    def _take(self, count: int, field: str) -> None:
        self._room -= count
        if self._room < 0:
            raise InvalidRequest(
                f"Field '{field}': the conversation is larger than a body may be (--max-body)", field=field
            )
