"""The secret key of a store: from a file that the operator of the server names, or made beside the blocks."""

import errno
import os
import secrets
import stat
import uuid
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from .. import files

_NAME = ".key"
_BYTES = 32
LEAST = 32  # bytes of a file with a key
_ABANDONED = 60.0  # seconds after which an incomplete file no longer has a writer


class _IncompleteError(OSError):
    """Its writer has not completed the file yet, or has ended before that."""


def of_text(text: bytes) -> bytes:
    """The key that a file's content stands for. White space around it does not count. Raises ValueError."""
    text = text.strip()
    if len(text) < LEAST:
        raise ValueError(f"a key needs at least {LEAST} bytes")
    return blake2b(text, digest_size=_BYTES, person=b"kv key").digest()


def of_process() -> bytes:
    """A key for blocks that end with the process."""
    return secrets.token_bytes(_BYTES)


def of_folder(folder: Path) -> bytes:
    """The key in a folder of blocks. Makes it once, also if several processes begin at the same time. OSError."""
    path = folder / _NAME
    with suppress(FileNotFoundError, _IncompleteError):
        return _read(path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make(path)
    return _read(path)


def _read(path: Path) -> bytes:
    with os.fdopen(files.open_regular(path), "rb") as file:
        key = file.read(_BYTES + 1)
    if len(key) != _BYTES:
        raise _IncompleteError(errno.EINVAL, f"{_NAME} is not complete. If that lasts, remove it")
    return key


def _make(path: Path) -> None:
    """Give a complete file the name, unless another process was faster."""
    temporary = path.with_name(f"{files.TEMPORARY}{uuid.uuid4().hex}")
    files.write_atomically(temporary, [secrets.token_bytes(_BYTES)], durable=True, mode=0o600)
    try:
        _remove_abandoned(path, now=temporary.stat().st_mtime)
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        _make_without_links(path, temporary.read_bytes())
    finally:
        temporary.unlink()
    files.sync_folder(path.parent)


def _remove_abandoned(path: Path, now: float) -> None:
    """Remove a file whose writer has ended before it was complete. `now`: the volume's time, seconds since 1970."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size < _BYTES and now - status.st_mtime > _ABANDONED:
            path.unlink()


def _make_without_links(path: Path, key: bytes) -> None:
    with suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, key)
            os.fsync(handle)
        finally:
            os.close(handle)
