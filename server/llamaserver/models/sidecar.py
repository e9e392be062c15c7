"""Small JSON files beside a large one. They count only while size and time are still the large file's."""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path, ending: str) -> dict[str, Any]:
    """What was kept about the file as it is now; empty when there is nothing."""
    try:
        kept = json.loads(_beside(path, ending).read_bytes())
        return dict(kept) if _stamp(path.stat()).items() <= kept.items() else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write(path: Path, ending: str, status: os.stat_result, values: Mapping[str, Any]) -> None:
    """Keep `values` about a file that has, or is about to take, the name `path`; `status` is that file's. OSError."""
    fresh = path.with_name(f".{uuid.uuid4().hex}{ending}")
    try:
        fresh.write_text(json.dumps({**values, **_stamp(status)}))
        fresh.replace(_beside(path, ending))
    finally:
        fresh.unlink(missing_ok=True)


def remove(path: Path, ending: str) -> None:
    """Forget it. OSError where the folder cannot be written."""
    _beside(path, ending).unlink(missing_ok=True)


def _stamp(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
