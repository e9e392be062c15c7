"""The SHA-256 of a model, kept beside it, so that a start does not read 100 GB only to know it.

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
    """The digest that was kept for the file as it is now; "" when there is none."""
    return str(sidecar.read(path, _ENDING).get("sha256", ""))


def sha256(path: Path) -> str:
    """The digest of the file: the kept one, else computed and kept where the folder can be written."""
    if found := recorded(path):
        return found
    status = path.stat()  # before: should another file take the name meanwhile, the digest is not taken for its
    found = compute(path)
    try:
        record(path, status, found)
    except OSError as error:
        _log.info("the SHA-256 of %s cannot be kept: %s", path, error)
    return found


def compute(path: Path) -> str:
    """The digest of what lies there, read whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(path: Path, status: os.stat_result, digest: str) -> None:
    """Keep the digest of a file that has, or is about to take, the name `path`; `status` is that file's."""
    sidecar.write(path, _ENDING, status, {"sha256": digest})
