"""Which request waits, which one has which slot, and every change of a request's phase."""

from array import array
from collections.abc import Iterator

from .fair_queue import FairQueue
from .request import ActiveRequest, Phase
from .residents import Resident, Slot
from .shares import Shares


class Roster:
    """The queue, and the requests on slots by slot id."""

    def __init__(self, n_slots: int, shares: Shares) -> None:
        self.shares = shares
        self.queue = FairQueue(shares)
        self.on_slot: list[ActiveRequest | None] = [None] * n_slots
        self.last: list[ActiveRequest | None] = [None] * n_slots  # the latest request, for monitoring

    def running(self) -> list[ActiveRequest]:
        """Requests on slots, in the order of the slots."""
        return [request for request in self.on_slot if request is not None]

    def startable(self) -> Iterator[ActiveRequest]:
        """Queued requests in the order in which they should start, without those of keys that are at their limit."""
        return self.queue.order(self.at_limit)

    def at_limit(self, request: ActiveRequest) -> bool:
        """Whether as many requests of its key have slots as its limit allows."""
        tenant = request.task.tenant
        return 0 < tenant.most_running <= sum(r.task.tenant.key == tenant.key for r in self.running())

    def costs_nobody(self) -> bool:
        """Whether what runs delays no other key: no other one runs or waits, and a slot is idle."""
        keys = {request.task.tenant.key for request in self.running()}
        return None in self.on_slot and len(keys.union(self.queue.keys())) < 2

    def bind(self, request: ActiveRequest, slot: Slot) -> None:
        """Move a request from the queue to a slot. It has no resident yet."""
        self.queue.remove(request)
        request.slot = slot
        slot.busy = True
        self.on_slot[slot.id] = self.last[slot.id] = request
        request.phase = Phase.FOLLOWING

    def begin_prefill(self, request: ActiveRequest, resident: Resident) -> None:
        """Let the request work on `resident`."""
        request.resident = resident
        resident.busy, resident.owner = True, request.task.tenant.key
        request.phase = Phase.PREFILL

    def begin_decode(self, request: ActiveRequest) -> None:
        """The prompt is in the cache."""
        request.phase = Phase.DECODE

    def repeat_prefill(self, request: ActiveRequest, keys: "array[int]") -> None:
        """Evaluate `keys` again, because the cache has lost them."""
        request.keys = keys
        request.phase = Phase.PREFILL

    def requeue(self, request: ActiveRequest, keys: "array[int]") -> None:
        """Take the request off its slot and put it first among its key's, with `keys` as its prompt."""
        self._unbind(request)
        request.keys = keys
        request.phase = Phase.QUEUED
        self.queue.appendleft(request)

    def finish(self, request: ActiveRequest) -> None:
        """End the request, wherever it is."""
        if request.phase is Phase.QUEUED and request in self.queue:
            self.queue.remove(request)
        self._unbind(request)
        request.phase = Phase.DONE

    def _unbind(self, request: ActiveRequest) -> None:
        if request.resident is not None:
            request.resident.busy = False
        if request.slot is not None:
            request.slot.busy = False
            self.on_slot[request.slot.id] = None
        request.resident = None
        request.slot = None
