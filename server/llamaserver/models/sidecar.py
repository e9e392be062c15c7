"""Small JSON files beside a large one. They count only while size and time are still the large file's."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import files


def read(path: Path, ending: str) -> dict[str, Any]:
    """What was kept about the file as it is now; empty when there is nothing."""
    try:
        kept = json.loads(_beside(path, ending).read_bytes())
        return dict(kept) if _stamp(path.stat()).items() <= kept.items() else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write(path: Path, ending: str, status: os.stat_result, values: Mapping[str, Any]) -> None:
    """Keep `values` about a file that has, or is about to take, the name `path`; `status` is that file's. OSError."""
    text = json.dumps({**values, **_stamp(status)})
    files.write_atomically(_beside(path, ending), [text.encode()], durable=False)


def remove(path: Path, ending: str) -> None:
    """Forget it. OSError where the folder cannot be written."""
    _beside(path, ending).unlink(missing_ok=True)


def _stamp(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
