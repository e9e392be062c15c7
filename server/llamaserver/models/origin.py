"""Where a cached file came from, kept beside it, and whether it has let a server down.

`FILE.origin` is JSON: {url, etag, last_modified, at}. A file that has one was checked: it is a whole GGUF.
`FILE.suspect` says that a server could not load the file, which makes the next download ask where it came from.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ModelLoadError
from . import digest, sidecar
from .source import shards

_ORIGIN, _SUSPECT = ".origin", ".suspect"


@dataclass(frozen=True, slots=True)
class Origin:
    """One download; all "" for a file that an older version brought, or that was there before."""

    url: str = ""  # fit to be shown: without credentials
    etag: str = ""
    last_modified: str = ""
    at: str = ""  # ISO 8601, UTC


def now() -> str:
    """The time of a download."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def record(path: Path, status: os.stat_result, origin: Origin) -> None:
    """Keep it for a file that has, or is about to take, the name `path`; `status` is that file's. OSError."""
    sidecar.write(path, _ORIGIN, status, asdict(origin))


def of(path: Path) -> Origin | None:
    """What was kept for the file as it is now."""
    kept = sidecar.read(path, _ORIGIN)
    try:
        return Origin(*(str(kept[name]) for name in Origin.__slots__))
    except KeyError:
        return None


def told(path: Path) -> str:
    """When and from where the file came: ", downloaded at … from …"; "" when that is not known."""
    found = of(path)
    return f", downloaded at {found.at} from {found.url}" if found and found.at else ""


def vouches(path: Path, sha256: str) -> bool:
    """Whether what is kept beside a file says that it is the one wanted, and good. Nothing of the file is read."""
    known = digest.recorded(path) == sha256.lower() if sha256 else of(path) is not None
    return known and not is_suspect(path)


def suspect(path: Path) -> None:
    """Note that the file could not be loaded, where the folder can be written."""
    with suppress(OSError):
        if not is_suspect(path):
            sidecar.write(path, _SUSPECT, path.stat(), {"intact": False})


def is_suspect(path: Path) -> bool:
    """Whether the file as it is now could not be loaded."""
    return bool(sidecar.read(path, _SUSPECT))


def is_intact(path: Path) -> bool:
    """Whether a suspect was found to be what was downloaded, to the last byte."""
    return bool(sidecar.read(path, _SUSPECT).get("intact"))


def set_intact(path: Path) -> None:
    """Note that, where the folder can be written."""
    with suppress(OSError):
        sidecar.write(path, _SUSPECT, path.stat(), {"intact": True})


def trust(path: Path) -> None:
    """Take back that the file could not be loaded, where the folder can be written."""
    with suppress(OSError):
        sidecar.remove(path, _SUSPECT)


def blamed(error: ModelLoadError) -> ModelLoadError:
    """Suspect the file whose load has failed, if it was downloaded; the error with when and from where it came."""
    path = Path(error.file)
    if not error.file or of(path) is None:
        return error
    for name in shards(path.name):
        suspect(path.with_name(name))
    text = f"{error}; the file is from the cache{told(path)}; the next download asks whether there is another by now"
    return ModelLoadError(text, error.file)


def praise(paths: Iterable[Path]) -> None:
    """Trust files that were loaded."""
    for path in paths:
        for name in shards(path.name):
            trust(path.with_name(name))
