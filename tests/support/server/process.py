"""A real server process for tests and benchmarks: started, awaited, stopped."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_given: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody listens on now, and that was not given to another test."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


class ServerProcess:
    """One server as a user starts it; `command` replaces `python -m llamaserver` (for the peer)."""

    def __init__(
        self,
        *args: str,
        command: Sequence[str] = (sys.executable, "-m", "llamaserver"),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        wait: bool = True,
        deadline: float = 120.0,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="llamaserver-test-")
        self.cwd = cwd or Path(self._folder.name)
        self._log = Path(self._folder.name, "stdout.log")
        self._args = [*command, *args, "--host", host, "--port", str(self.port)]
        self._env = {**os.environ, **(env or {})}
        self._wait = wait
        self._deadline = deadline
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the process has printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """Start; with `wait`, return when /health says ok."""
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._args, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._env, cwd=self.cwd
            )
        if self._wait:
            self.wait_healthy()
        return self

    def wait_healthy(self) -> None:
        """Poll /health until 200, within the deadline."""
        assert self.process is not None
        end = time.monotonic() + self._deadline
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the server exited with {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        raise AssertionError(f"the server is not healthy after {self._deadline} s:\n{self.log[-4000:]}")

    def stop(self, sig: int = signal.SIGINT, timeout: float = 20.0) -> int:
        """Send a signal and wait; kills what does not end. Returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()
