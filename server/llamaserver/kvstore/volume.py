"""The folder of the KV store: the files of all models, how many bytes they take, and which of them are removed.

Other processes may use the folder at the same time.
"""

import fcntl
import logging
import os
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..files import TEMPORARY
from .blocks import BlockId
from .counters import StoreCounters
from .discards import Discard
from .failures import Failures

_log = logging.getLogger(__name__)
_ALIVE = ".used"  # a file in a model's folder that its servers touch
_FOLDER_NAME = 32  # characters: a fingerprint of 16 bytes in hexadecimal
_ABANDONED = 3600.0  # seconds after which a temporary file has no writer any more
_ORPHANED = 24 * 3600.0  # seconds without a user after which another model's folder is removed
_LOW_WATER = 0.9  # an eviction leaves this share of max_bytes
_LEAST_SHARE = 20  # an eviction for a block frees at least one part in 20, so that it does not happen for each block
_FREE_SHARE = 0.05  # of the file system stays free where no limit was given,
_MOST_FREE = 1 << 30  # at most so many bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes` 0: as many as the disk has. `ttl` in seconds, 0: no limit."""

    max_bytes: int = 0
    ttl: float = 0.0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    used: float
    start: int


class Volume:
    """The folder, seen by the server of one model, whose own files are in `own`."""

    def __init__(
        self, folder: Path, fingerprint: bytes, limits: Limits, counters: StoreCounters, failures: Failures
    ) -> None:
        self.bytes = 0  # of all models: at the last sweep, and what this process has changed since
        self.own = folder / fingerprint.hex()
        self._folder = folder
        self._limits = limits
        self._counters = counters
        self._failures = failures

    def open(self) -> None:
        """Make the folders, readable by nobody else."""
        with self._failures.tolerated("create the folder of"):
            for folder in (self._folder, self.own):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.own / _ALIVE).touch(0o600)

    @property
    def full(self) -> bool:
        """Whether more bytes are there than the limit allows."""
        return 0 < self._limits.max_bytes < self.bytes

    def lacks(self, size: int) -> int:
        """Bytes to free before `size` more fit, where no limit was given: some of the file system stays free."""
        if self._limits.max_bytes:
            return 0
        status = os.statvfs(self._folder)
        spare = min(int(status.f_blocks * status.f_frsize * _FREE_SHARE), _MOST_FREE)
        return max(0, spare + size - status.f_bavail * status.f_frsize)

    def clear(self) -> int:
        """Remove every block of every model; returns their number."""
        count = 0
        for file in list(self._files()):
            with self._failures.tolerated("remove files of"):
                file.path.unlink()
                count += 1
        self.bytes = sum(file.size for file in self._files())
        return count

    def sweep(self, *, needed: int = 0, sparing: Container[str] = ()) -> bool:
        """Remove what is too old or too much, the least recently used first, of all models; False when nothing went.

        `needed`: so many bytes are removed in any case, but not the files named in `sparing`. Only one process
        sweeps at a time: while another one does, the answer is True.
        """
        removed = False
        with self._failures.tolerated("sweep"), self._alone() as alone:
            if not alone:
                return True
            self._collect_orphans()
            found = sorted(self._files(), key=lambda file: (file.used, -file.start))  # of one age, the end comes first
            self.bytes = sum(file.size for file in found)
            for file, reason in self._victims(found, needed, sparing):
                with suppress(FileNotFoundError):
                    file.path.unlink()
                    self._counters.discard(reason)
                self.bytes -= file.size
                removed = True
        return removed

    def _victims(self, found: list[_File], needed: int, sparing: Container[str]) -> Iterator[tuple[_File, Discard]]:
        """The files to remove, and why; `found` is in the order of removal."""
        total = sum(file.size for file in found)
        aim, limits = total, self._limits
        if needed:
            aim -= max(needed, total // _LEAST_SHARE)
        if limits.max_bytes and total > limits.max_bytes:
            aim = min(aim, int(limits.max_bytes * _LOW_WATER))
        expired = time.time() - limits.ttl if limits.ttl else 0.0
        for file in found:
            if total <= aim and file.used >= expired:
                return
            if file.path.name not in sparing:
                yield file, Discard.EVICTED if total > aim else Discard.EXPIRED
                total -= file.size

    def _files(self) -> Iterator[_File]:
        """Every block of every model."""
        for folder in self._folders():
            with self._failures.tolerated("list"):
                for entry in os.scandir(folder):
                    block = BlockId.parse(entry.name)
                    if block is not None:
                        with suppress(FileNotFoundError):
                            stat = entry.stat()
                            yield _File(Path(entry.path), stat.st_size, stat.st_mtime, block.start)

    def _folders(self) -> list[Path]:
        entries = (e for e in os.scandir(self._folder) if e.is_dir(follow_symlinks=False))
        return [Path(entry.path) for entry in entries if len(entry.name) == _FOLDER_NAME]

    def _collect_orphans(self) -> None:
        """Remove folders that no server has used for a day, and temporary files whose writer is gone."""
        now = time.time()
        with suppress(OSError):
            os.utime(self.own / _ALIVE)
        for folder in self._folders():
            alive = folder / _ALIVE
            orphan = False
            with suppress(FileNotFoundError):  # another process has removed it
                used = (alive if alive.exists() else folder).stat().st_mtime
                orphan = folder != self.own and now - used > _ORPHANED
                for entry in list(os.scandir(folder)):
                    with suppress(OSError):  # its writer has completed it meanwhile
                        temporary = entry.name.startswith(TEMPORARY)
                        if orphan or (temporary and now - entry.stat().st_mtime > _ABANDONED):
                            Path(entry.path).unlink()
            if orphan:
                self._counters.discard(Discard.ORPHAN)
                with suppress(OSError):
                    folder.rmdir()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process sweeps now."""
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            alone = True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
            except OSError as error:  # a volume without locks: two processes at once remove too much at worst
                _log.debug("no lock on %s: %s", self._folder, error)
            yield alone
        finally:
            os.close(handle)
