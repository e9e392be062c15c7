"""A cluster leaves the machine as it found it, also when whoever started it was killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dev.localcluster import Cluster
from dev.localcluster.sandbox import SYSCTLS
from tests.support.polling import until

pytestmark = pytest.mark.cluster


def machine():
    """What a cluster must not change."""
    commands = {" ".join(command): _output(*command) for command in (["ip", "link"], ["nft", "list", "ruleset"])}
    values = {name: (Path("/proc/sys") / name).read_text() for name in SYSCTLS if (Path("/proc/sys") / name).exists()}
    return commands | values


def left_of(cluster):
    """Mounts and cgroups that are the cluster's."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(cluster.folder) in line]
    return mounts + [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{cluster.sandbox.cgroup}*")]


def processes(folder):
    """Processes that name the folder in their command line."""
    found = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in _text(path)]
    return [path.name for path in found if "State:\tZ" not in _text(path / "status")]


def test_up_crash_up_down_leaves_nothing(cluster, tmp_path):
    """Beside the session's own cluster: several run on one machine."""
    folder = tmp_path / "second"
    before = machine()
    command = [sys.executable, "-m", "dev.localcluster", "up", f"--folder={folder}"]
    with (tmp_path / "up.log").open("w") as out:
        starting = subprocess.Popen(command, stdout=out, stderr=out)
    second = Cluster(folder)
    until((folder / "pids" / "kubelet.pid").exists, "the first start has come to the kubelet", 60)
    starting.send_signal(signal.SIGKILL)
    starting.wait()
    assert second.running
    assert left_of(second)
    try:
        second.up()
        nodes = second.kubectl.items("nodes")
        assert [node["metadata"]["name"] for node in nodes] == [second.node]
        assert second.kubectl.get("node", second.node) != cluster.kubectl.get("node", cluster.node)
    finally:
        second.down()
    until(lambda: not processes(folder), "all processes are gone")
    assert machine() == before
    assert left_of(second) == []
    assert not folder.exists()


def _output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _text(path):
    try:
        return path.read_text(errors="replace").replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
