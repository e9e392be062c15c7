"""Files that are written whole or not at all: beside their place, then renamed.

A reader of the name sees the old file or the new one, never a part of it.
"""

import errno
import io
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"  # begins the name of a file that is not complete yet
SYNC_EVERY = 64 << 20  # bytes of a durable file after which it is synced, so that the last sync is short

Bytes = bytes | memoryview
_NOT_A_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR)  # a link; a pipe or socket; a folder


class NotRegularError(OSError):
    """The name is that of a link, a pipe, a folder, a socket or a device."""


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file and return its descriptor. Follows no link, and never waits for a pipe's other end.

    A new file can be read by its owner only. Raises NotRegularError and OSError.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise NotRegularError(error.errno, error.strerror, str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotRegularError(errno.EINVAL, "not a regular file", str(path))
    return handle


def read_into(file: io.RawIOBase, buffer: memoryview) -> int:
    """Fill `buffer` from an unbuffered file. Returns the bytes read: fewer only at the end of the file. OSError.

    One read may return less than it was asked for: Linux transfers at most 2 GiB at once.
    """
    length = 0
    while length < len(buffer) and (count := file.readinto(buffer[length:])):
        length += count
    return length


def remove(path: Path) -> None:
    """Remove what has this name, also a folder with all that is in it. OSError."""
    try:
        path.unlink()
    except (IsADirectoryError, PermissionError):  # Linux, POSIX
        if not path.is_dir() or path.is_symlink():
            raise
        shutil.rmtree(path)


def open_own(path: Path, flags: int) -> int:
    """Open a regular file of this program. Anything else under its name was put there by others, and is removed."""
    try:
        return open_regular(path, flags | os.O_CREAT)
    except NotRegularError:
        remove(path)
        return open_regular(path, flags | os.O_CREAT)


def write_atomically(
    path: Path, parts: Iterable[Bytes], *, durable: bool, mode: int = 0o666, modified: float | None = None
) -> int:
    """Write `parts` to `path` and replace what is there. Returns the size in bytes. OSError leaves `path` as it was.

    `durable`: the bytes are on the disk before the file takes its name. The name itself is on the disk after
    `sync_folder`. `mode` is subject to the umask. `modified`: the file's time, in seconds since 1970.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            size = _write(file, parts, durable=durable)
            if modified is not None:
                os.utime(file.fileno(), (modified, modified))
            if durable:
                os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return size


def _write(file: BinaryIO, parts: Iterable[Bytes], *, durable: bool) -> int:
    size = unsynced = 0
    for part in parts:
        rest = memoryview(part)
        while rest:
            if durable and unsynced >= SYNC_EVERY:
                os.fdatasync(file.fileno())
                unsynced = 0
            count = file.write(rest[:SYNC_EVERY])
            rest = rest[count:]
            size += count
            unsynced += count
    return size


def sync_folder(folder: Path) -> None:
    """Wait until the names of the folder's files are on the disk. OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
