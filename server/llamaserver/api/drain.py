"""Which requests get an answer while the server ends.

A drain has three stages. First, every request gets an answer, and each answer closes its connection, so that the
client opens the next one to another server. Then, new connections are refused. Older connections get one last
answer, because a client may have sent its request before it could know. From the deadline on, all are refused.

HTTP/1.1 has no message that tells a client of an idle connection to go away. So idle connections are closed late,
when no request has come for a while.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic

from aiohttp import web


class Drain:
    """The stage of the drain, and the running requests of the clients' port. Used on the event loop's thread only."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.begun = False  # readiness is off, answers close their connections
        self.refusing = False  # new connections get an error
        self._clock = clock
        self._spared: frozenset[object] = frozenset()  # connections that get one last answer
        self._running: set[object] = set()  # connections: each answers one request at a time
        self._last = clock()  # when a request began or ended

    def begin(self) -> None:
        """Begin the first stage."""
        self.begun = True
        self._last = self._clock()

    def refuse(self, spared: Iterable[object] = ()) -> None:
        """Refuse all requests from now on, except one more of each spared connection."""
        self.begun = self.refusing = True
        self._spared = frozenset(spared)

    @contextmanager
    def running(self, connection: object) -> Iterator[None]:
        """Count a request as running. A drain waits for all of them."""
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
        """Whether no request of this connection is running."""
        return connection not in self._running

    def refuses(self, connection: object) -> bool:
        """Whether requests of this connection get an error."""
        return self.refusing and connection not in self._spared

    def closes(self, request: web.Request) -> bool:
        """Whether the answer to a request has to close its connection. Not if more requests are waiting in it."""
        return self.begun and not request.protocol._messages  # aiohttp has no public name for these

    def is_over(self, connections: Iterable[object], patience: float) -> bool:
        """Whether no request runs and none is expected.

        None is expected when no open connection is spared, or after `patience` seconds without a request.
        """
        if self._running:
            return False
        if self.refusing and self._spared.isdisjoint(connections):
            return True
        return self._clock() - self._last >= patience
