"""A LlamaServer object on a cluster, as a test sees it: apply, wait, look, ask."""

import copy
import json
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from dev.localcluster import Cluster
from dev.localcluster.forward import Relay
from dev.localcluster.kubectl import Object
from tests.support.polling import until

Condition = tuple[str, str, str]  # status, reason, message
_NONE: Condition = ("", "", "")
REPO = "test/models"  # the repository that the product fixture's hub has


def spec_of(file: str = "tiny.gguf", **changes: Any) -> Object:
    """A small spec: a tiny random model from the hub, little memory, quick rollouts."""
    spec: Object = {
        "model": {"source": {"huggingFace": {"repo": REPO, "file": file}}},
        "context": {"tokensPerSlot": 256, "slots": 2},
        "rollout": {"drainTimeoutSeconds": 5, "progressDeadlineSeconds": 120},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
    }
    return merged(spec, changes)


def merged(base: Object, changes: Object) -> Object:
    """`base` with `changes` over it; None removes a key."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


@dataclass
class Llama:
    """One object in a namespace; `spec` is what was applied last."""

    cluster: Cluster
    namespace: str
    name: str = "model"
    spec: Object = field(default_factory=spec_of)

    def apply(self, **changes: Any) -> "Llama":
        """kubectl apply with these changes to the spec."""
        self.spec = merged(self.spec, changes)
        about = {"name": self.name, "namespace": self.namespace}
        body = {"apiVersion": "llamaserver.dev/v1alpha1", "kind": "LlamaServer", "metadata": about, "spec": self.spec}
        self.cluster.kubectl("apply", "--filename=-", stdin=json.dumps(body))
        return self

    # ---- look

    @property
    def object(self) -> Object:
        return self.cluster.kubectl.get("llamaserver", self.name, self.namespace)

    @property
    def generation(self) -> int:
        return int(self.object["metadata"]["generation"])

    @property
    def conditions(self) -> dict[str, Condition]:
        """All as of one moment; of the present generation only."""
        body = self.object
        return {
            item["type"]: (item["status"], item["reason"], item.get("message", ""))
            for item in body.get("status", {}).get("conditions", [])
            if item["observedGeneration"] == body["metadata"]["generation"]
        }

    def condition(self, kind: str) -> Condition:
        """Status, reason and message; empty before there are any."""
        return self.conditions.get(kind, _NONE)

    def until_conditions(self, kind: str, status: str, reason: str, deadline: float = 120) -> dict[str, Condition]:
        """Wait for a condition; all that were told with it."""
        wanted = (status, reason)
        seen: dict[str, Condition] = {}

        def reached() -> bool:
            nonlocal seen
            seen = self.conditions
            return seen.get(kind, _NONE)[:2] == wanted

        try:
            until(reached, f"{kind} is {wanted}", deadline, pause=0.25)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen.get(kind)}") from None
        return seen

    def until_condition(self, kind: str, status: str, reason: str, deadline: float = 120) -> str:
        """Wait for a condition; its message."""
        return self.until_conditions(kind, status, reason, deadline)[kind][2]

    def until_ready(self, deadline: float = 180) -> "Llama":
        self.until_condition("Ready", "True", "Serving", deadline)
        return self

    def child(self, kind: str, name: str = "") -> Object:
        """A child by kind, of the object's own name unless given."""
        return self.cluster.kubectl.get(kind, name or self.name, self.namespace)

    @property
    def pods(self) -> list[Object]:
        """Pods that are not ending, oldest first."""
        found = self.cluster.kubectl.items(
            "pods", namespace=self.namespace, selector=f"llamaserver.dev/name={self.name}"
        )
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(alive, key=lambda pod: pod["metadata"]["creationTimestamp"])

    @property
    def pod_uids(self) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self.pods}

    def container(self, name: str = "server") -> Object:
        """A container of the Deployment's template."""
        pod = self.child("deployment")["spec"]["template"]["spec"]
        return next(item for item in [*pod["containers"], *pod.get("initContainers", [])] if item["name"] == name)

    def events(self) -> list[tuple[str, str, str]]:
        """(type, reason, message) of the Events about the object."""
        found = self.cluster.kubectl.items("events", namespace=self.namespace)
        mine = [item for item in found if item["involvedObject"].get("name") == self.name]
        mine = [item for item in mine if item["involvedObject"].get("kind") == "LlamaServer"]
        return [(item["type"], item["reason"], item["message"]) for item in mine]

    def until_event(self, reason: str, words: str = "") -> None:
        """Wait for a Warning; it is told just after the condition."""

        def told() -> bool:
            return any(kind == "Warning" and why == reason and words in text for kind, why, text in self.events())

        until(told, f"{self.name}: {reason} is told")

    # ---- do

    def evict(self, pod: Object) -> None:
        """Through the Eviction API, as a node's drain does."""
        name = pod["metadata"]["name"]
        about = {"name": name, "namespace": self.namespace}
        body = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": about})
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/eviction"
        self.cluster.kubectl("create", "--raw", path, "--filename=-", stdin=body)

    # ---- ask

    def service(self) -> AbstractContextManager[Relay]:
        """A way to the Service."""
        return self.cluster.service(self.name, self.namespace)

    def pod_port(self, pod: Object, port: int = 8081) -> AbstractContextManager[Relay]:
        """A way to a port of a pod."""
        return self.cluster.forward(pod["status"]["podIP"], port)

    def complete(self, prompt: str = "Hello", **body: Any) -> Object:
        """POST /completion through the Service."""
        with self.service() as relay:
            return post(f"{relay.url}/completion", {"prompt": prompt, "n_predict": 4, "temperature": 0, **body})


def post(url: str, body: Object, headers: dict[str, str] | None = None, timeout: float = 60) -> Object:
    """POST JSON, get JSON."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
    )
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return dict(json.load(answer))


def get(url: str, timeout: float = 10) -> Object:
    """GET JSON."""
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return dict(json.load(answer))
