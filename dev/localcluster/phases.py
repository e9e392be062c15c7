"""`python -m dev.localcluster.phases [--rounds N]`: how long it takes to scale from 0 to the first token, and back.

It uses a real cluster, our images and our chart. The example's model lies on its claim already. It prints two tables.
"""

import argparse
import contextlib
import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.polling import tried, until
from tools import model
from tools.cache import say

from . import product
from .cluster import ROOT, Cluster
from .components import SOCKET
from .forward import Relay
from .hub import Hub

EXAMPLE = ROOT / "examples" / "smollm2.yaml"
NAMESPACE = "default"
_IDLE = 5.0  # seconds without a request before the pod ends. The kubelet has finished its start by then
UP = (
    ("operator, Deployment, scheduler", "bound"),
    ("sandbox and volumes", "sandbox"),
    ("container that fetches: until it starts", "fetch started"),
    ("it finds the model and ends", "fetch ended"),
    ("kubelet sees that and starts the server", "server started"),
    ("Python until it listens", "listening"),
    ("the model is loaded and warm", "loaded"),
    ("probe: the pod is Ready", "ready"),
    ("Service, first token", "token"),
)
DOWN = (
    ("operator, Deployment: the pod is to end", "told"),
    ("SIGTERM", "signalled"),
    ("the server drains", "drained"),
    ("its process ends", "ended"),
    ("kubelet: the pod is gone", "gone"),
)
Marks = dict[str, float]


class Lines:
    """A command that keeps running: its lines, each with the time of its arrival."""

    def __init__(self, command: list[str]) -> None:
        self.seen: list[tuple[float, str]] = []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self.seen.append((time.time(), line))


@dataclass
class Watch:
    """Reports about the only pod: from the API server, from containerd, and from the server's log."""

    pods: Lines
    tasks: Lines
    logs: list[Lines] = field(default_factory=list)

    def pod(self, since: float, wanted: Callable[[str, dict[str, Any]], bool]) -> float:
        """The time at which the API server first reported this state of the pod. 0 before that."""
        for at, line in self.pods.seen:
            event = json.loads(line)
            if at >= since and wanted(event["type"], event["object"]):
                return at
        return 0.0

    def task(self, since: float, topic: str, container: str = "") -> float:
        """The time at which a container started or ended. Without a name, the first one."""
        for _, line in self.tasks.seen:
            stamp, _, rest = line.partition(" +0000 UTC ")
            at = datetime.fromisoformat(f"{stamp[:26].rstrip()}+00:00").timestamp()
            if at >= since and topic in rest and container in rest:
                return at
        return 0.0

    def log(self, since: float, words: str) -> float:
        """The time of a line in the log of the server."""
        for _, line in [pair for each in self.logs for pair in each.seen]:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if float(record["timestamp"]) >= since and words in record["msg"]:
                    return float(record["timestamp"])
        return 0.0


class Measurement:
    """One object on a cluster, scaled up and down."""

    def __init__(self, cluster: Cluster, name: str, url: str, watch: Watch) -> None:
        self._cluster, self._name, self._url, self._watch = cluster, name, url, watch

    def scale(self, replicas: int) -> float:
        """Run `kubectl scale`. Returns its start time."""
        began = time.time()
        self._cluster.kubectl("scale", "llamaserver", self._name, f"--replicas={replicas}", f"--namespace={NAMESPACE}")
        return began

    def up(self) -> Marks:
        """From 0 to the first token."""
        began = self.scale(1)
        token = self._first_token()
        (pod,) = self._cluster.kubectl.items("pods", namespace=NAMESPACE)
        where = [pod["metadata"]["name"], "--container=server", f"--namespace={NAMESPACE}", "--follow"]
        self._watch.logs.append(Lines(self._cluster.kubectl.command("logs", *where)))
        ids = {
            status["name"]: status["containerID"].removeprefix("containerd://")
            for status in [*pod["status"]["containerStatuses"], *pod["status"].get("initContainerStatuses", [])]
        }
        watch = self._watch
        until(lambda: watch.log(began, "is ready"), "the log says that the model is ready")
        return {
            "began": began,
            "bound": watch.pod(began, lambda kind, pod: kind != "DELETED" and "nodeName" in pod["spec"]),
            "sandbox": watch.task(began, "/tasks/start"),
            "fetch started": watch.task(began, "/tasks/start", ids["fetch"]),
            "fetch ended": watch.task(began, "/tasks/exit", ids["fetch"]),
            "server started": watch.task(began, "/tasks/start", ids["server"]),
            "listening": watch.log(began, "listening"),
            "loaded": watch.log(began, "is ready"),
            "ready": until(lambda: watch.pod(began, is_ready), "the pod is ready"),
            "token": token,
        }

    def down(self) -> Marks:
        """To 0, until the pod is gone."""
        (pod,) = self._cluster.kubectl.items("pods", namespace=NAMESPACE)
        (server,) = [status["containerID"] for status in pod["status"]["containerStatuses"]]
        time.sleep(_IDLE)
        began, watch = self.scale(0), self._watch
        gone = until(lambda: watch.pod(began, lambda kind, _: kind == "DELETED"), "the pod is gone", 60)
        return {
            "began": began,
            "told": watch.pod(began, lambda _, pod: "deletionTimestamp" in pod["metadata"]),
            "signalled": watch.log(began, "draining"),
            "drained": watch.log(began, "stopped"),
            "ended": watch.task(began, "/tasks/exit", server.removeprefix("containerd://")),
            "gone": gone,
        }

    def _first_token(self) -> float:
        body = json.dumps({"prompt": "Hello", "n_predict": 8, "stream": True}).encode()

        def ask() -> float:
            with urllib.request.urlopen(f"{self._url}/completion", body, timeout=10) as answer:
                return time.time() if answer.readline().startswith(b"data: ") else 0.0

        return until(tried(ask, OSError), "the first token", 120) or 0.0


