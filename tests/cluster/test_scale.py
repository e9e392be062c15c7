"""More and fewer pods: by kubectl, by a real HorizontalPodAutoscaler, down to none and back."""

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from dev.localcluster.kubectl import Object
from tests.support.cluster.llama import Llama, get, post
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

AUTOSCALER = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "model"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "llamaserver.dev/v1alpha1", "kind": "LlamaServer", "name": "model"},
        "minReplicas": 2,
        "maxReplicas": 3,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
            }
        ],
    },
}


def scale(llama: Llama, replicas: int) -> None:
    llama.cluster.kubectl("scale", "llama/model", f"--replicas={replicas}", f"--namespace={llama.namespace}")


def scale_of(llama: Llama) -> Object:
    """What an autoscaler reads."""
    path = f"/apis/llamaserver.dev/v1alpha1/namespaces/{llama.namespace}/llamaservers/model/scale"
    found = json.loads(llama.cluster.kubectl("get", f"--raw={path}"))
    return {"wanted": found["spec"].get("replicas", 0), **found["status"]}


def names(llama: Llama) -> set[str]:
    return {pod["metadata"]["name"] for pod in llama.pods}


def test_up_and_down_by_an_autoscaler_and_by_hand(llama: Llama, tmp_path: Path) -> None:
    llama.apply().until_ready()
    first = names(llama)
    selector = llama.object["status"]["selector"]
    assert scale_of(llama) == {"wanted": 1, "replicas": 1, "selector": selector}
    template = llama.child("deployment")["spec"]["template"]
    kubectl = llama.cluster.kubectl
    found = kubectl.items("pods", namespace=llama.namespace, selector=selector)
    assert {pod["metadata"]["name"] for pod in found} == first
    assert not llama.child("poddisruptionbudget")

    # The controller finds the object's /scale, and that there must be two.
    kubectl("create", "--filename=-", f"--namespace={llama.namespace}", stdin=json.dumps(AUTOSCALER))
    until(lambda: llama.object["spec"]["replicas"] == 2, "the autoscaler wants two", 90, pause=0.5)
    llama.until_ready()
    assert scale_of(llama) == {"wanted": 2, "replicas": 2, "selector": selector}
    conditions = llama.child("horizontalpodautoscaler")["status"]["conditions"]
    able = next(item for item in conditions if item["type"] == "AbleToScale")
    assert able["status"] == "True", able
    kubectl.delete("horizontalpodautoscaler", "model", llama.namespace)
    assert first < names(llama), "the first pod goes on"
    assert llama.child("poddisruptionbudget")["spec"]["maxUnavailable"] == 1
    assert llama.object["status"]["slots"] == {"total": 4, "perReplica": 2}

    # Of two pods the younger goes, unless it is busy and the other one is not.
    (busy,) = names(llama) - first
    answers = busy_until_scaled_down(llama, busy)
    assert names(llama) == {busy}
    assert min(answer["tokens_predicted"] for answer in answers) >= 200, "no answer was cut off"
    until(lambda: not llama.child("poddisruptionbudget"), "a budget for one pod would be in the way", 60)
    llama.until_ready()
    assert llama.child("deployment")["spec"]["template"] == template

    scale(llama, 0)
    llama.until_condition("Ready", "True", "ScaledToZero")
    until(lambda: not llama.pods, "no pod is left", 60)
    until(lambda: scale_of(llama) == {"wanted": 0, "replicas": 0, "selector": selector}, "none is reported", 60)
    assert llama.condition("Accepted")[:2] == ("True", "Valid")
    with watched(llama, tmp_path / "watch") as file:
        scale(llama, 1)
        llama.until_ready()
        rows = [["model", "True", "False", "ScaledToZero", "0"], ["model", "True", "True", "Serving", "1"]]
        until(lambda: all(row in seen(file) for row in rows), "kubectl get -w shows how it comes up")
    assert llama.complete(ignore_eos=True)["tokens_predicted"] >= 4


@contextmanager
def watched(llama: Llama, file: Path) -> Iterator[Path]:
    """A file with what kubectl get -w prints."""
    command = llama.cluster.kubectl.command("get", "llama", "model", "-w", f"--namespace={llama.namespace}")
    with file.open("wb") as out, subprocess.Popen(command, stdout=out) as process:
        try:
            until(lambda: seen(file), "the watch has begun")
            yield file
        finally:
            process.kill()


def seen(file: Path) -> list[list[str]]:
    """The first columns of its rows, the header left out."""
    return [line.split()[:5] for line in file.read_text().splitlines()[1:]]


def busy_until_scaled_down(llama: Llama, name: str) -> list[Object]:
    """Keep this pod busy while the object goes to one replica; the answers."""
    pod = next(pod for pod in llama.pods if pod["metadata"]["name"] == name)
    over = threading.Event()
    with llama.pod_port(pod, 8080) as relay, llama.pod_port(pod) as management:

        def ask(number: int) -> list[Object]:
            body = {"prompt": "Hello", "n_predict": 200, "ignore_eos": True, "seed": number}
            answers = []
            while not over.is_set():
                answers.append(post(f"{relay.url}/completion", body, timeout=120))
            return answers

        with ThreadPoolExecutor(3) as pool:  # one more than there are slots: none is ever idle
            asking = [pool.submit(ask, number) for number in range(3)]
            try:
                until(lambda: get(f"{management.url}/status")["slots"]["processing"] == 2, "the pod is busy")
                scale(llama, 1)
                until(lambda: len(llama.pods) == 1, "one pod is left", 60)
            finally:
                over.set()
            return [answer for each in asking for answer in each.result()]
