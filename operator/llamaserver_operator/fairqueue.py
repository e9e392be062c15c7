"""A queue of keys that is fair between namespaces: they take turns, and none has all workers."""

import asyncio
from collections import Counter, deque

Key = tuple[str, str]  # namespace and name


class FairQueue:
    """Keys in order of arrival within a namespace. At most `most` keys of a namespace are worked on at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: dict[str, deque[Key]] = {}  # the namespace whose turn it is comes first
        self._taken: Counter[str] = Counter()
        self._changed = asyncio.Event()

    def put(self, key: Key) -> None:
        """Add a key at the end of its namespace."""
        self._keys.setdefault(key[0], deque()).append(key)
        self._changed.set()

    async def get(self) -> Key:
        """Take the next key. Call `done` when the work on it has ended."""
        while (key := self._take()) is None:
            self._changed.clear()
            await self._changed.wait()
        return key

    def done(self, key: Key) -> None:
        """The work on a key has ended."""
        self._taken[key[0]] -= 1
        if not self._taken[key[0]]:
            del self._taken[key[0]]
        self._changed.set()

    def _take(self) -> Key | None:
        namespace = next((name for name in self._keys if self._taken[name] < self._most), None)
        if namespace is None:
            return None
        keys = self._keys.pop(namespace)
        key = keys.popleft()
        if keys:
            self._keys[namespace] = keys  # its next turn is after those of all others
        self._taken[namespace] += 1
        return key
