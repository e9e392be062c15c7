"""The bytes of request bodies that the server holds: a limit for all requests together, and one for each client."""

from collections import Counter
from types import TracebackType
from typing import Self

from ..errors import Unavailable


class BodyBytes:
    """The bodies of all requests that are read, parsed or answered now. Used on the event loop's thread only.

    `limit` is in bytes. One client can hold half of it, or one body of `largest` bytes if that is more.
    """

    def __init__(self, limit: int, largest: int) -> None:
        self.total = 0  # bytes that are held now
        self._limit = limit
        self._share = min(limit, max(limit // 2, largest))
        self._held: Counter[str] = Counter()  # by client

    def hold(self, client: str) -> "Hold":
        """The bytes of one request, none at first. The end of its `with` block releases them."""
        return Hold(self, client)

    def check(self, client: str, count: int) -> None:
        """Raise Unavailable if the client cannot have so many bytes more."""
        if self._held[client] + count > self._share or self.total + count > self._limit:
            raise Unavailable("too many bytes of request bodies (--max-body-bytes-in-flight)", retry_after=1)

    def change(self, client: str, count: int) -> None:
        """Count bytes more, or less."""
        self.total += count
        self._held[client] += count
        if not self._held[client]:
            del self._held[client]


class Hold:
    """The bytes of one request's body."""

    def __init__(self, bodies: BodyBytes, client: str) -> None:
        self._bodies = bodies
        self._client = client
        self.count = 0

    def check(self, count: int) -> None:
        """Raise Unavailable if there is no room for so many bytes more."""
        self._bodies.check(self._client, count)

    def add(self, count: int) -> None:
        """Hold so many bytes more. Raises Unavailable."""
        self.check(count)
        self._bodies.change(self._client, count)
        self.count += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bodies.change(self._client, -self.count)
        self.count = 0
