"""The SHA-256 of a model, stored beside it. So a start does not have to read 100 GB to compute it.

`FILE.sha256` is JSON: {sha256, size, mtime_ns}.
"""

import hashlib
import logging
import os
from pathlib import Path

from . import sidecar

_log = logging.getLogger(__name__)
_ENDING = ".sha256"


def recorded(path: Path) -> str:
    """The digest that was stored for the file in its present state. "" if there is none."""
    return str(sidecar.read(path, _ENDING).get("sha256", ""))


def sha256(path: Path) -> str:
    """The stored digest of the file, or else the computed one. It is then stored, if the folder can be written."""
    if found := recorded(path):
        return found
    status = path.stat()  # before the read: a file that takes the name during the read gets no digest
    found = compute(path)
    try:
        record(path, status, found)
    except OSError as error:
        _log.info("cannot store the SHA-256 of %s: %s", path, error)
    return found


def compute(path: Path) -> str:
    """Read the whole file and return its digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(path: Path, status: os.stat_result, digest: str) -> None:
    """Store the digest of a file that has, or will get, the name `path`. `status` is the status of that file."""
    sidecar.write(path, _ENDING, status, {"sha256": digest})
