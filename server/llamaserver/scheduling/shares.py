"""Who is next among the API keys: deficits of tokens, as in deficit round robin.

After Shreedhar and Varghese, "Efficient Fair Queueing using Deficit Round Robin" (SIGCOMM 1995), with a quantum of one
token: each round gives every key one token more, and who has the largest deficit is next. The cost of an answer is not
known before its end, so tokens are counted when they are evaluated, as in VTC (Sheng et al., "Fairness in Serving Large
Language Models", OSDI 2024). Both forget the deficit of a key that asks for nothing. Here it keeps `credit` tokens:
without them, a short prompt would share each step with the prompts of a key that always has some, and take twice as
long. So no key gets more than `credit` tokens above its fair share, over any time.
Tokens that delay no other key are not counted (`Roster.costs_nobody`).
"""

import sys
from collections.abc import Iterable

from .request import ActiveRequest

_MOST_KEYS = 4096  # remembered
_MARGIN = 32  # tokens: for a smaller advantage no running request is preempted, and so many are progress
_MOST_PREEMPTIONS = 8  # of one request without progress. Fewer would make short prompts of other keys wait more often


class Shares:
    """The tokens that each key was served."""

    def __init__(self, credit: int) -> None:
        self._credit = credit
        self._served: dict[str, int] = {}
        self._most = 0  # served to any of them

    def charge(self, request: ActiveRequest, tokens: int) -> None:
        """Tokens of the request were evaluated."""
        key = request.task.tenant.key
        self._served[key] = served = self.served(key) + tokens
        self._most = max(self._most, served)
        if len(self._served) > _MOST_KEYS:
            floor = self._most - self._credit
            self._served = {key: served for key, served in self._served.items() if served > floor}

    def served(self, key: str) -> int:
        """Tokens of the key. One that has asked for little counts as if it were `credit` behind the first."""
        floor = self._most - self._credit
        return max(self._served.get(key, floor), floor)

    def lead(self, other: ActiveRequest, request: ActiveRequest) -> int:
        """Tokens that the key of `other` was served more than the key of `request`."""
        return self.served(other.task.tenant.key) - self.served(request.task.tenant.key)

    def least(self, requests: Iterable[ActiveRequest]) -> int:
        """The least tokens that a key of these requests was served."""
        return min((self.served(request.task.tenant.key) for request in requests), default=sys.maxsize)

    def by_need(self, requests: list[ActiveRequest]) -> list[list[ActiveRequest]]:
        """The requests of each key, of the largest deficit first. Requests of one key keep their order."""
        groups: dict[str, list[ActiveRequest]] = {}
        for request in requests:
            groups.setdefault(request.task.tenant.key, []).append(request)
        return [groups[key] for key in sorted(groups, key=self.served)]

    def preempted(self, request: ActiveRequest) -> None:
        """The request is about to lose its slot."""
        request.preempted = request.preempted + 1 if self._stands_still(request) else 1
        request.preempted_at = max(request.preempted_at, request.progress)

    def _stands_still(self, request: ActiveRequest) -> bool:
        return request.progress < request.preempted_at + _MARGIN

    def victims(self, request: ActiveRequest, running: list[ActiveRequest]) -> list[ActiveRequest]:
        """The running requests of other keys that may make room for `request`: first the one that loses least.

        Only a key that is ahead by more than the tokens that have to be evaluated again gives room, so that more
        is gained than lost. What is evaluated again counts for its key, though, and puts it further ahead. So a
        request that was preempted often keeps its slot until it has made progress.
        """
        own = self.served(request.task.tenant.key)
        others = [r for r in running if r.task.tenant.key != request.task.tenant.key and not r.client.cancelled]
        others = [r for r in others if r.preempted < _MOST_PREEMPTIONS or not self._stands_still(r)]
        behind = [r for r in others if self.served(r.task.tenant.key) - own >= min(r.n_past + _MARGIN, self._credit)]
        return sorted(behind, key=lambda r: (-self.served(r.task.tenant.key), r.n_past, -r.task.id_task))
