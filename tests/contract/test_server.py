"""A real server, started as by the operator: it has the paths and values that the operator and its manifests use."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from llamaserver.models import fetch_run
from llamaserver_operator import names
from llamaserver_operator.metrics import Metrics
from llamaserver_operator.parsing import parse
from llamaserver_operator.plan import make_plan
from llamaserver_operator.podreader import PodReader
from llamaserver_operator.pods import trouble
from llamaserver_operator.resources.pod import pod_template
from llamaserver_operator.resources.policies import service_monitor
from llamaserver_operator.status import status_of
from llamaserver_operator.view import View
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.conftest import IMAGE, rendered
from tests.contract.recorded import Recorded
from tests.support.models import Models
from tests.support.operator.schema import CRD, ROOT, Node
from tests.support.operator.worlds import CONFIG, NOW, counts, owner, pod, rolled_out, world
from tests.support.polling import until
from tests.support.server.process import ServerProcess, free_port

RAW: dict[str, Any] = {
    "model": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "llama.gguf"}}},
    "context": {"tokensPerSlot": 256, "slots": 2},
    "engine": {"threads": 1},
    "kvCache": {"persistence": "Continuous", "volume": {"emptyDir": {}}},
    "rollout": {"drainTimeoutSeconds": 0},
}
SHARED = {"image": {"reference": "registry.example/model:1", "path": "llama.gguf"}}


class Running:
    """A ready server, and the report of its management port."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> tuple[int, str]:
        with urllib.request.urlopen(self._url + path, timeout=10) as answer:
            return answer.status, answer.read().decode()

    @property
    def status(self) -> dict[str, Any]:
        return json.loads(self.get("/status")[1])


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(folders: Path, port: int) -> Iterator[Running]:
    """The environment and the arguments of the container, with other ports."""
    models = folders / "sources" / "0"
    models.mkdir()
    Models(models).llama()
    ports = ("--management-host", "127.0.0.1", "--management-port", str(port))
    with ServerProcess(*rendered(RAW), *ports, env=IMAGE) as process:
        body = b'{"prompt": "hello", "n_predict": 4}'
        with urllib.request.urlopen(f"{process.url}/completion", data=body, timeout=60) as answer:
            assert answer.status == 200
        running = Running(f"http://127.0.0.1:{port}")
        until(lambda: "kv_store" in running.status, "the store is open")
        yield running


