"""Slot files in llama.cpp's layout. A crash or a full disk never leaves half a file.

    u32 magic "ggsq", u32 version, u32 n_tokens, i32 tokens[n_tokens], then the sequence state

`llama_state_seq_save_file` writes the same layout, so files can be exchanged with llama-server. Beside the file is
`<name>.sha256`. A file without one is accepted. Runs in an executor thread.
"""

import errno
import hashlib
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np

from .. import files
from ..errors import InvalidRequest, ServerError
from ..files import Bytes

MAGIC = 0x67677371
_HEADER = struct.Struct("<III")
_MAX_NAME = 200
_MAX_SIDECAR = 64 << 10  # bytes
_LORA = "# lora"  # begins the sidecar's line of scales; a comment to sha256sum
_LOCKS = tuple(Lock() for _ in range(16))  # two saves under one name must not mix


def path_for(folder: str, name: str) -> Path:
    """The file of that name in the folder. Raises InvalidRequest if it is not a plain file name."""
    bad = not name or name.startswith(".") or len(name.encode("utf-8", "replace")) > _MAX_NAME
    if bad or any(c in '/\\<>:"|?*' or not c.isprintable() for c in name) or name.endswith(".sha256"):
        raise InvalidRequest("Field 'filename': must be a plain file name", field="filename")
    return Path(folder, name)


def size(tokens: tuple[int, ...], state: Bytes) -> int:
    """Bytes of the file, without its checksum."""
    return _HEADER.size + 4 * len(tokens) + len(state)


def write(
    path: Path, tokens: tuple[int, ...], state: Bytes, version: int, lora: tuple[float, ...] | None = None
) -> int:
    """Write a file atomically. Returns the bytes written. Raises ServerError."""
    head = _HEADER.pack(MAGIC, version, len(tokens)) + np.asarray(tokens, np.int32).tobytes()
    digest = hashlib.sha256(head)
    digest.update(state)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)  # a user's own
        with _LOCKS[hash(path) % len(_LOCKS)]:
            _sidecar(path).unlink(missing_ok=True)  # after a crash here, the file has no checksum
            _replace(path, [head, state])
            _replace(_sidecar(path), [f"{digest.hexdigest()}  {path.name}\n{_scales(lora)}".encode()])
    except OSError as error:
        reason = "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise ServerError(f"Failed to save slot to {path.name}: {reason}") from error
    return len(head) + len(state)


def _replace(path: Path, parts: list[Bytes]) -> None:
    files.write_atomically(path, parts, durable=True, mode=0o600)
    files.sync_folder(path.parent)


def read(
    path: Path, n_vocab: int, version: int, *, most_tokens: int, most_bytes: int
) -> tuple[tuple[int, ...], memoryview, int]:
    """Read tokens, the state for `state_set`, and the size in bytes. `most_bytes` 0 is no limit.

    The state is in memory once. Raises InvalidRequest for any damage, and for a file that is too large.
    """
    try:
        data = _whole(path, most_bytes)
    except OSError as error:
        raise InvalidRequest(f"Failed to read slot file {path.name}: {error.strerror}", field="filename") from error
    if len(data) < _HEADER.size:
        raise _damaged(path, "too short")
    magic, found, count = _HEADER.unpack_from(data)
    end = _HEADER.size + 4 * count
    if magic != MAGIC or end > len(data):
        raise _damaged(path, "not a slot file")
    if found != version:
        raise _damaged(path, f"its layout is version {found}, this llama.cpp writes {version}")
    if count > most_tokens:
        raise _damaged(path, f"{count} saved tokens do not fit a slot of {most_tokens}")
    _verify(path, data)
    tokens = np.frombuffer(data, np.int32, count, _HEADER.size)
    if count and (int(tokens.min()) < 0 or int(tokens.max()) >= n_vocab):
        raise _damaged(path, "its token ids are not in this model's vocabulary")
    return tuple(tokens.tolist()), data[end:], len(data)


def _whole(path: Path, most_bytes: int) -> memoryview:
    """All bytes of a regular file. Does not wait for a pipe, and follows no link."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb", buffering=0) as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _damaged(path, "not a regular file")
        if most_bytes and found.st_size > most_bytes:
            raise _damaged(path, f"it has {found.st_size} bytes, at most {most_bytes} are allowed")
        data = np.empty(found.st_size, np.uint8).data
        return data[: files.read_into(file, data)]


def _verify(path: Path, data: memoryview) -> None:
    if (text := _noted(path)) is not None and text.split()[:1] != [hashlib.sha256(data).hexdigest()]:
        raise _damaged(path, "its checksum does not match")


def scales(path: Path) -> tuple[float, ...] | None:
    """The LoRA scales that the state was computed with. None if they are not recorded."""
    with suppress(ValueError):
        lines = [line for line in (_noted(path) or "").splitlines() if line.startswith(_LORA)]
        return tuple(float(text) for text in lines[0][len(_LORA) :].split()) if lines else None
    return None


def _noted(path: Path) -> str | None:
    """The text beside a slot file: checksum and scales. None without one. Raises InvalidRequest if it is damaged."""
    try:
        return bytes(_whole(_sidecar(path), _MAX_SIDECAR)).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, f"its checksum cannot be read: {error.strerror}") from error


def _scales(lora: tuple[float, ...] | None) -> str:
    return "" if lora is None else " ".join([_LORA.strip(), *map(repr, lora)]) + "\n"


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _damaged(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(f"Slot file {path.name} cannot be used: {why}", field="filename")
