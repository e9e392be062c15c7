"""The operator that the chart installed: restarted, taken away, another one put in its place."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.localcluster import Cluster, addresses, product
from tests.support.cluster.accounts import Account
from tests.support.operator.operator_process import OperatorProcess
from tests.support.polling import until

NAME = f"{product.RELEASE}-llamaserver-operator"
READS = ("get", "list", "watch")


@dataclass(frozen=True)
class Installed:
    """The Deployment in product.NAMESPACE, and what its service account does."""

    cluster: Cluster

    @property
    def account(self) -> Account:
        """Whose rights the operator has."""
        return Account(self.cluster, product.NAMESPACE, NAME)

    @property
    def arguments(self) -> list[str]:
        """The flags that the chart gives it."""
        pod = self.cluster.kubectl.get("deployment", NAME, product.NAMESPACE)["spec"]["template"]["spec"]
        return [*pod["containers"][0]["args"], f"--namespace={product.NAMESPACE}"]

    @property
    def pods(self) -> list[dict[str, Any]]:
        """Its pods, those that are ending too."""
        selector = "app.kubernetes.io/name=llamaserver-operator"
        return self.cluster.kubectl.items("pods", product.NAMESPACE, selector)

    def requests(self, namespace: str = "") -> list[dict[str, Any]]:
        """What the operator asked of the API server so far, as audit events: about one namespace, if it is given."""
        events = self.cluster.audit(self.account.user)
        return [event for event in events if namespace in ("", event["objectRef"].get("namespace"))]

    def writes(self, namespace: str = "") -> list[str]:
        """The writes among them, Leases aside: verb, resource, name."""
        found = []
        for event in self.requests(namespace):
            about = event["objectRef"]
            if event["verb"] not in READS and about["resource"] != "leases":
                what = "/".join(filter(None, (about["resource"], about.get("subresource"), about.get("name"))))
                found.append(f"{event['verb']} {what}")
        return found

    def restart(self) -> None:
        """As an upgrade does it."""
        self.cluster.kubectl("rollout", "restart", f"deployment/{NAME}", f"--namespace={product.NAMESPACE}")
        self._until_there()

    @contextmanager
    def away(self) -> Iterator[None]:
        """No operator runs in the block."""
        self._scale(0)
        try:
            until(lambda: not self.pods, "the operator's pod is gone", 90, pause=0.2)
            yield
        finally:
            self._scale(1)
            self._until_there()

    @contextmanager
    def replaced(self, log: Path, *flags: str, module: str = "llamaserver_operator") -> Iterator[OperatorProcess]:
        """Another operator leads in the block: a process of this machine, with the same rights, flags and network."""
        with self.away(), self.process(log, *flags, module=module) as process:
            yield process.until_leading()

    def process(self, log: Path, *flags: str, module: str = "llamaserver_operator") -> OperatorProcess:
        """Such a process. It waits while another one leads."""
        kubeconfig = self.account.kubeconfig(log.parent, f"https://127.0.0.1:{addresses.API_PORT}")
        return OperatorProcess(kubeconfig, log, *self.arguments, *flags, module=module, inside=self.cluster)

    def _scale(self, replicas: int) -> None:
        where = f"--namespace={product.NAMESPACE}"
        self.cluster.kubectl("scale", f"deployment/{NAME}", f"--replicas={replicas}", where)

    def _until_there(self) -> None:
        where = f"--namespace={product.NAMESPACE}"
        self.cluster.kubectl("rollout", "status", f"deployment/{NAME}", where, "--timeout=170s", timeout=180)
