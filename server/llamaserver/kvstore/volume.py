"""The folder of the KV store: the files of all models, their size in bytes, and the removal of files.

Other processes may use the folder at the same time.
"""

import fcntl
import logging
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .. import files
from .blocks import BlockId
from .counters import StoreCounters
from .discards import Discard
from .failures import Failures

_log = logging.getLogger(__name__)
_ALIVE = ".used"  # a file in a model's folder. The servers of the model touch it
_FOLDER_NAME = 32  # characters: a fingerprint of 16 bytes in hexadecimal
_ABANDONED = 3600.0  # age in seconds of a temporary file that no longer has a writer
_ORPHANED = 24 * 3600.0  # seconds without a user until the folder of another model is removed
_LOW_WATER = 0.9  # share of max_bytes that an eviction leaves
_LEAST_SHARE = 20  # an eviction for a block frees at least one part in 20. So not every block needs an eviction
_FREE_SHARE = 0.05  # share of the file system that stays free if there is no limit,
_MOST_FREE = 1 << 30  # but at most this number of bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes` 0 means that the size of the disk is the limit. `ttl` is in seconds, 0 is no limit."""

    max_bytes: int = 0
    ttl: float = 0.0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    used: float
    start: int


class Volume:
    """The folder, as the server of one model sees it. The files of that model are in `own`."""

    def __init__(
        self, folder: Path, fingerprint: bytes, limits: Limits, counters: StoreCounters, failures: Failures
    ) -> None:
        self.bytes = 0  # bytes of all models: at the last sweep, with this process's changes since then
        self.own = folder / fingerprint.hex()
        self._folder = folder
        self._limits = limits
        self._counters = counters
        self._failures = failures

    def open(self) -> None:
        """Make the folders. Other users cannot read them."""
        with self._failures.tolerated("create the folder of"):
            self.make_folders()
            self.now()

    def make_folders(self) -> None:
        """Make the folders that do not exist. A link in place of the own folder is removed. OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.own.is_symlink():
            self.own.unlink()
        self.own.mkdir(mode=0o700, exist_ok=True)

    def now(self) -> float:
        """The volume's time, in seconds since 1970: that of a file touched now. It shows that the folder is in use.

        All ages are measured by it, so a server whose own clock is wrong removes nothing. OSError.
        """
        handle = files.open_own(self.own / _ALIVE, os.O_WRONLY)
        try:
            os.utime(handle)
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)

    @property
    def full(self) -> bool:
        """Whether the folder holds more bytes than the limit allows."""
        return 0 < self._limits.max_bytes < self.bytes

    def lacks(self, size: int) -> int:
        """Bytes to free before `size` more bytes fit. Without a limit, a part of the file system stays free."""
        if self._limits.max_bytes:
            return 0
        status = os.statvfs(self._folder)
        spare = min(int(status.f_blocks * status.f_frsize * _FREE_SHARE), _MOST_FREE)
        return max(0, spare + size - status.f_bavail * status.f_frsize)

    def clear(self) -> int:
        """Remove every block of every model and return their number."""
        count = 0
        for file in list(self._files()):
            with self._failures.tolerated("remove files of"):
                file.path.unlink()
                count += 1
        self.bytes = sum(file.size for file in self._files())
        return count

    def sweep(self, *, needed: int = 0, sparing: Container[str] = ()) -> int | None:
        """Remove files of all models that are too old or too much, the least recently used first; the number of files.

        Removes at least `needed` bytes, but no files that are named in `sparing`. Only one process sweeps at a
        time. While another process sweeps, the result is None.
        """
        removed = 0
        with self._failures.tolerated("sweep"), self._alone() as alone:
            if not alone:
                return None
            now = self.now()
            self._collect_orphans(now)
            found = sorted(self._files(), key=lambda file: (file.used, -file.start))  # of equal age, last blocks first
            self.bytes = sum(file.size for file in found)
            for file, reason in self._victims(found, now, needed, sparing):
                with suppress(FileNotFoundError):
                    file.path.unlink()
                    self._counters.discard(reason)
                self.bytes -= file.size
                removed += 1
        return removed

    def _victims(
        self, found: list[_File], now: float, needed: int, sparing: Container[str]
    ) -> Iterator[tuple[_File, Discard]]:
        """The files to remove, and the reasons. `found` is in the order of removal."""
        total = sum(file.size for file in found)
        aim, limits = total, self._limits
        if needed:
            aim -= max(needed, total // _LEAST_SHARE)
        if limits.max_bytes and total > limits.max_bytes:
            aim = min(aim, int(limits.max_bytes * _LOW_WATER))
        expired = now - limits.ttl if limits.ttl else 0.0
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
                    if block is not None and not entry.is_dir(follow_symlinks=False):
                        with suppress(FileNotFoundError):
                            stat = entry.stat(follow_symlinks=False)
                            yield _File(Path(entry.path), stat.st_size, stat.st_mtime, block.start)

    def _folders(self) -> list[Path]:
        entries = (e for e in os.scandir(self._folder) if e.is_dir(follow_symlinks=False))
        return [Path(entry.path) for entry in entries if len(entry.name) == _FOLDER_NAME]

    def _collect_orphans(self, now: float) -> None:
        """Remove folders that no server has used for a day, and temporary files whose writer has ended."""
        for folder in self._folders():
            alive = folder / _ALIVE
            orphan = False
            with suppress(FileNotFoundError):  # another process has removed it
                used = (alive if os.path.lexists(alive) else folder).lstat().st_mtime
                orphan = folder != self.own and now - used > _ORPHANED
                for entry in list(os.scandir(folder)):
                    with suppress(OSError):  # the writer has completed it since then
                        temporary = entry.name.startswith(files.TEMPORARY)
                        if orphan or (temporary and now - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED):
                            Path(entry.path).unlink()
            if orphan:
                self._counters.discard(Discard.ORPHAN)
                with suppress(OSError):
                    folder.rmdir()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process sweeps at present."""
        handle = files.open_own(self._folder / ".lock", os.O_RDWR)
        try:
            alone = True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
            except OSError as error:  # a volume without locks: two sweeps at once can only remove too much
                _log.debug("no lock on %s: %s", self._folder, error)
            yield alone
        finally:
            os.close(handle)
