"""Failures of file operations. They end no request. They are counted and logged."""

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .counters import StoreCounters
from .discards import Discard

_log = logging.getLogger(__name__)
_LOG_EVERY = 60.0  # seconds between two log lines about the same subject
_MOST_SUBJECTS = 64  # subjects that are remembered

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Failures:
    """Counts every failure of one store. Logs each kind at intervals."""

    def __init__(self, folder: Path, counters: StoreCounters) -> None:
        self._folder = folder
        self._counters = counters
        self._logged: dict[str, float] = {}

    @contextmanager
    def tolerated(self, action: str) -> Iterator[None]:
        """Let an OSError end only the block of the `with` statement. A missing file is no failure."""
        try:
            yield
        except FileNotFoundError:
            return
        except OSError as error:
            self.failed(action, error)

    def failed(self, action: str, error: OSError) -> None:
        """Count and log a failure."""
        self._counters.discard(Discard.DISK_FULL if error.errno in NO_SPACE else Discard.IO_ERROR)
        cause = str(error.strerror or error)
        self.warn(f"cannot {action} the KV store {self._folder}: {cause}", cause)

    def warn(self, message: str, subject: str) -> None:
        """Log a warning, at most once a minute for one subject."""
        now = time.monotonic()
        if now - self._logged.get(subject, -_LOG_EVERY) >= _LOG_EVERY:
            if len(self._logged) >= _MOST_SUBJECTS:
                self._logged = {}
            self._logged = {**self._logged, subject: now}
            _log.warning(message)
