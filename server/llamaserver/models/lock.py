"""Allows one downloader at a time among the processes, pods and nodes that share a folder.

The lock is a file that only one process can create (O_EXCL). Its holder touches it regularly. Another process
takes over a lock that was not touched for long. All times are the file system's, so the clocks of the nodes do
not matter. On the same kernel, flock shows at once that the holder has ended.
"""

import asyncio
import fcntl
import json
import logging
import os
import random
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)
_BEAT = 5.0  # seconds between touches
_STALE = 60.0  # seconds without a touch until the holder counts as dead
_FIRST_LOOK, _LONGEST_LOOK = 0.25, 5.0  # seconds between two checks of another process's lock


class LockLostError(Exception):
    """Another process has taken over the lock, because this process has not touched it for long."""


@dataclass(slots=True)
class Lock:
    """A lock that this process holds."""

    path: Path
    file: int  # open descriptor, with flock if the file system supports it
    lost: bool = False

    def check(self) -> None:
        """Raise LockLostError if the last touch found the lock of another process."""
        if self.lost:
            raise LockLostError(str(self.path))

    def touch(self) -> None:
        """Show that the holder is alive. Raises LockLostError if this process does not hold the lock any more."""
        self.lost = self.lost or not _is_at(self.file, self.path)
        self.check()
        os.utime(self.file)

    async def beat(self) -> None:
        """Touch the lock until cancelled or until it is lost."""
        while not self.lost:
            await asyncio.sleep(_BEAT)
            try:
                await asyncio.to_thread(self.touch)
            except LockLostError:
                _log.warning("another process took over %s", self.path)
            except OSError as error:
                _log.warning("cannot touch %s: %s", self.path, error)

    def release(self) -> None:
        """Release the lock. Remove the files of waiting processes that have ended."""
        with suppress(OSError):
            if _is_at(self.file, self.path):
                self.path.unlink()
                for left in self.path.parent.glob(f"{_escaped(self.path.name)}.*"):
                    left.unlink(missing_ok=True)
        os.close(self.file)


@asynccontextmanager
async def held(path: Path, on_wait: Callable[[bool], None]) -> AsyncIterator[Lock]:
    """Hold the lock of this path. `on_wait` gets True when another process holds it, then False."""
    lock = await _acquired(path, on_wait)
    beating = asyncio.create_task(lock.beat())
    try:
        yield lock
    finally:
        beating.cancel()
        lock.release()


async def _acquired(path: Path, on_wait: Callable[[bool], None]) -> Lock:
    clock, pause, waits = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}"), _FIRST_LOOK, False
    try:
        while not (lock := _create(path)):
            if not waits:
                _log.info("waiting for another process that downloads %s", path.with_suffix(""))
                waits = True
                on_wait(True)
            if await asyncio.to_thread(_taken_from_the_dead, path, clock):
                continue
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  processes check at different times
            pause = min(_LONGEST_LOOK, pause * 2)
        return lock
    finally:
        if waits:
            on_wait(False)
            clock.unlink(missing_ok=True)


def _create(path: Path) -> Lock | None:
    """Create the lock. None if another process holds it."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:
        return None
    try:
        with suppress(OSError):  # without flock, only the touches show the holder
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Written last: a process that reads it may rely on the flock.
        os.write(file, json.dumps({"kernel": _kernel(), "host": socket.gethostname(), "pid": os.getpid()}).encode())
    except OSError:
        path.unlink(missing_ok=True)
        os.close(file)
        raise
    return Lock(path, file)


def _taken_from_the_dead(path: Path, clock: Path) -> bool:
    """Remove the lock if its holder has ended. True if the next try need not wait."""
    now = _time_there(clock)
    try:
        file = os.open(path, os.O_RDONLY)  # opening makes a network file system read the current state
    except FileNotFoundError:
        return True
    try:
        if now - os.fstat(file).st_mtime <= _STALE and not _holder_died_here(file):
            return False
        # We hold the flock, so nobody on this kernel takes the same lock. The calls below protect against other
        # kernels.
        return _is_at(file, path) and _set_aside(file, path)
    finally:
        os.close(file)


def _time_there(clock: Path) -> float:
    """The file system's current time, measured by touching a file."""
    file = os.open(clock, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        os.utime(file)
        return os.fstat(file).st_mtime
    finally:
        os.close(file)


def _holder_died_here(file: int) -> bool:
    """Whether the holder ran on this kernel and has ended. Its flock is free then."""
    kernel = _kernel()
    if not kernel or kernel.encode() not in os.read(file, 4096):
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _set_aside(file: int, path: Path) -> bool:
    """Take the checked lock away. If another lock has replaced it in the meantime, that lock is put back."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    judged = _is_at(file, aside)
    if judged:
        _log.warning("took over %s from a process that has ended", path)
    else:
        with suppress(OSError):  # otherwise its owner notices the loss at the next touch
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return judged


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file still has this name. Opens the path again, because network file systems cache it."""
    try:
        other = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return os.path.samestat(os.fstat(file), os.fstat(other))
    finally:
        os.close(other)


def _kernel() -> str:
    """An identifier that all containers of one running kernel share. "" if it cannot be read."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
