"""The event loop's end of one request: its events in order, and its cancellation."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self

from ..interfaces.output import Delta, Event
from ..scheduling.client_flow import ClientFlow


class Stream:
    """The events of one submitted request. Lives on the event loop's thread.

    Leaving its `with` block cancels the request. A request whose client does not read pauses, so
    the number of waiting events is bounded.
    """

    def __init__(
        self, id_task: int, client: ClientFlow, cancel: Callable[[], None], resume: Callable[[], None]
    ) -> None:
        self.id_task = id_task  # the number under which /slots shows the request
        self._client = client
        self._cancel = cancel
        self._resume = resume
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False  # the last event has been delivered
        self._began = monotonic()
        self.waited: float | None = None  # seconds until the first event
        self.on_exit: Callable[[], None] = _nothing  # called once, when the `with` block is left

    def put(self, event: Event) -> None:
        """Deliver one event (called by Engine)."""
        self._events.append(event)
        if self.waited is None and not (isinstance(event, Delta) and event.progress):
            self.waited = monotonic() - self._began
        self._ended = not isinstance(event, Delta)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def ready(self) -> bool:
        """Whether `next` would return at once."""
        return bool(self._events)

    async def next(self) -> Event:
        """Wait for the next event."""
        while not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()

    def take(self) -> Event:
        """The next event. Call it only when ready()."""
        event = self._events.popleft()
        if isinstance(event, Delta):
            self._client.taken += event.weight
            if self._client.resting and not self._events:
                self._client.resting = False
                self._resume()
        return event

    @property
    def evaluated(self) -> int:
        """Tokens of the prompt so far that were not in the cache."""
        return self._client.evaluated

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return self._client.generated

    def cancel(self) -> None:
        """Stop the request. Its slot is free after the current step at the latest. Idempotent."""
        if not self._ended:
            self._ended = True
            self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        self.on_exit()


def _nothing() -> None:
    """Nothing is to be done at the end."""
