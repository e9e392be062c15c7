"""The SHA-256 of a model, kept beside it, so that a start does not read 100 GB only to know it.

`FILE.sha256` is JSON: {sha256, size, mtime_ns}. It counts only while size and time are still the file's.
"""

import hashlib
import json
import logging
import os
import uuid
from pathlib import Path

_log = logging.getLogger(__name__)


def recorded(path: Path) -> str:
    """The digest that was kept for the file as it is now; "" when there is none."""
    try:
        kept = json.loads(_sidecar(path).read_bytes())
        status = path.stat()
        fits = (kept["size"], kept["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
        return str(kept["sha256"]) if fits else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


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
    kept = {"sha256": digest, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    fresh = path.with_name(f".{uuid.uuid4().hex}.sha256")
    try:
        fresh.write_text(json.dumps(kept))
        fresh.replace(_sidecar(path))
    finally:
        fresh.unlink(missing_ok=True)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
