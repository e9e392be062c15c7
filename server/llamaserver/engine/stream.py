"""The event loop's end of one request: events in order, cancellation on leaving."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from ..interfaces.output import Delta, Event
from ..scheduling.sequence import Sequence


class Stream:
    """The events of one submitted request. Lives on the event loop's thread.

    Leaving its `with` block cancels what still runs. A client that does not read makes its
    sequence rest, so what is kept here is bounded.
    """

    def __init__(self, sequence: Sequence, cancel: Callable[[Sequence], None], resume: Callable[[], None]) -> None:
        self._sequence = sequence
        self._cancel = cancel
        self._resume = resume
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False  # the last event has been delivered

    @property
    def id_task(self) -> int:
        """The number under which /slots shows the request."""
        return self._sequence.id_task

    def put(self, event: Event) -> None:
        """Deliver one event (called by the engine's loop side)."""
        self._events.append(event)
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
        """The next event; only when ready()."""
        event = self._events.popleft()
        if isinstance(event, Delta):
            self._sequence.taken += 1
            if self._sequence.resting and not self._events:
                self._sequence.resting = False
                self._resume()
        return event

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self.next()
            yield event
            if not isinstance(event, Delta):
                return

    def cancel(self) -> None:
        """Stop the request; its slot is free after the current step at the latest. Idempotent."""
        if not self._ended:
            self._ended = True
            self._cancel(self._sequence)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
