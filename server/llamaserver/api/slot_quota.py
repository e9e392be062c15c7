"""How much slot files may take together, and that only one of them is written or read at a time."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InsufficientStorage, Unavailable
from ..files import TEMPORARY

_MOST_WAITING = 64
_MOST_OF_CLIENT = 32  # the engine lets 64 wait
_SIDECAR = ".sha256"
FOLDER_OF_USER = "user-"  # begins the names of folders


@dataclass(slots=True)
class SlotQuota:
    """The limits of one folder, which can have a folder for each user. 0 is no limit. Used on the event loop's thread.

    The state of a slot can take gigabytes of memory. So `turn` lets one request at a time hold one.
    """

    folder: Path
    max_bytes: int
    max_files: int
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0
    _calls: Counter[str] = field(default_factory=Counter)  # by client

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """Count a slot operation of a client, from its request to its answer. Raises Unavailable if it has many."""
        if self._calls[client] >= _MOST_OF_CLIENT:
            raise Unavailable("too many slot operations of this client are waiting", retry_after=1)
        self._calls[client] += 1
        try:
            yield
        finally:
            self._calls[client] -= 1
            if not self._calls[client]:
                del self._calls[client]

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn. Raises Unavailable when many wait already."""
        if self._waiting >= _MOST_WAITING:
            raise Unavailable("too many slot operations are waiting", retry_after=1)
        self._waiting += 1
        try:
            async with self._lock:
                yield
        finally:
            self._waiting -= 1

    def check(self, path: Path, size: int) -> None:
        """Raise InsufficientStorage unless a file of `size` bytes may take the place of `path` (worker thread).

        A file that is not larger than the old one always may.
        """
        sizes = dict(_sizes(self.folder))
        before = sizes.get(str(path))
        if before is not None and size <= before:
            return
        sizes[str(path)] = size
        files = sum(not name.endswith(_SIDECAR) for name in sizes)
        if self.max_files and before is None and files > self.max_files:
            raise InsufficientStorage(f"there are {files - 1} slot files already (--slot-save-max-files)")
        if self.max_bytes and sum(sizes.values()) > self.max_bytes:
            raise InsufficientStorage(f"slot files may take {self.max_bytes} bytes together (--slot-save-max-bytes)")


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """The slot files in a folder and in those of users, with their sizes in bytes. What cannot be read is left out."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(Path(entry.path)) if entry.name.startswith(FOLDER_OF_USER) else ()
                elif not entry.name.startswith(TEMPORARY):
                    yield entry.path, entry.stat(follow_symlinks=False).st_size
