"""The tier on disk: one folder a fingerprint, one file a block; other processes may use it at the same time.

A file is written beside, synced and renamed, and is never changed afterwards: whoever reads sees
all of it or nothing. Nobody's answer depends on what happens here: every failure is counted,
logged now and then, and otherwise a miss.
"""

import errno
import fcntl
import logging
import os
import time
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from .blocks import Block, BlockId, Damaged, Index, decode, decode_keys, encode, head_size

Lock = AbstractContextManager[Any]
_log = logging.getLogger(__name__)
_ALIVE = ".used"  # touched by who uses the folder
_SETTLED = 2_000_000_000  # nanoseconds after which a folder's time tells whether it has changed
_LISTING_SHARE = 20  # a listing that takes long is done at most every so many times that long
_QUICK = 0.1  # seconds; below, it is not worth being out of date
_ABANDONED = 3600.0  # seconds after which a temporary file has no writer any more
_ORPHANED = 24 * 3600.0  # seconds without a user after which another fingerprint's folder goes
_LOW_WATER = 0.9  # an eviction leaves this much of max_bytes
_LOG_EVERY = 60.0
_TOUCH_EVERY = 5.0
_PAUSE = 10.0  # seconds without writing after a write has failed
_PAUSE_AT_END = 1.0  # where there is no later
_FREE = 0.05  # of the file system stays free where no limit was given,
_MOST_FREE = 1 << 30  # at most so many bytes
_MOST_KEYS = 65536  # blocks whose keys are remembered


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes (0: as many as the disk has) and seconds (0: for ever)."""

    max_bytes: int = 0
    ttl: float = 0.0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    used: float
    start: int


class DiskTier:
    """The files of one fingerprint. `note` counts discards by reason; `lock` guards the index. Two threads use it."""

    def __init__(
        self, folder: Path, fingerprint: bytes, limits: Limits, note: Callable[[str], None], lock: Lock
    ) -> None:
        self.index = Index()
        self.bytes = 0  # of all fingerprints: at the last sweep, and what was written since
        self._base = folder
        self._folder = folder / fingerprint.hex()
        self._fingerprint = fingerprint
        self._limits = limits
        self._note = note
        self._lock = lock  # held while the index changes
        self._seen = -1  # the folder's time at the last look
        self._look_again = 0.0  # not before: a folder of many files, or far away
        self._names: set[str] = set()
        self._keys: dict[bytes, array[int]] = {}
        self._touched: dict[bytes, float] = {}
        self._logged: dict[str, float] = {}
        self._failed_at = -_LOG_EVERY
        self.written = 0  # bytes, ever

    def open(self) -> None:
        """Make the folders, readable by nobody else, and look what is there."""
        with self._tolerant("make the folder of"):
            for folder in (self._base, self._folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / _ALIVE).touch(0o600)
        self.sweep()
        self.refresh(now=True)

    # ---- looking

    def refresh(self, *, now: bool = False) -> None:
        """See what others have written or removed since the last look; where looking takes long, now and then."""
        if time.monotonic() < self._look_again and not now:
            return
        with self._lock, self._tolerant("list"):
            began = time.monotonic()
            stamp = self._folder.stat().st_mtime_ns
            if stamp == self._seen:
                return
            names = {entry.name for entry in os.scandir(self._folder)}
            for name in self._names - names:
                self._drop(name)
            for name in names - self._names:
                block = BlockId.parse(name)
                if block is not None:
                    self.index.add(block)
            self._names, self._seen = names, stamp if time.time_ns() - stamp > _SETTLED else -1
            took = time.monotonic() - began
            self._look_again = began + _LISTING_SHARE * took if took > _QUICK else began

    def _drop(self, name: str) -> None:
        block = BlockId.parse(name)
        if block is not None:
            self.index.remove(block)
            self._keys.pop(block.identity, None)

    def forget(self, block: BlockId) -> None:
        """Do not offer a block whose file could not be read, until somebody looks into the folder again."""
        with self._lock:
            self.index.remove(block)
            self._names.discard(block.name)
            self._seen = -1

    def keys(self, block: BlockId) -> "array[int] | None":
        """A block's keys, from the head of its file."""
        known = self._keys.get(block.identity)
        if known is None:
            with self._tolerant("read"), (self._folder / block.name).open("rb", buffering=0) as file:
                known = decode_keys(file.read(head_size(block.count)), block)
                if known is None:
                    self._refuse(block, "damaged")
            if known is not None:
                if len(self._keys) >= _MOST_KEYS:
                    self._keys.clear()
                self._keys[block.identity] = known
        return known

    def read(self, block: BlockId) -> Block | None:
        """A block, checked; a file that is not sound is removed."""
        path = self._folder / block.name
        try:
            with path.open("rb", buffering=0) as file:
                data = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
                size = file.readinto(data.data)
            return decode(data[:size], block, self._fingerprint)
        except FileNotFoundError:
            pass  # another process has removed it; who asked forgets it
        except Damaged as reason:
            self._refuse(block, str(reason))
        except OSError as error:
            self._failed("read", error)
        return None

    def _refuse(self, block: BlockId, reason: str) -> None:
        self._note(reason)
        self._say(f"a file of the KV store is {reason} and goes: {block.name}")
        self.remove([block])

    # ---- writing

    def paused(self, urgent: bool = False) -> bool:
        """Whether a write has failed so lately that another is not worth trying."""
        return time.monotonic() - self._failed_at < (_PAUSE_AT_END if urgent else _PAUSE)

    def write(self, blocks: Sequence[Block], urgent: bool = False) -> bool:
        """Write blocks in order; False when not all could be. Whoever finds one finds all before it."""
        now = time.time()
        if not blocks:
            return True
        if self.paused(urgent):
            self._note("paused")
            return False
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for block in blocks:
                self.bytes += self._write_making_room(block, now, blocks)
            files.sync_folder(self._folder)
        except OSError as error:
            self._failed_at = time.monotonic()
            self._failed("write", error)
            return False
        finally:
            if self._limits.max_bytes and self.bytes > self._limits.max_bytes:
                self.sweep()
        return True

    def _write_making_room(self, block: Block, now: float, batch: Sequence[Block]) -> int:
        sparing = {b.id.name for b in batch}
        short = self._short(block.size)
        if short and not self.sweep(needed=short + block.size, sparing=sparing):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            return self._write(block, now)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not (full and self.sweep(needed=2 * block.size, sparing=sparing)):
                raise
            return self._write(block, now)

    def _short(self, size: int) -> int:
        """Bytes that would be missing, after `size` more, to what stays free where no limit was given."""
        if self._limits.max_bytes:
            return 0
        status = os.statvfs(self._base)
        spare = min(int(status.f_blocks * status.f_frsize * _FREE), _MOST_FREE)
        return max(0, spare + size - status.f_bavail * status.f_frsize)

    def _write(self, block: Block, now: float) -> int:
        path = self._folder / block.id.name
        parts = self._counted(encode(block, self._fingerprint))
        size = files.write_atomically(path, parts, durable=True, mode=0o600, modified=now)
        with self._lock:
            replaced = self.index.add(block.id)
            self._keys[block.id.identity] = block.keys
            self._names.add(path.name)
        if replaced is not None and replaced != block.id:
            self._unlink(replaced)
        return size

    def _counted(self, parts: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
        """The parts in pieces, each counted once it is written, so that a drain sees the progress of a large file."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), files.SYNC_EVERY):
                piece = view[start : start + files.SYNC_EVERY]
                yield piece
                self.written += len(piece)

    def touch(self, blocks: Iterable[BlockId]) -> None:
        """Mark as used for the next few seconds, in which it need not be marked again.

        So what a conversation begins with is never older than what follows it, and goes last.
        """
        now, until = time.monotonic(), time.time() + _TOUCH_EVERY
        for block in blocks:
            if now - self._touched.get(block.identity, -_TOUCH_EVERY) >= _TOUCH_EVERY:
                self._touched[block.identity] = now
                with suppress(OSError):
                    os.utime(self._folder / block.name, (until, until))
        if len(self._touched) > _MOST_KEYS:
            self._touched.clear()

    def remove(self, blocks: Iterable[BlockId]) -> None:
        """Remove files, whoever wrote them."""
        for block in blocks:
            with self._lock:
                self.index.remove(block)
            self._unlink(block)

    def _unlink(self, block: BlockId) -> None:
        path = self._folder / block.name
        with self._tolerant("remove"):
            size = path.stat().st_size
            path.unlink()
            self.bytes -= size
        self._names.discard(path.name)

    def clear(self) -> int:
        """Remove every block of every fingerprint; returns their number."""
        count = 0
        for file in list(self._files()):
            with self._tolerant("remove"):
                file.path.unlink()
                count += 1
        self._seen = -1
        self.refresh(now=True)
        self.bytes = sum(file.size for file in self._files())
        return count

    # ---- keeping within bounds

    def sweep(self, *, needed: int = 0, sparing: Container[str] = ()) -> bool:
        """Remove what is too old or too much, least recently used first; False when nothing was removed.

        `needed`: that many bytes must go in any case, but not those files. One process at a time
        does it, for all fingerprints.
        """
        removed = False
        with self._tolerant("sweep"), self._alone() as mine:
            if not mine:
                return True  # another one is at it
            self._collect_orphans()
            found = sorted(self._files(), key=lambda f: (f.used, -f.start))  # of equal age, leaves before their parents
            total = sum(file.size for file in found)
            needed = max(needed, total // 20) if needed else 0  # not for each block anew
            aim, most, ttl = total - needed, self._limits.max_bytes, self._limits.ttl
            if most and total > most:
                aim = min(aim, int(most * _LOW_WATER))
            expired = time.time() - ttl if ttl else 0.0
            for file in found:
                if total <= aim and file.used >= expired:
                    break
                if file.path.name in sparing:
                    continue
                with suppress(FileNotFoundError):
                    file.path.unlink()
                    self._note("evicted" if total > aim else "expired")
                total -= file.size
                removed = True
            self.bytes = total
        if removed:
            self.refresh(now=True)
        return removed

    def _files(self) -> Iterator[_File]:
        """Every block of every fingerprint."""
        for folder in self._folders():
            with self._tolerant("list"):
                for entry in os.scandir(folder):
                    block = BlockId.parse(entry.name)
                    if block is not None:
                        with suppress(FileNotFoundError):
                            stat = entry.stat()
                            yield _File(Path(entry.path), stat.st_size, stat.st_mtime, block.start)

    def _folders(self) -> list[Path]:
        return [Path(e.path) for e in os.scandir(self._base) if e.is_dir(follow_symlinks=False) and len(e.name) == 32]

    def _collect_orphans(self) -> None:
        """Folders that no server has used for a day, and temporary files whose writer is gone."""
        now = time.time()
        with suppress(OSError):
            os.utime(self._folder / _ALIVE)
        for folder in self._folders():
            alive = folder / _ALIVE
            orphan = False
            with suppress(FileNotFoundError):  # another process has collected it
                used = (alive if alive.exists() else folder).stat().st_mtime
                orphan = folder != self._folder and now - used > _ORPHANED
                for entry in list(os.scandir(folder)):
                    with suppress(OSError):  # written to its end meanwhile
                        if orphan or (
                            entry.name.startswith(files.TEMPORARY) and now - entry.stat().st_mtime > _ABANDONED
                        ):
                            Path(entry.path).unlink()
            if orphan:
                self._note("orphan")
                with suppress(OSError):
                    folder.rmdir()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process sweeps now."""
        handle = os.open(self._base / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            mine = True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                mine = False
            except OSError as error:  # a volume without locks: two at once remove too much at worst
                _log.debug("no lock on %s: %s", self._base, error)
            yield mine
        finally:
            os.close(handle)

    # ---- failures

    @contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            return
        except OSError as error:
            self._failed(what, error)

    def _failed(self, what: str, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        self._note("disk_full" if full else "io_error")
        self._say(f"cannot {what} the KV store {self._base}: {error.strerror or error}")

    def _say(self, message: str) -> None:
        now, kind = time.monotonic(), message.rsplit(":", maxsplit=1)[-1]
        if now - self._logged.get(kind, -_LOG_EVERY) >= _LOG_EVERY:
            self._logged = {**self._logged, kind: now} if len(self._logged) < 64 else {kind: now}
            _log.warning(message)
