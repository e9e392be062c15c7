"""NetworkPolicies that are enforced: who reaches which port of a model pod, and where its download may connect to."""

from collections.abc import Iterator
from typing import Any

import pytest

from dev.localcluster import Cluster
from dev.localcluster.kubectl import KubectlError
from tests.support.cluster.llama import Llama
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
FRONTEND = {"role": "frontend"}
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=4).status)"


@pytest.fixture
def enforced(cluster: Cluster) -> Iterator[None]:
    with cluster.enforcing_policies():
        yield


class Client:
    """A pod that asks."""

    def __init__(self, llama: Llama, name: str, image: str, labels: dict[str, str]) -> None:
        self._kubectl, self._namespace, self.name = llama.cluster.kubectl, llama.namespace, name
        security = {
            **{"allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 10001},
            **{"capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
        }
        sleep = ["python3", "-c", "import time; time.sleep(3600)"]
        container = {"name": "it", "image": image, "command": sleep, "securityContext": security}
        spec = {"containers": [{**container, "imagePullPolicy": "Never"}], "terminationGracePeriodSeconds": 0}
        about = {"name": name, "namespace": self._namespace, "labels": labels}
        self._kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec})

    def until_running(self) -> "Client":
        def runs() -> bool:
            found = self._kubectl.get("pod", self.name, self._namespace)
            return bool(found["status"].get("phase") == "Running")

        until(runs, f"{self.name} runs", 90, pause=0.5)
        return self

    def ask(self, url: str) -> str:
        """The status of the answer, or "timed out"."""
        where = ["exec", self.name, f"--namespace={self._namespace}", "--", "python3", "-c", ASK, url]
        try:
            return self._kubectl(*where).strip()
        except KubectlError as error:
            if "timed out" in str(error):
                return "timed out"
            raise


def test_only_named_pods_reach_the_model(llama: Llama, enforced: None) -> None:
    peers: list[dict[str, Any]] = [{"podSelector": {"matchLabels": FRONTEND}}]
    policy = {"from": peers, "egress": "Download"}
    llama.apply(security={"networkPolicy": policy}).until_ready()  # the download and the probes pass
    (pod,) = llama.pods
    image, address = pod["spec"]["containers"][0]["image"], pod["status"]["podIP"]
    frontend, other = Client(llama, "frontend", image, FRONTEND), Client(llama, "other", image, {"role": "other"})
    clients = [frontend.until_running(), other.until_running()]
    until(lambda: frontend.ask(f"http://{address}:8080/health") == "200", "the policy knows the client", 60, pause=1)
    assert other.ask(f"http://{address}:8080/health") == "timed out"
    for client in clients:
        assert client.ask(f"http://{address}:8081/status") == "timed out", "it is for the operator and Prometheus"
    assert llama.object["status"]["slots"]["total"] == 2
    llama.apply(security={"networkPolicy": {"from": None}})
    until(lambda: other.ask(f"http://{address}:8080/health") == "200", "everybody may ask", 60, pause=1)
    # Where the pod itself may connect to: name servers and the ports of the download.
    ask = [
        "exec",
        pod["metadata"]["name"],
        f"--namespace={llama.namespace}",
        "--container=server",
        "--",
        "python3",
        "-c",
    ]
    with pytest.raises(KubectlError, match="timed out"):
        llama.cluster.kubectl(*ask, ASK, "http://10.96.0.1:6443/")
