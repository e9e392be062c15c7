"""API keys from the command line, and from a file or folder that can change while the server runs."""

import hmac
import logging
import secrets
import time
from pathlib import Path

from ..errors import ConfigError
from . import key_file
from .key_file import Key, Line

_log = logging.getLogger(__name__)
_CHECK_EVERY = 1.0  # seconds between looks at the key file


class KeyStore:
    """The keys that are valid now."""

    def __init__(self, keys: tuple[str, ...], path: str) -> None:
        """Read the keys. Raises ConfigError for a file that cannot be used, or has no keys."""
        self._fixed = [Line(key.encode(), "--api-key") for key in keys]
        self._path = Path(path) if path else None
        self._salt = secrets.token_bytes(32)
        self._stamp: tuple[tuple[str, int, int], ...] | None = None
        self._looked = time.monotonic()
        self._keys = self._by_digest(self._fixed)
        try:
            self._read()
        except OSError as error:
            raise ConfigError(f"--api-key-file {path}: {error.strerror or error}") from error
        if self._path is not None and not self._path.is_dir() and not self._keys:
            raise ConfigError(f"--api-key-file {path}: has no keys. Only a folder may be empty at the start")

    @property
    def required(self) -> bool:
        """Whether requests need a key. With --api-key-file they do, even while the file is empty."""
        return bool(self._fixed or self._path)

    def find(self, offered: str) -> Key | None:
        """The key with this secret, if it is valid. The time does not depend on how much of it is right."""
        self._refresh()
        return self._keys.get(self._digest(offered.encode("utf-8", "surrogateescape")))

    def _digest(self, secret: bytes) -> bytes:
        return hmac.digest(self._salt, secret, "sha256")

    def _by_digest(self, lines: list[Line]) -> dict[bytes, Key]:
        return {self._digest(secret): key for secret, key in key_file.keys(lines).items()}

    def _refresh(self) -> None:
        """Read the keys again if a file has changed. Keep the old ones if that fails."""
        if self._path is None or time.monotonic() - self._looked < _CHECK_EVERY:
            return
        self._looked = time.monotonic()
        try:
            self._read()
        except OSError as error:
            _log.warning("cannot read API keys from %s: %s", self._path, error)
        except ConfigError as error:
            _log.error("the API keys stay as they were: %s", error)

    def _read(self) -> None:
        if self._path is None:
            return
        files = _files(self._path)
        stamp = tuple((file.name, s.st_mtime_ns, s.st_ino) for file in files for s in (file.stat(),))
        if stamp == self._stamp:
            return
        texts = [(file, file.read_bytes()) for file in files]
        self._stamp = stamp  # also of a bad file, so that its fault is logged once
        named = self._path.is_dir()
        lines = [
            line
            for file, text in texts
            for line in key_file.parse(text, f"--api-key-file {file}", file.name if named else "")
        ]
        self._keys = self._by_digest([*self._fixed, *lines])


def _files(path: Path) -> list[Path]:
    """The file, or all files of a folder except hidden ones, in which a mounted Secret keeps its versions."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
