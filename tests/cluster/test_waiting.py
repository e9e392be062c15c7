"""Automation sees green only where something works, and waits for nothing in vain: helm 4, kstatus and kubectl wait."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dev.localcluster.hub import Hub
from dev.localcluster.kubectl import KubectlError, Object
from tests.support.cluster.helm import Helm, HelmError
from tests.support.cluster.llama import REPO, Llama, spec_of
from tests.support.cluster.waiting import States, verdicts, watched
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NONE: Object = {"model": {"source": {"huggingFace": {"file": "none.gguf"}}}}  # the hub answers 404
GOOD: Object = {"model": {"source": {"huggingFace": {"file": "tiny.gguf"}}}}
SLOW = "slow/models"


def verdict(llama: Llama) -> str:
    """What kstatus says at present."""
    ((status, _),) = verdicts([llama.object])
    return status


def wait(llama: Llama, condition: str, seconds: int = 120) -> None:
    where = f"--namespace={llama.namespace}"
    llama.cluster.kubectl(
        "wait", f"--for=condition={condition}", "llama/model", where, f"--timeout={seconds}s", timeout=seconds + 20
    )


def condition(state: Object, kind: str) -> str:
    found = state.get("status", {}).get("conditions", [])
    return next((item["status"] for item in found if item["type"] == kind), "")


def of_generation(states: States, generation: int) -> list[str]:
    """What kstatus says of the states since an edit."""
    found = [state for state in states.all if state["metadata"]["generation"] == generation]
    return [status for status, _ in verdicts(found)]


def test_kstatus_knows_each_state(llama: Llama, hub: Hub, tmp_path: Path) -> None:
    tiny = hub.content(REPO, "main", "tiny.gguf")
    hub.add(SLOW, "main", "tiny.gguf", tiny)
    with watched(llama, tmp_path / "states") as states:
        with hub.held(SLOW):
            llama.apply(model={"source": {"huggingFace": {"repo": SLOW}}})
            llama.until_condition("ModelAvailable", "False", "Downloading")
            assert verdict(llama) == "InProgress"
        llama.until_ready()
        first = states.all[0]
        assert first["status"] == {"observedGeneration": -1}, "the API server gives it before the operator knows of it"
        assert states.verdicts == ["InProgress", "Current"]

        llama.apply(model={"source": {"huggingFace": {"repo": REPO, "file": "none.gguf"}}})
        until(lambda: verdict(llama) == "Failed", "kstatus gives it up", 60, pause=0.25)
        assert llama.condition("Available")[0] == "True", "the old pod serves"
        assert "404 Not Found" in llama.condition("Stalled")[2]
        assert "Current" not in of_generation(states, llama.generation)

        llama.apply(**GOOD).until_ready()
        assert verdict(llama) == "Current"
        assert "Failed" not in of_generation(states, llama.generation)
        llama.apply(replicas=0)
        llama.until_condition("Ready", "True", "ScaledToZero")
        assert verdict(llama) == "Current"
        assert llama.condition("Available")[:2] == ("False", "ScaledToZero")
        llama.apply(replicas=1).until_ready()

        kubectl = llama.cluster.kubectl
        kubectl("delete", "llama/model", f"--namespace={llama.namespace}", "--cascade=foreground", "--wait=false")
        until(lambda: not llama.object, "the object is gone", 60, pause=0.25)
        deleting = [state for state in states.all if "deletionTimestamp" in state["metadata"]]
        assert {status for status, _ in verdicts(deleting)} == {"Terminating"}
        assert condition(deleting[-1], "Ready") == "False", "kubectl wait looks at this alone"


@pytest.fixture
def chart(tmp_path: Path) -> Callable[[Object], Path]:
    """A chart of a user's, with one LlamaServer and something else."""

    def made(spec: Object) -> Path:
        folder = tmp_path / "app"
        (folder / "templates").mkdir(parents=True, exist_ok=True)
        (folder / "Chart.yaml").write_text("{apiVersion: v2, name: app, version: 0.1.0}")
        model = {"apiVersion": "llamaserver.dev/v1alpha1", "kind": "LlamaServer", "metadata": {"name": "model"}}
        other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}, "data": {"a": "1"}}
        text = yaml.safe_dump_all([{**model, "spec": spec}, other])
        (folder / "templates" / "all.yaml").write_text(text)
        return folder

    return made


