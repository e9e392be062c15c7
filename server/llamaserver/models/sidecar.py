"""Small JSON files beside a large one. They are valid while the large file has the same size and time."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import files


def read(path: Path, ending: str) -> dict[str, Any]:
    """The values that were stored for the file in its present state. Empty if there are none."""
    try:
        kept = json.loads(_beside(path, ending).read_bytes())
        return dict(kept) if _stamp(path.stat()).items() <= kept.items() else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write(path: Path, ending: str, status: os.stat_result, values: Mapping[str, Any]) -> None:
    """Store `values` about a file that has, or will get, the name `path`. `status` is that file's. Raises OSError."""
    text = json.dumps({**values, **_stamp(status)})
    files.write_atomically(_beside(path, ending), [text.encode()], durable=False)


def remove(path: Path, ending: str) -> None:
    """Remove the stored values. Raises OSError if the folder cannot be written."""
    _beside(path, ending).unlink(missing_ok=True)


def _stamp(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
