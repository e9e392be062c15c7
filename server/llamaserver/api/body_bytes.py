"""The bytes of request bodies that the server holds: a limit for all requests together, and one for each client."""

from collections import Counter
from types import TracebackType
from typing import Self

from ..errors import Unavailable


class BodyBytes:
    """The bodies of all requests that are read, parsed or answered now. Used on the event loop's thread only.

    `limit` is in bytes. While others hold bytes too, one client can hold half of it, or one body of `largest` bytes if
    that is more. Alone it can hold all but room for the body of another client.
    """

    def __init__(self, limit: int, largest: int) -> None:
        self.total = 0  # bytes that are held now
        self._limit = limit
        self._share = min(limit, max(limit // 2, largest))
        self._alone = max(self._share, limit - largest)
        self._held: Counter[str] = Counter()  # by client

    def hold(self, client: str) -> "Hold":
        """The bytes of one request, none at first. The end of its `with` block releases them."""
        return Hold(self, client)

    def check(self, client: str, count: int) -> None:
        """Raise Unavailable if the client cannot have so many bytes more."""
        held = self._held[client]
        most = self._alone if held == self.total else self._share
        if held + count > most or self.total + count > self._limit:
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

    def keep(self, count: int) -> None:
        """Hold at most so many bytes from now on: the rest of the body is gone."""
        if count < self.count:
            self._bodies.change(self._client, count - self.count)
            self.count = count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.keep(0)
