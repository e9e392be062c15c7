"""What passes between a client and the engine thread while a request runs."""

from dataclasses import dataclass

MAX_BACKLOG = 512  # weight of the events that a client may leave unread before its request rests


@dataclass(slots=True)
class ClientFlow:
    """How far a client has read. The event loop and the engine thread share this part of a request, and no other."""

    cancelled: bool = False  # set by the event loop
    emitted: int = 0  # weight of the events made: changed by the engine thread
    evaluated: int = 0  # tokens of the prompt that were not in the cache: changed by the engine thread
    generated: int = 0  # tokens: changed by the engine thread
    taken: int = 0  # weight of those that the client has read: changed by the event loop
    resting: bool = False  # the request waits for its client: set by the engine thread, unset by the event loop

    @property
    def backlog(self) -> int:
        """Weight of the events that the client has not read yet."""
        return self.emitted - self.taken

    def rest(self) -> bool:
        """Whether the client is so far behind that its request must pause (engine thread).

        The flag is set before the count is read again. A client that catches up in between is
        either noticed here, or it sees the flag and wakes the engine.
        """
        self.resting = self.backlog >= MAX_BACKLOG
        return self.resting and self.backlog >= MAX_BACKLOG