def test_probes_and_the_service_monitor_find_their_paths(server: Running):
    (container,) = pod_template(parse(RAW), "models", "demo", "image", CONFIG)["spec"]["containers"]
    ports = {item["name"]: item["containerPort"] for item in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert ports[get["port"]] == names.MANAGEMENT_PORT
        assert server.get(get["path"])[0] == 200
    monitor = service_monitor(owner(), parse(RAW))
    for endpoint in monitor["spec"]["endpoints"]:
        assert "llamacpp:tokens_predicted_total" in server.get(endpoint["path"])[1]


def test_the_download_has_the_paths_of_the_management_port():
    app: web.Application = fetch_run.management_app(fetch_run.Progress())
    assert {resource.canonical for resource in app.router.resources()} == {"/livez", "/readyz", "/metrics", "/status"}


async def test_the_operator_reads_a_status(server: Running, port: int):
    reader = PodReader(port)
    try:
        found = await reader.status({"status": {"podIP": "127.0.0.1"}})
    finally:
        await reader.close()
    assert found
    assert found["state"] == "ready"
    # what was read is what was said
    raw = server.status
    for name in ("slots", "model", "accelerator", "kv_store"):
        assert found[name].items() <= raw[name].items(), name


def test_every_key_that_the_operator_reads_is_there(server: Running):
    """The report fills every field of the status that the server can know."""
    spec = parse({**RAW, "accelerator": {"vendor": "NVIDIA", "onFallback": "Warn"}})
    report = Recorded(server.status)
    plan = make_plan(spec, world(spec), CONFIG)
    observed = rolled_out(spec, plan, [pod(ready=True)], counts(1), reports={"new-0": report})
    # when the Deployment shrinks, busy pods cost more
    few, many = (parse({**RAW, "model": {"source": SHARED}, "replicas": number}) for number in (1, 2))
    wide = make_plan(many, world(many), CONFIG)
    shrinking = rolled_out(many, wide, [pod(ready=True)], counts(2), reports={"new-0": report})
    assert make_plan(few, shrinking, CONFIG).costs == {"new-0": 0}
    status = status_of(View(spec, observed, plan.problems, NOW))
    # "download": only while there is one. "sha256": verified digests only, "" here.
    assert report.missing <= {"download"}
    assert {"state", "slots", "requests_deferred", "model", "accelerator", "kv_store"} <= report.asked
    assert report["slots"].asked == {"processing"}
    conditions = {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}
    assert conditions["ModelAvailable"] == ("True", "Loaded")
    assert conditions["Accelerated"] == ("False", "RunningOnCPU")
    assert conditions["CacheRestored"][1] in ("Empty", "Available")
    assert status["model"]["file"] == "llama.gguf"
    assert status["model"]["trainedContext"] > 0
    assert status["accelerator"]["layersOffloaded"] == 0
    assert status["slots"] == {"total": 2, "perReplica": 2}
    assert server.status["slots"]["total"] == 2
    assert server.status["model"]["total_context"] == status["context"]["totalTokens"]
    known: Node = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    for name in ("model", "kvCache", "accelerator"):
        missing = set(known[name]["properties"]) - set(status[name])
        assert missing <= ({"sha256", "quantization"} if name == "model" else set()), name


async def test_metrics_that_documents_and_manifests_name_exist(server: Running):
    exposed: set[str] = set()
    operators = generate_latest(Metrics().registry).decode()
    for text in (server.get("/metrics")[1], operators, await _download_metrics()):
        for family in text_string_to_metric_families(text):
            exposed |= {family.name, *(sample.name for sample in family.samples), f"{family.name}_total"}
    told: dict[str, str] = {}
    for path in _documents():
        for name in re.findall(r"\b(?:llamacpp|llamaserver):[a-z_]+|\bllamaserver_operator_[a-z_]+", path.read_text()):
            told.setdefault(name, path.name)
    modules = {"llamaserver_operator_", "llamaserver_operator"}
    absent = {name for name in told if name.startswith("llamacpp:spec_decode_")}  # told to be left out
    assert {name: where for name, where in told.items() if name not in exposed | modules | absent} == {}


def _documents() -> list[Path]:
    folders = [ROOT / "docs", ROOT / "charts", ROOT / "examples", ROOT / "crds"]
    found = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".md", ".yaml", ".json", ".txt")
    ]
    return [*found, ROOT / "README.md", ROOT / "ARCHITECTURE.md"]


async def _download_metrics() -> str:
    async with TestClient(TestServer(fetch_run.management_app(fetch_run.Progress()))) as client:
        return await (await client.get("/metrics")).text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_start_servers(path: Path):
    for manifest in yaml.safe_load_all(path.read_text()):
        rendered(manifest["spec"])


def test_the_operator_reads_the_reason_of_a_refused_command_line(tmp_path: Path):
    """The operator writes no such option. A podTemplate or an older image may cause it."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "llamaserver", *rendered(RAW), "--no-such-option", "--termination-log", str(log)]
    done = subprocess.run(command, env=os.environ | IMAGE, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    ended = {"exitCode": 2, "reason": "Error", "message": log.read_text()}
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    container = {"name": "server", "state": state, "lastState": {"terminated": ended}}
    found = trouble(pod(containerStatuses=[container]))
    assert found
    assert (found.condition, found.reason) == ("Progressing", "BadArguments")
    assert "--no-such-option" in found.message
