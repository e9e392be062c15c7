"""Objects that nobody touches cost reads and nothing else."""

from pathlib import Path

import pytest

from tests.support.cluster.installed import Installed
from tests.support.cluster.llama import Llama, spec_of
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LONG = {"progressDeadlineSeconds": 3600}  # Kubernetes writes when it is over
LOOKS = 15  # at the default of one in 5 minutes, that is more than an hour
KINDS = (
    "llamaservers,deployments,replicasets,services,serviceaccounts,configmaps,persistentvolumeclaims,"
    "networkpolicies,poddisruptionbudgets"
)


def versions(llama: Llama) -> dict[str, str]:
    """What changes with any write to an object or its children."""
    items = llama.cluster.kubectl.items(KINDS, namespace=llama.namespace)
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in items}


def test_looking_at_unchanged_objects_writes_nothing(llama: Llama, tmp_path: Path) -> None:
    cluster, namespace = llama.cluster, llama.namespace
    volume = {"claimTemplate": {"size": "64Mi", "accessModes": ["ReadWriteMany"]}}
    llama.apply(kvCache={"volume": volume, "persistence": "OnShutdown"}, systemPrompt={"inline": "Be brief."})
    missing = {"configMapKeyRef": {"name": "none", "key": "none"}}
    others = {
        "zero": (spec_of(replicas=0), "ScaledToZero"),
        "blocked": (spec_of(systemPrompt=missing), "ConfigMapNotFound"),
        "waiting": (spec_of(podTemplate={"nodeSelector": {"none": "such"}}, replicas=2, rollout=LONG), "Unschedulable"),
    }
    for name, (spec, reason) in others.items():
        ready = str(name == "zero")
        Llama(cluster, namespace, name, spec).apply().until_condition("Ready", ready, reason)
    llama.until_ready()
    llama.complete()
    installed = Installed(cluster)
    flags = (f"--watch-namespace={namespace}", "--resync-seconds=1")
    with installed.replaced(tmp_path / "idle.log", *flags) as operator:

        def looks() -> float:
            return operator.metric("llamaserver_operator_reconciles_total", result="ok")

        def until_looked_at(times: int) -> None:
            target = looks() + times * (1 + len(others))
            until(lambda: looks() >= target, f"each object was looked at {times} times", 180, pause=0.5)

        until_looked_at(3)  # its first looks: it knows nothing yet of what the last operator did
        before, written, events = versions(llama), installed.writes(namespace), llama.events()
        assert written
        until_looked_at(LOOKS)
        assert installed.writes(namespace) == written
        assert versions(llama) == before
        assert llama.events() == events
        assert [reason for _, reason, _ in events].count("Serving") == 1, "one Event for one transition"
        assert operator.metric("llamaserver_operator_reconciles_total", result="error") == 0

        # A touch that changes nothing of ours is looked at too.
        about = f"--namespace={namespace}"
        cluster.kubectl("annotate", "llama/model", "example.com/touched=yes", about)
        cluster.kubectl("label", "llama/model", "team=a", about)
        until_looked_at(2)
        assert installed.writes(namespace) == written
