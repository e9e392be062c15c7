"""Failures of file operations: they cost no request, but are counted and logged."""

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .counters import StoreCounters
from .discards import Discard

_log = logging.getLogger(__name__)
_LOG_EVERY = 60.0  # seconds between two log lines about the same trouble
_MOST_SUBJECTS = 64  # that are remembered

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Failures:
    """Counts every failure of one store; logs each kind now and then."""

    def __init__(self, folder: Path, counters: StoreCounters) -> None:
        self._folder = folder
        self._counters = counters
        self._logged: dict[str, float] = {}

    @contextmanager
    def tolerated(self, action: str) -> Iterator[None]:
        """Let an OSError of the block end the block only; a file that is not there any more is no failure."""
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
