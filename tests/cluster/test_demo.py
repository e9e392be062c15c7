"""`make demo`, when something dies in it: it ends with the cause, never with a traceback."""

import subprocess
import sys

import pytest

from dev.localcluster import demo
from dev.localcluster.cluster import Cluster
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

CHAT = "[5/5]"


@pytest.fixture
def run(tmp_path):
    """Starts the demo in a folder of its own; its output goes to a file."""
    folder, output = tmp_path / "demo", tmp_path / "output"
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "dev.localcluster.demo", "--once", f"--folder={folder}", *arguments]
        with output.open("w") as out:
            started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
        return started[-1], Cluster(folder), output

    yield start
    for process in started:
        process.terminate()
        process.wait(60)
    Cluster(folder).down()


def test_a_killed_server_is_told_with_its_signal_and_its_log(run):
    process, cluster, output = run("--tokens=1500")
    until(lambda: CHAT in output.read_text() or process.poll() is not None, "the chat has begun", 200, pause=0.05)
    (pod,) = cluster.kubectl.items("pods", namespace=demo.NAMESPACE)
    cluster.signal_container(demo.NAMESPACE, pod["metadata"]["name"], "SIGKILL", "server")
    assert process.wait(120) == 1, output.read_text()
    told = output.read_text()
    told = told[told.index(CHAT) :]
    assert "Traceback" not in told
    assert "this step failed: [5/5]" in told
    assert "exit code 137 (SIGKILL)" in told, told
    assert "is ready" in told, f"the end of the server's log is missing: {told}"
    for part in ("conditions:", "Ready", "what to try:"):
        assert part in told
    assert not cluster.running
