"""Who still gets an answer while the server ends.

A drain has three stages. First everybody gets an answer, and each answer closes its connection: the client
opens the next one elsewhere. Then new connections are refused. A connection of before gets one last answer,
because its client may have sent the request before it could know. At the deadline nobody gets an answer.

A connection that idles is never told: HTTP/1.1 has no message for it. So it is closed late, when nothing has
happened for a while.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic

from aiohttp import web


class Drain:
    """The stage of the drain, and what runs at the client port. Lives on the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.begun = False  # readiness is off, answers close their connections
        self.refusing = False  # new connections get no answer but an error
        self._clock = clock
        self._spared: frozenset[object] = frozenset()  # connections that get one last answer
        self._running: set[object] = set()  # connections: each answers one request at a time
        self._last = clock()  # when a request began or ended

    def begin(self) -> None:
        """The first stage."""
        self.begun = True
        self._last = self._clock()

    def refuse(self, spared: Iterable[object] = ()) -> None:
        """Refuse all requests from now on, but for the next one of each spared connection."""
        self.begun = self.refusing = True
        self._spared = frozenset(spared)

    @contextmanager
    def running(self, connection: object) -> Iterator[None]:
        """Around the answer of each request; a drain waits for all of them."""
        self._running.add(connection)
        try:
            yield
        finally:
            self._running.discard(connection)
            self._last = self._clock()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self._running)

    def is_idle(self, connection: object) -> bool:
        """Whether no request of a connection is being answered."""
        return connection not in self._running

    def refuses(self, connection: object) -> bool:
        """Whether requests of this connection get no answer but an error."""
        return self.refusing and connection not in self._spared

    def closes(self, request: web.Request) -> bool:
        """Whether the answer to a request has to close the connection: it does unless further requests have come."""
        return self.begun and not request.protocol._messages  # aiohttp has no public name for these

    def is_over(self, connections: Iterable[object], patience: float) -> bool:
        """Whether nothing runs, and nothing is to be expected.

        No answer is owed to any of the open connections, or nothing has happened for `patience` seconds.
        """
        if self._running:
            return False
        if self.refusing and self._spared.isdisjoint(connections):
            return True
        return self._clock() - self._last >= patience
