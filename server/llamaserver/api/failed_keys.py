"""Slows clients that try wrong API keys. It does not replace keys that are long and random."""

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic

_FREE = 10  # wrong keys that an address may try at once
_REFILL = 6.0  # seconds until it may try one more
_DELAY = 1.0  # seconds that each further answer waits
_MOST_ADDRESSES = 1024
_MOST_WAITING = 64


class FailedKeys:
    """How many wrong keys each address has tried lately."""

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._tried: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address: (tries, when)
        self._waiting = 0
        self._clock = clock
        self._sleep = sleep

    async def slow(self, address: str) -> bool:
        """Count a wrong key, and wait if there were too many. Returns whether there were too many."""
        network, now = _network(address), self._clock()
        tries, at = self._tried.pop(network, (0.0, now))
        tries = max(0.0, tries - (now - at) / _REFILL) + 1
        self._tried[network] = (min(tries, 2.0 * _FREE), now)
        if len(self._tried) > _MOST_ADDRESSES:
            self._tried.popitem(last=False)
        if tries <= _FREE:
            return False
        if self._waiting < _MOST_WAITING:
            self._waiting += 1
            try:
                await self._sleep(_DELAY)
            finally:
                self._waiting -= 1
        return True


def _network(address: str) -> str:
    """The address; of IPv6 its network, in which one host has all addresses."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
