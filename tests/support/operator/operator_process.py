"""A real operator process for tests, outside a pod: started, stopped, killed, suspended."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from dev.localcluster import Cluster
from tests.support.polling import until
from tests.support.server.process import free_port


class OperatorProcess:
    """One instance with a kubeconfig of its own. `module` is what `python -m` runs.

    On the host's network, or `inside` that of a cluster, where it reaches pods.
    """

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *flags: str,
        module: str = "llamaserver_operator",
        env: Mapping[str, str] | None = None,
        inside: Cluster | None = None,
    ) -> None:
        port = free_port()
        self._way = inside.forward("127.0.0.1", port) if inside else None
        self._port = self._way.port if self._way else port
        enter = ["nsenter", f"--net={inside.sandbox.network}", "--"] if inside else []
        self._log = log
        ours = ["--health-host=127.0.0.1", f"--health-port={port}", "--log-level=info"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*enter, sys.executable, "-m", module, *ours, *flags],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {}), "KUBECONFIG": str(kubeconfig)},
            )

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log, as JSON objects."""
        return [json.loads(line) for line in self.log.splitlines()]

    def said(self, text: str) -> bool:
        """Whether the log has this text."""
        return text in self.log

    def health(self, path: str) -> tuple[int, str]:
        """Status and body of the health port; 0 when there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels."""
        families = text_string_to_metric_families(self.health("/metrics")[1])
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    @property
    def leads(self) -> bool:
        """Whether its metrics say that it is active."""
        return self.metric("llamaserver_operator_is_leader") == 1

    @property
    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        return self.health("/readyz")[0] == 200

    def freeze(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Send SIGTERM. Returns the exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def until_ready(self) -> Self:
        """Wait until /readyz answers 200."""
        until(lambda: self._alive() and self.ready, "the operator is ready")
        return self

    def until_leading(self) -> Self:
        """Wait until it is active."""
        until(lambda: self._alive() and self.leads, "the operator is the active one")
        return self

    def _alive(self) -> bool:
        assert self.process.poll() is None, f"the operator exited with {self.process.returncode}:\n{self.log[-4000:]}"
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        if self._way:
            self._way.close()
        if error is not None:
            print(f"---- {self._log.name}\n{self.log[-6000:]}")
