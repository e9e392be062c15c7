"""The tier on disk: a folder for each model, a file for each block. Other processes may use them at the same time.

A file is written under another name, synced and renamed, and never changes afterwards. So a reader sees the
whole file or no file. No response depends on the disk: a failure is counted and sometimes logged, and otherwise
it is a miss.
"""

import errno
import os
import threading
import time
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

import numpy as np

from .. import files
from . import key
from .blockfile import DamagedBlockError, Format, Head, head_size
from .blocks import Block, BlockId, Index
from .counters import StoreCounters
from .discards import Discard
from .failures import NO_SPACE, Failures
from .tiers import Tier
from .volume import Limits, Volume

R = TypeVar("R")
_SETTLED = 2.0  # seconds. If a folder's time has been the same for so long, each later change gives it another time
_LISTING_SHARE = 20  # a slow listing is repeated at the earliest after 20 times its duration
_QUICK = 0.1  # seconds. A listing that takes less may be repeated at any time
_TOUCH_EVERY = 5.0  # seconds
_PAUSE = 10.0  # seconds without a write after a failed write
_PAUSE_AT_END = 1.0  # the same while the server shuts down
_MOST_KEYS = 65536  # blocks whose keys are kept in memory


class DiskTier(Tier):
    """The blocks of one model. `secret` is their key. With b"", the folder has one."""

    name = "disk"
    durable = True

    def __init__(
        self, folder: Path, fingerprint: bytes, limits: Limits, counters: StoreCounters, *, secret: bytes = b""
    ) -> None:
        self.index = Index()
        self._failures = Failures(folder, counters)
        self._volume = Volume(folder, fingerprint, limits, counters, self._failures)
        self._root = folder
        self._folder = self._volume.own
        self._fingerprint = fingerprint
        self._secret = secret
        self._made: Format | None = None
        self._counters = counters
        self._lock = threading.Lock()  # for the names and the bytes, never held during a file operation
        self._listing = threading.Lock()  # one thread lists at a time
        self._stamp = (-1, 0.0)  # the folder's time, and since when it has been seen
        self._listed = float("-inf")  # begin of the last listing
        self._look_again = 0.0  # earliest time of the next listing
        self._names: set[str] = set()
        self._keys: dict[bytes, array[int]] = {}
        self._touched: dict[bytes, float] = {}
        self._failed_at = float("-inf")  # time of the last failed write

    def secret(self) -> bytes | None:
        """The key of the identities and the files. None if it cannot be read now."""
        if not self._secret:
            try:
                self._secret = key.of_folder(self._root)
            except OSError as error:
                self._failed_at = time.monotonic()
                self._failures.failed("read the key of", error)
        return self._secret or None

    @property
    def _format(self) -> Format:
        if self._made is None:
            self._made = Format(self._fingerprint, self._secret)
        return self._made

    def size(self) -> int:
        """Bytes of the files of all models."""
        return self._volume.bytes

    def open(self) -> None:
        """Make the folders, remove the files beyond the limits, and list the rest."""
        self._volume.open()
        self.secret()
        self.sweep()
        self.refresh(now=True)

    # ---- listing

    def refresh(self, *, now: bool = False) -> None:
        """Find the files that other processes have added or removed. A slow folder is listed less often."""
        if (time.monotonic() < self._look_again and not now) or not self._listing.acquire(blocking=now):
            return
        try:
            with self._failures.tolerated("list"):
                self._list()
        finally:
            self._listing.release()

    def _list(self) -> None:
        began = time.monotonic()
        stamp = self._folder.stat().st_mtime_ns
        if stamp != self._stamp[0]:
            self._stamp = (stamp, began)
        elif self._listed > self._stamp[1] + _SETTLED:
            return
        with self._lock:
            before = set(self._names)
        names = {entry.name for entry in os.scandir(self._folder)}
        with self._lock:  # keeps what this process has written during the listing
            for name in before - names:
                self._drop(name)
            for name in names - self._names:
                block = BlockId.parse(name)
                if block is not None:
                    self.index.add(block)
            self._names = (self._names - before) | names
        took = time.monotonic() - began
        self._listed = began
        self._look_again = began + _LISTING_SHARE * took if took > _QUICK else began

    def _drop(self, name: str) -> None:
        block = BlockId.parse(name)
        if block is not None:
            self.index.remove(block)
            self._keys.pop(block.identity, None)

    def forget(self, block: BlockId) -> None:
        """Do not offer a block whose file could not be read, until the next listing of the folder."""
        self.index.remove(block)
        with self._lock:
            self._names.discard(block.name)
        self._listed = float("-inf")

    def exclude(self, block: BlockId) -> None:
        """Do not offer a block any more."""
        self.index.remove(block)

    # ---- reading

    def keys(self, block: BlockId) -> "array[int] | None":
        """A block's keys, from the head of its file."""
        known = self._keys.get(block.identity)
        if known is None:
            head = self._read(block, lambda file: self._head(file, block))
            if head is not None:
                if len(self._keys) >= _MOST_KEYS:
                    self._keys.clear()
                known = self._keys[block.identity] = head.keys
        return known

    def read(self, block: BlockId) -> Block | None:
        """Read a block and check it. A file that is not sound is removed."""
        return self._read(block, lambda file: self._whole(file, block))

    def _read(self, block: BlockId, read: Callable[[FileIO], R]) -> R | None:
        try:
            with os.fdopen(files.open_regular(self._folder / block.name), "rb", buffering=0) as file:
                return read(file)
        except FileNotFoundError:
            pass  # another process has removed it
        except files.NotRegularError:
            self._refuse(block, Discard.FOREIGN)
        except DamagedBlockError as error:
            self._refuse(block, error.reason)
        except OSError as error:
            self._failures.failed("read", error)
        return None

    def _head(self, file: FileIO, block: BlockId) -> Head:
        data = memoryview(bytearray(head_size(block.count)))
        return self._format.head(bytes(data[: files.read_into(file, data)]), block)

    def _whole(self, file: FileIO, block: BlockId) -> Block:
        head = self._head(file, block)
        if os.fstat(file.fileno()).st_size != head.file_size:
            raise DamagedBlockError(Discard.TORN)
        payload = np.empty(head.size, np.uint8)
        return self._format.block(head, payload[: files.read_into(file, payload.data)])

    def _refuse(self, block: BlockId, reason: Discard) -> None:
        self._counters.discard(reason)
        self._failures.warn(f"removing a file of the KV store that is {reason}: {block.name}", block.name)
        self.remove([block])

    # ---- writing

    def paused(self, urgent: bool = False) -> bool:
        """Whether a write has failed so recently that another write is not worth a try."""
        return time.monotonic() - self._failed_at < (_PAUSE_AT_END if urgent else _PAUSE)

    def save(self, new: Sequence[Block], old: Sequence[BlockId], *, urgent: bool = False) -> bool:
        """Write blocks in order. So a reader who finds one finds all blocks before it. False if a write failed."""
        self.touch(old)
        if not new:
            return True
        if self.paused(urgent):
            self._counters.discard(Discard.PAUSED)
            return False
        try:
            self._write_all(new)
        except OSError as error:
            self._failed_at = time.monotonic()
            self._failures.failed("write", error)
            return False
        finally:
            if self._volume.full:
                self.sweep()
        return True

    def _write_all(self, blocks: Sequence[Block]) -> None:
        self._volume.make_folders()
        now, names = self._volume.now(), {block.id.name for block in blocks}
        for block in blocks:
            self._write_making_room(block, now, names)
        files.sync_folder(self._folder)

    def _write_making_room(self, block: Block, now: float, sparing: set[str]) -> None:
        lacking = self._volume.lacks(block.size)
        if lacking and not self._make_room(lacking + block.size, sparing):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            self._write(block, now)
        except OSError as error:
            if error.errno not in NO_SPACE or not self._make_room(2 * block.size, sparing):
                raise
            self._write(block, now)

    def _write(self, block: Block, now: float) -> None:
        path = self._folder / block.id.name
        parts = self._counted(self._format.encode(block))
        size = files.write_atomically(path, parts, durable=True, mode=0o600, modified=now)
        replaced = self.index.add(block.id)
        self._keys[block.id.identity] = block.keys
        with self._lock:
            self._names.add(path.name)
            self._volume.bytes += size
        if replaced is not None and replaced != block.id:
            self._unlink(replaced)

    def _counted(self, parts: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
        """Split the parts into pieces and count each written piece. So a drain sees the progress of a large file."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), files.SYNC_EVERY):
                piece = view[start : start + files.SYNC_EVERY]
                yield piece
                self._counters.wrote(len(piece))

    def touch(self, blocks: Sequence[BlockId]) -> None:
        """Mark blocks as used for the next 5 seconds. In that time, a marked block need not be marked again.

        The beginning of a conversation is never older than the blocks after it. So it is removed last.
        """
        now = time.monotonic()
        due = [block for block in blocks if now - self._touched.get(block.identity, -_TOUCH_EVERY) >= _TOUCH_EVERY]
        if due:
            self._touched.update(dict.fromkeys((block.identity for block in due), now))
            self._mark(due)
        if len(self._touched) > _MOST_KEYS:
            self._touched.clear()

    def _mark(self, blocks: Sequence[BlockId]) -> None:
        with suppress(OSError):
            until = self._volume.now() + _TOUCH_EVERY
            for block in reversed(blocks):
                with suppress(FileNotFoundError, PermissionError):
                    self._mark_file(self._folder / block.name, until)

    @staticmethod
    def _mark_file(path: Path, until: float) -> None:
        try:
            os.utime(path, (until, until), follow_symlinks=False)
        except PermissionError:  # only the owner may set a time. The others may set the present
            os.utime(path, follow_symlinks=False)

    # ---- removing

    def remove(self, blocks: Sequence[BlockId]) -> None:
        """Remove files, also files of other processes."""
        for block in blocks:
            self.index.remove(block)
            self._unlink(block)

    def _unlink(self, block: BlockId) -> None:
        path = self._folder / block.name
        with self._failures.tolerated("remove files of"):
            size = path.lstat().st_size
            files.remove(path)
            with self._lock:
                self._volume.bytes -= size
        with self._lock:
            self._names.discard(path.name)

    def clear(self) -> int:
        """Remove every block of every model and return their number."""
        count = self._volume.clear()
        self._listed = float("-inf")
        self.refresh(now=True)
        return count

    def sweep(self) -> None:
        """Remove the files that are too old or exceed the limits."""
        self._make_room(0, ())

    def _make_room(self, needed: int, sparing: Container[str]) -> bool:
        """Free `needed` bytes, and always the bytes beyond the limits. False if there was nothing to free."""
        removed = self._volume.sweep(needed=needed, sparing=sparing)
        if removed:
            self.refresh(now=True)
        return removed != 0  # None: another process frees them
