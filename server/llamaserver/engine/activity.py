"""What the engine thread does now. Any thread may read it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Activity:
    """One piece of work. `usual` is the time in seconds that it takes by the rates measured so far, 0 while unknown."""

    what: str
    usual: float = 0.0


class Activities:
    """Holds the current activity. The engine thread sets it, and replaces it as a whole."""

    def __init__(self) -> None:
        self.now: Activity | None = None  # None: the thread waits for requests

    def begin(self, what: str, usual: float = 0.0) -> None:
        """Something new begins."""
        self.now = Activity(what, usual)

    def rest(self) -> None:
        """There is nothing to do."""
        self.now = None
