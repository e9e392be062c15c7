"""The health port, the log and the command, without an API server."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from llamaserver_operator import logs
from llamaserver_operator.config import Config
from llamaserver_operator.errors import ConfigError
from llamaserver_operator.health import Health
from llamaserver_operator.metrics import Metrics

from tests.support.operator.operator_process import OperatorProcess
from tests.support.polling import until

LOCAL = "127.0.0.1"


async def test_the_health_port_tells_problems_readiness_and_metrics() -> None:
    metrics, problem, ready = Metrics(), "", False
    health = Health(Config(health_host=LOCAL, health_port=0), metrics, lambda: problem, lambda: ready)
    port = await health.start()
    async with aiohttp.ClientSession(f"http://{LOCAL}:{port}") as session:

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(path) as answer:
                return answer.status, await answer.text()

        assert await ask("/healthz") == (200, "ok")
        assert (await ask("/readyz"))[0] == 503
        ready, problem = True, "a reconcile hangs"
        assert await ask("/readyz") == (200, "ok")
        assert await ask("/healthz") == (500, "a reconcile hangs")
        metrics.is_leader.set(1)
        code, text = await ask("/metrics")
        assert code == 200
        assert "llamaserver_operator_is_leader 1.0" in text
    await health.stop()


async def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server((LOCAL, 0)) as taken:
        config = Config(health_host=LOCAL, health_port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match=f"cannot listen on port {config.health_port}"):
            await Health(config, Metrics(), lambda: "", lambda: True).start()


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("here", logging.INFO, "", 0, message, (), None)
    made.fields = fields  # type: ignore[attr-defined]
    return made


def test_a_line_names_the_object_that_is_being_reconciled() -> None:
    token = logs.current.set(("ns", "thing"))
    try:
        line = json.loads(logs.JsonFormatter().format(record("done", seconds=1)))
        text = logs.TextFormatter().format(record("done", seconds=1))
    finally:
        logs.current.reset(token)
    assert (line["namespace"], line["name"], line["msg"], line["seconds"]) == ("ns", "thing", "done", 1)
    assert text.endswith("here: ns/thing: done seconds=1")
    assert "namespace" not in json.loads(logs.JsonFormatter().format(record("idle")))
    assert logs.TextFormatter().format(record("idle")).endswith("here: idle")


def test_an_error_is_one_line_with_its_traceback() -> None:
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        made = logging.LogRecord("here", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    line = logs.JsonFormatter().format(made)
    assert "\n" not in line
    assert "ZeroDivisionError: a bug" in json.loads(line)["exception"]


def run(*flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamaserver_operator", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env}, check=False)


def test_usage_errors_exit_with_2() -> None:
    ended = run("--workers=none")
    assert ended.returncode == 2
    assert "--workers" in ended.stderr
    assert "--help" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_missing_credentials_are_logged(tmp_path: Path) -> None:
    ended = run("--health-port=0", KUBECONFIG=str(tmp_path / "absent"))
    assert ended.returncode == 2
    assert "no credentials for the API server" in json.loads(ended.stdout.splitlines()[-1])["msg"]
    assert "Traceback" not in ended.stderr


def unreachable(folder: Path) -> Path:
    """A kubeconfig of an API server that does not exist."""
    content = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "users": [{"name": "c", "user": {"token": "none"}}],
        "current-context": "c",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_an_api_server_it_lives_is_not_ready_and_stops_when_told(
    tmp_path: Path, number: signal.Signals
) -> None:
    with OperatorProcess(unreachable(tmp_path), tmp_path / "log", "--retry-seconds=0.1") as operator:
        until(lambda: operator.metric("llamaserver_operator_errors_total", kind="lease") >= 3, "it goes on trying")
        assert operator.health("/healthz") == (200, "ok")
        assert operator.health("/readyz")[0] == 503
        operator.process.send_signal(number)
        assert operator.process.wait(20) == 0
        assert operator.lines[-1]["msg"] == "stopped"
