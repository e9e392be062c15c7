"""The origin of a cached file, stored beside it. Also a record of a failed load by a server.

`FILE.origin` is JSON: {url, etag, last_modified, at}. A file with an origin was checked: it is a complete GGUF
file. `FILE.suspect` says that a server could not load the file. Then the next download asks the source for
another one.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ModelLoadError
from . import sidecar
from .source import shards

_ORIGIN, _SUSPECT = ".origin", ".suspect"


@dataclass(frozen=True, slots=True)
class Origin:
    """One download. All fields are "" for a file of an older version, or one that was there before."""

    url: str = ""  # without credentials, so it can be shown
    etag: str = ""
    last_modified: str = ""
    at: str = ""  # ISO 8601, UTC


def now() -> str:
    """The current time, as the time of a download."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def record(path: Path, status: os.stat_result, origin: Origin) -> None:
    """Store the origin of a file that has, or will get, the name `path`. `status` is that file's. Raises OSError."""
    sidecar.write(path, _ORIGIN, status, asdict(origin))


def of(path: Path) -> Origin | None:
    """The origin of the file in its present state. None if it is not known."""
    kept = sidecar.read(path, _ORIGIN)
    try:
        return Origin(*(str(kept[name]) for name in Origin.__slots__))
    except KeyError:
        return None


def told(path: Path) -> str:
    """Time and source of the file's download: ", downloaded at … from …". "" if they are not known."""
    found = of(path)
    return f", downloaded at {found.at} from {found.url}" if found and found.at else ""


def vouches(path: Path, sha256: str) -> bool:
    """Whether the records beside a file say that it is good. Does not read the file itself.

    They are no proof of a SHA-256: others may write them, as on a claim that several objects share.
    """
    return not sha256 and of(path) is not None and not is_suspect(path)


def suspect(path: Path) -> None:
    """Record that the file could not be loaded, if the folder can be written."""
    with suppress(OSError):
        if not is_suspect(path):
            sidecar.write(path, _SUSPECT, path.stat(), {"intact": False})


def is_suspect(path: Path) -> bool:
    """Whether the file in its present state could not be loaded."""
    return bool(sidecar.read(path, _SUSPECT))


def is_intact(path: Path) -> bool:
    """Whether a check found that a suspect file has the bytes of its download."""
    return bool(sidecar.read(path, _SUSPECT).get("intact"))


def set_intact(path: Path) -> None:
    """Record that a suspect file has the bytes of its download, if the folder can be written."""
    with suppress(OSError):
        sidecar.write(path, _SUSPECT, path.stat(), {"intact": True})


def trust(path: Path) -> None:
    """Remove the record that the file could not be loaded, if the folder can be written."""
    with suppress(OSError):
        sidecar.remove(path, _SUSPECT)


def blamed(error: ModelLoadError) -> ModelLoadError:
    """Mark a downloaded file as suspect after a failed load. Returns the error with the file's origin."""
    path = Path(error.file)
    if not error.file or of(path) is None:
        return error
    for name in shards(path.name):
        suspect(path.with_name(name))
    text = f"{error}; the file is from the cache{told(path)}; the next start checks whether the server has another file"
    return ModelLoadError(text, error.file)


def praise(paths: Iterable[Path]) -> None:
    """Remove the records of failed loads from files that were loaded."""
    for path in paths:
        for name in shards(path.name):
            trust(path.with_name(name))
