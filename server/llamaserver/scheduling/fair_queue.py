"""The requests without a slot: first come, first served within a key; between keys, the largest deficit first."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from .request import ActiveRequest
from .shares import Shares


class FairQueue:
    """A queue for each key. Iteration gives the requests in the order in which they should start."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._queues: dict[str, deque[ActiveRequest]] = {}

    def append(self, request: ActiveRequest) -> None:
        """Add a request as the last one of its key."""
        self._queues.setdefault(request.task.tenant.key, deque()).append(request)

    def appendleft(self, request: ActiveRequest) -> None:
        """Add a request as the first one of its key."""
        self._queues.setdefault(request.task.tenant.key, deque()).appendleft(request)

    def remove(self, request: ActiveRequest) -> None:
        """Take a request out. Raises ValueError if it is not in the queue."""
        key = request.task.tenant.key
        queue = self._queues.get(key, deque())
        queue.remove(request)
        if not queue:
            del self._queues[key]

    def clear(self) -> None:
        """Take all out."""
        self._queues.clear()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __contains__(self, request: ActiveRequest) -> bool:
        return request in self._queues.get(request.task.tenant.key, ())

    def keys(self) -> Iterable[str]:
        """The API keys whose requests wait."""
        return self._queues.keys()

    def of(self, key: str) -> Iterable[ActiveRequest]:
        """The requests of one key."""
        return self._queues.get(key, ())

    def __iter__(self) -> Iterator[ActiveRequest]:
        return self.order(lambda request: False)

    def order(self, skips: Callable[[ActiveRequest], bool]) -> Iterator[ActiveRequest]:
        """The requests as they are now. Each counts as if its prompt had been evaluated when the next one is chosen.

        If `skips` is true for a request, this one and all later ones of its key are left out.
        """
        served = {key: self._shares.served(key) for key in self._queues}
        rest = {key: deque(queue) for key, queue in self._queues.items()}
        while rest:
            key = min(rest, key=lambda key: (served[key], rest[key][0].task.id_task))
            request = rest[key].popleft()
            if skips(request):
                del rest[key]
                continue
            served[key] += len(request.keys)
            if not rest[key]:
                del rest[key]
            yield request
