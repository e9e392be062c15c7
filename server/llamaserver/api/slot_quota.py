"""How much slot files may take together, and that only one of them is written or read at a time."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InsufficientStorage, Unavailable
from ..files import TEMPORARY

_MOST_WAITING = 64
_SIDECAR = ".sha256"


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
        """Raise InsufficientStorage unless a file of `size` bytes may take the place of `path` (worker thread)."""
        sizes = dict(_sizes(self.folder))
        sizes[str(path)] = size
        files = sum(not name.endswith(_SIDECAR) for name in sizes)
        if self.max_files and files > self.max_files:
            raise InsufficientStorage(f"there are {files - 1} slot files already (--slot-save-max-files)")
        if self.max_bytes and sum(sizes.values()) > self.max_bytes:
            raise InsufficientStorage(f"slot files may take {self.max_bytes} bytes together (--slot-save-max-bytes)")


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """The files in a folder and in its folders, with their sizes in bytes. What others remove meanwhile is left out."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(Path(entry.path))
                elif not entry.name.startswith(TEMPORARY):
                    yield entry.path, entry.stat(follow_symlinks=False).st_size
