"""The SHA-256 of a model.

`FILE.sha256` beside a downloaded file says what it was at the download, as JSON: {sha256, size, mtime_ns}. Whoever
can write the folder can write that too. So it tells a damaged file from a sound one, and proves nothing.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from . import sidecar

_ENDING = ".sha256"
_PIECE = 4 << 20  # bytes that are read at a time


def _nobody(have: int, total: int) -> None:
    """The default: nobody wants to know."""


def recorded(path: Path) -> str:
    """The digest that was stored for the file in its present state. "" if there is none."""
    return str(sidecar.read(path, _ENDING).get("sha256", ""))


def compute(path: Path, progress: Callable[[int, int], None] = _nobody) -> str:
    """Read the whole file and return its digest. `progress` gets the bytes read so far, and all bytes."""
    digest, buffer, have = hashlib.sha256(), bytearray(_PIECE), 0
    with path.open("rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
            have += size
            progress(have, total)
    return digest.hexdigest()


def record(path: Path, status: os.stat_result, digest: str) -> None:
    """Store the digest of a file that has, or will get, the name `path`. `status` is the status of that file."""
    sidecar.write(path, _ENDING, status, {"sha256": digest})