def is_ready(_: str, pod: dict[str, Any]) -> bool:
    """Whether a pod has the condition Ready."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def table(phases: tuple[tuple[str, str], ...], rounds: list[Marks]) -> str:
    """Markdown: seconds of each phase, the median first."""
    head = ["phase", "median", *(str(1 + number) for number in range(len(rounds)))]
    rows, before = [], "began"
    for text, mark in phases:
        rows.append((text, [each[mark] - each[before] for each in rounds]))
        before = mark
    rows.append(("all", [each[before] - each["began"] for each in rounds]))
    lines = [head, ["---"] * len(head)]
    lines += [[text, f"**{median(taken):.2f}**", *(f"{each:.2f}" for each in taken)] for text, taken in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@contextlib.contextmanager
def watched(cluster: Cluster) -> Iterator[Watch]:
    """All reports while the block runs."""
    raw = f"--raw=/api/v1/namespaces/{NAMESPACE}/pods?watch=1"
    follow = ["setpriv", "--pdeathsig=KILL", "ctr", f"--address={SOCKET}", "--namespace=k8s.io", "events"]
    events = cluster.sandbox.enter(follow)
    with Lines(cluster.kubectl.command("get", raw)) as pods, Lines(events) as tasks:
        watch = Watch(pods, tasks)
        try:
            yield watch
        finally:
            for each in watch.logs:
                each.__exit__(None, None, None)


@contextlib.contextmanager
def served(folder: Path, *, keep: bool) -> Iterator[tuple[Cluster, str, Relay]]:
    """A cluster on which the example serves, its name, and a relay to its Service."""
    cluster = Cluster(folder)
    example = yaml.safe_load(EXAMPLE.read_text())
    name = example["metadata"]["name"]
    with contextlib.ExitStack() as stack:
        if not keep:
            stack.callback(cluster.down)
        if not (keep and cluster.running):
            cluster.up()
        product.load_images(cluster)
        hub = stack.enter_context(Hub())
        source = example["spec"]["model"]["source"]["huggingFace"]
        hub.add(source["repo"], source.get("revision", "main"), source["file"], model.ensure())
        mirror = stack.enter_context(cluster.expose(hub.port))
        product.install(cluster, {"huggingFace": {"endpoint": mirror.url}})
        cluster.kubectl("apply", "--filename", str(EXAMPLE))
        cluster.kubectl("wait", "llamaserver", name, "--for=condition=Ready", "--timeout=300s", timeout=310)
        spec = cluster.kubectl.get("service", name, NAMESPACE)["spec"]
        with cluster.forward(spec["clusterIP"], spec["ports"][0]["port"]) as relay:
            yield cluster, name, relay


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m dev.localcluster.phases", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/llamaserver-phases"), help="of the cluster")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running, and use one that runs")
    chosen = parser.parse_args()
    ups, downs = [], []
    with served(chosen.folder, keep=chosen.keep) as (cluster, name, relay), watched(cluster) as watch:
        measurement = Measurement(cluster, name, relay.url, watch)
        until(lambda: watch.pod(0, is_ready), "the watch has begun")
        began = measurement.scale(0)
        until(lambda: watch.pod(began, lambda kind, _: kind == "DELETED"), "no pod is left", 60)
        for number in range(chosen.rounds):
            ups.append(measurement.up())
            downs.append(measurement.down())
            took = [marks[last] - marks["began"] for marks, last in ((ups[-1], "token"), (downs[-1], "gone"))]
            say(f"round {1 + number}: up {took[0]:.2f} s, down {took[1]:.2f} s, load {os.getloadavg()[0]:.1f}")
        print(f"\n{table(UP, ups)}\n\n{table(DOWN, downs)}")


if __name__ == "__main__":
    main()
