"""A real Prometheus in the cluster's network, told what to scrape as the Prometheus operator would tell it."""

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dev.localcluster import Cluster, addresses, binaries
from dev.localcluster.kubectl import Object
from tests.support.cluster.accounts import READ, Account
from tests.support.polling import until

_PORT = 9090
_NAME = "prometheus"
_MAY = [
    {"apiGroups": [""], "resources": ["services", "pods"], "verbs": READ},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": READ},
]


class Prometheus:
    """Runs in a `with` block: with a service account of the namespace, for the ServiceMonitors given."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path, monitors: list[Object]) -> None:
        self._cluster = cluster
        self._account = Account(cluster, namespace, _NAME)
        self._folder = folder
        self._monitors = monitors

    def __enter__(self) -> Self:
        config = self._folder / "prometheus.yaml"
        config.write_text(self._generated())
        command = [
            str(binaries.prometheus()),
            f"--config.file={config}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}",
        ]
        self._cluster.processes.start(_NAME, [*command, f"--web.listen-address=127.0.0.1:{_PORT}"])
        self._relay = self._cluster.forward("127.0.0.1", _PORT)
        try:
            until(self._ready, f"Prometheus is ready (log: {self._cluster.processes.log(_NAME)})", 60, pause=0.2)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression is at present: labels and value of each series."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        found: list[Any] = json.loads(answer)["data"]["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def values(self, metric: str, label: str) -> dict[str, float]:
        """A metric's values by a label that tells its series apart."""
        return {labels[label]: value for labels, value in self.query(metric)}

    def _generated(self) -> str:
        """Prometheus' configuration."""
        token = self._folder / "token"
        kubectl = self._cluster.kubectl
        self._account.make().allow(*_MAY)
        token.write_text(kubectl("create", "token", _NAME, f"--namespace={self._account.namespace}").strip())
        api = {
            "host": f"https://{addresses.KUBERNETES}",
            "authorization": {"credentialsFile": str(token)},
            "tlsConfig": {"caFile": str(self._cluster.components.credentials.authority)},
        }
        spec = {"scrapeInterval": "1s", "scrapeTimeout": "1s", "evaluationInterval": "30s"}
        about = {"name": _NAME, "namespace": self._account.namespace}
        wanted = {**spec, "serviceDiscoveryRole": "EndpointSlice", "apiserverConfig": api}
        given = {"prometheus": {"metadata": about, "spec": wanted}, "serviceMonitors": self._monitors}
        command = [binaries.scrape_config()]
        made = subprocess.run(command, input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True).stdout
        # The config reloader beside a Prometheus fills in its pod's environment.
        return made.replace("$(SHARD)", "0").replace("$(POD_NAME)", f"{_NAME}-0")

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self._relay.url}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def _ready(self) -> bool:
        assert self._cluster.processes.running(_NAME), self._cluster.processes.log(_NAME).read_text()[-2000:]
        try:
            return bool(self._get("/-/ready"))
        except OSError:
            return False

    def _stop(self) -> None:
        self._relay.close()
        if self._cluster.processes.running(_NAME):
            self._cluster.processes.stop(_NAME)
