"""Whether the event loop of the clients' port still runs. The management port looks, from its own thread."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

from ..standstill import TICK, Alarm, place_of

UNREADY = 10.0  # seconds that the loop may be stuck
DEAD = 60.0


class Heartbeat:
    """Asks the loop again and again. Made on the thread of that loop."""

    def __init__(self) -> None:
        self.alarm = Alarm(partial(place_of, threading.get_ident()))
        self._question: object = None  # the one that the loop has not answered yet

    async def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again and again until cancelled, on another loop than the one that is watched."""
        while True:
            self.look(loop.call_soon_threadsafe)
            await asyncio.sleep(TICK)

    def look(self, ask: Callable[[Callable[[], None]], object]) -> None:
        """See whether the last question is answered, and ask the next one."""
        self.alarm.look(self._question, "the event loop", UNREADY, DEAD)
        if self._question is None:
            self._question = object()
            ask(self._answer)

    def _answer(self) -> None:
        self._question = None
