"""API keys from the command line, and from a file or folder that can change while the server runs."""

import hmac
import logging
import time
from pathlib import Path

_log = logging.getLogger(__name__)
_CHECK_EVERY = 1.0  # seconds between looks at the key file


class KeyStore:
    """The keys that are valid now."""

    def __init__(self, keys: tuple[str, ...], path: str) -> None:
        self._fixed = tuple(key.encode() for key in keys if key)
        self._path = Path(path) if path else None
        self._from_file: tuple[bytes, ...] = ()
        self._stamp: tuple[tuple[str, int, int], ...] | None = None
        self._looked = float("-inf")
        self._refresh()

    @property
    def required(self) -> bool:
        """Whether requests need a key. With --api-key-file they do, even while the file is empty."""
        return bool(self._fixed or self._path)

    def accepts(self, offered: str) -> bool:
        """Whether `offered` is a valid key. The check takes the same time for every wrong key."""
        self._refresh()
        candidate = offered.encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(candidate, key) for key in (*self._fixed, *self._from_file)]
        return any(matches)

    def _refresh(self) -> None:
        """Read the keys again if a file has changed. Keep the old ones if that fails."""
        if self._path is None or time.monotonic() - self._looked < _CHECK_EVERY:
            return
        self._looked = time.monotonic()
        try:
            files = _files(self._path)
            stamp = tuple((file.name, s.st_mtime_ns, s.st_ino) for file in files for s in (file.stat(),))
            if stamp != self._stamp:
                lines = [line.strip() for file in files for line in file.read_bytes().splitlines()]
                self._from_file = tuple(line for line in lines if line and not line.startswith(b"#"))
                self._stamp = stamp
        except OSError as error:
            _log.warning("cannot read API keys from %s: %s", self._path, error)


def _files(path: Path) -> list[Path]:
    """The file, or all files of a folder except hidden ones, in which a mounted Secret keeps its versions."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
