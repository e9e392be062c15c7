"""A server process without the half second of its imports, for tests that start hundreds.

Each is a fork of one process that has imported everything and started nothing. This module is imported in every fork:
the client library is not.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tests.support.polling import until

if TYPE_CHECKING:
    from tests.support.server.client import Client

_alone = threading.Lock()  # the library looks after the processes of all threads in each call
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["llamaserver.lifecycle", "llamaserver.llama.backend"])


class ForkedServer:
    """One server on a Unix socket."""

    def __init__(self, *args: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llamaserver-test-")
        self.socket = Path(self._folder.name, "s.sock")
        self._log = Path(self._folder.name, "stdout.log")
        self._process = _forks.Process(target=_serve, args=([*args, "--host", str(self.socket)], str(self._log)))

    @property
    def log(self) -> str:
        """What the process has printed so far."""
        return self._log.read_text(errors="replace")

    def client(self) -> "Client":
        """Talks to it once it is ready."""
        import httpx2

        from tests.support.server.client import Client

        client = Client("http://server", transport=httpx2.HTTPTransport(uds=str(self.socket)))

        def ready() -> bool:
            with _alone:
                assert self._process.is_alive(), self.log[-4000:]
            try:
                return client.http.get("/health").status_code == 200
            except httpx2.ConnectError:
                return False

        until(ready, "the server is ready", pause=0.005)
        return client

    def kill(self) -> None:
        """SIGKILL, and wait. It must have run until then."""
        self._end()
        assert self._process.exitcode == -signal.SIGKILL, self.log[-4000:]

    def _end(self) -> None:
        with _alone:
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        with _alone:
            self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._folder.cleanup()


def _serve(args: Sequence[str], log: str) -> None:
    """What `python -m llamaserver` does, in this process."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from llamaserver.__main__ import main

    sys.argv = ["llamaserver", *args]
    main()