def test_helm_waits_for_what_works_and_for_nothing_else(llama: Llama, chart: Callable[[Object], Path]) -> None:
    helm = Helm(kubeconfig=llama.cluster.kubeconfig)
    where = (f"--namespace={llama.namespace}", "--wait", "--timeout=4m")

    def install(spec: Object) -> None:
        helm("upgrade", "--install", "app", str(chart(spec)), *where, timeout=280)

    def fails(spec: Object, *words: str) -> None:
        with pytest.raises(HelmError) as raised:
            install(spec)
        text = str(raised.value)
        assert [word for word in words if word not in text] == [], text
        assert "deadline" not in text, "it did not wait until the end of its time"

    fails(spec_of("none.gguf"), "404 Not Found", "none.gguf")
    install(spec_of())
    assert llama.condition("Available")[0] == "True"
    assert llama.complete()["tokens_predicted"]
    fails(spec_of("none.gguf"), "404 Not Found")
    assert llama.complete()["tokens_predicted"], "the old pod serves"
    fails(spec_of(engine={"extraArgs": ["--no-such-option"]}), "--no-such-option")
    install(spec_of(replicas=0))
    assert llama.condition("Ready")[:2] == ("True", "ScaledToZero")
    install(spec_of())
    assert llama.complete()["tokens_predicted"]


def test_kubectl_wait(llama: Llama) -> None:
    llama.apply(**NONE)
    wait(llama, "Stalled")
    for kind in ("Ready", "Available"):
        with pytest.raises(KubectlError, match="timed out"):
            wait(llama, kind, 3)
    llama.apply(**GOOD)
    wait(llama, "Ready")
    assert llama.condition("Available")[0] == "True"
    assert "Stalled" not in llama.conditions
    llama.apply(**NONE)
    with pytest.raises(KubectlError, match="timed out"):
        wait(llama, "Ready", 10)
    wait(llama, "Available", 10)
    llama.apply(replicas=0)
    wait(llama, "Ready")


def test_pods_of_a_deleted_object_of_the_same_name_do_not_count(llama: Llama, tmp_path: Path) -> None:
    llama.apply(replicas=2).until_ready()
    old = llama.object["metadata"]["uid"]
    with watched(llama, tmp_path / "states") as states:
        llama.cluster.kubectl("delete", "llama/model", f"--namespace={llama.namespace}", "--wait=false")
        llama.apply(**NONE)
        llama.until_condition("Stalled", "True", "ModelNotFound")
        new = [state for state in states.all if state["metadata"]["uid"] != old]
    assert len(new) > 2
    assert {condition(state, "Ready") for state in new} == {"", "False"}
    assert {condition(state, "Available") for state in new} == {"", "False"}
    assert "Current" not in {status for status, _ in verdicts(new)}


def test_a_paused_deployment_is_shown(llama: Llama) -> None:
    where = f"--namespace={llama.namespace}"
    llama.apply().until_ready()
    llama.cluster.kubectl("rollout", "pause", "deployment/model", where)
    text = "Deployment model is paused. Resume it with kubectl rollout resume deployment/model"
    assert llama.until_condition("Progressing", "Unknown", "Paused") == text
    assert llama.condition("Ready")[:2] == ("True", "Serving"), "what runs is the spec"
    before = llama.pod_uids

    llama.apply(context={"slots": 1})
    assert llama.until_condition("Progressing", "False", "Paused") == text
    assert llama.condition("Ready") == ("False", "Paused", text)
    assert llama.condition("Available")[0] == "True"
    assert verdict(llama) == "Failed"
    llama.until_event("Paused", text)
    assert llama.pod_uids == before
    row = llama.cluster.kubectl("get", "llama", where, "--no-headers").split()
    assert row[:4] == ["model", "False", "True", "Paused"]

    llama.cluster.kubectl(*text.partition(" with kubectl ")[2].split(), where)
    llama.until_ready()
    assert not before & llama.pod_uids
    assert verdict(llama) == "Current"


def test_an_object_without_a_deployment_stalls_too(llama: Llama) -> None:
    """What stands against it is known before anything is made."""
    about = {"name": llama.name, "namespace": llama.namespace}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": {"ports": [{"port": 80}]}}
    llama.cluster.kubectl("create", "--filename=-", stdin=json.dumps(service))
    llama.apply()
    llama.until_condition("Stalled", "True", "NameConflict")
    assert verdict(llama) == "Failed"
    llama.cluster.kubectl.delete("service", llama.name, llama.namespace)
    llama.until_ready()
    assert verdict(llama) == "Current"
