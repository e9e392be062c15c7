"""Ends a decode early when its requests have gone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..interfaces.backend import Backend
from ..scheduling.batches import Work

_ABORT_WORTH = 8  # prompt rows, because a shorter decode ends soon by itself


class Aborts:
    """Knows the decode in progress. Both the event loop and the engine thread call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._backend: Backend | None = None
        self._current: Work | None = None
        self._cutting_off = False
        self._stopping = False

    def use(self, backend: Backend) -> None:
        """Set the backend, once it is loaded."""
        self._backend = backend

    @contextmanager
    def decoding(self, work: Work) -> Iterator[None]:
        """Around a decode, on the engine thread."""
        with self._lock:
            self._current = work
            self._abort_if_useless()  # requests may have gone after the core last looked
        try:
            yield
        finally:
            with self._lock:
                self._current = None
                if self._backend is not None and not self._stopping:
                    self._backend.abort(False)

    def client_gone(self) -> None:
        """A request was cancelled."""
        with self._lock:
            self._abort_if_useless()

    def begin_cut_off(self) -> None:
        """All requests are about to end."""
        with self._lock:
            self._cutting_off = True
            self._abort_if_useless()

    def end_cut_off(self) -> None:
        """All requests have ended."""
        self._cutting_off = False

    def stop(self) -> None:
        """Abort this decode and all later ones."""
        self._stopping = True
        if self._backend is not None:
            self._backend.abort(True)

    def _abort_if_useless(self) -> None:
        work, backend = self._current, self._backend
        if work is None or backend is None:
            return
        # A recurrent state does not survive an abort, and what was computed is still to be saved.
        ending = self._cutting_off and backend.info.partial_reuse and _rows(work) >= _ABORT_WORTH
        if ending or _is_useless(work):
            backend.abort(True)


def _rows(work: Work) -> int:
    return sum(part.n_keys for part in work.parts)


def _is_useless(work: Work) -> bool:
    """Whether most of a decode is for clients that have gone.

    One decode is at most one micro-batch while others generate, so an abort loses them nothing.
    """
    gone = [part for part in work.parts if part.request.client.cancelled]
    return len(gone) == len(work.parts) or sum(part.n_keys for part in gone) >= _ABORT_WORTH
