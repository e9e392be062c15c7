"""A hundred objects at once: what it takes, in time and in requests, is printed; what is asserted are counts."""

import json
from collections import Counter
from datetime import datetime
from statistics import quantiles

import pytest

from dev.localcluster import product
from tests.support.cluster.installed import Installed
from tests.support.cluster.llama import Llama, spec_of
from tests.support.polling import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

OBJECTS = 100
# Two to three looks of about ten reads each, a write for each child, one or two for the status.
MOST_REQUESTS = 120


def time_of(event: dict[str, str], field: str) -> float:
    return datetime.fromisoformat(event[field]).timestamp()


def test_a_hundred_objects_get_their_deployments(llama: Llama, capsys: pytest.CaptureFixture[str]) -> None:
    cluster, namespace = llama.cluster, llama.namespace
    api = {"apiVersion": "llamaserver.dev/v1alpha1", "kind": "LlamaServer"}
    names = {f"model-{number}" for number in range(OBJECTS)}
    items = [{**api, "metadata": {"name": name}, "spec": spec_of(replicas=0)} for name in sorted(names)]
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    lease = lambda: cluster.kubectl.get("lease", "llamaserver-operator", product.NAMESPACE)["spec"]  # noqa: E731
    terms = lease()["leaseTransitions"]
    cluster.kubectl("create", "--filename=-", f"--namespace={namespace}", stdin=whole, timeout=180)

    def told() -> set[str]:
        found = cluster.kubectl("get", "llama", f"--namespace={namespace}", "--no-headers").splitlines()
        return {line.split()[0] for line in found if "ScaledToZero" in line}

    until(lambda: told() == names, "every object is told about", 300, pause=1)
    found = cluster.kubectl.items("deployments", namespace=namespace)
    assert {item["metadata"]["name"] for item in found} == names
    assert all(item["metadata"]["generation"] == 1 for item in found)

    installed = Installed(cluster)
    made, begun = {}, {}
    for event in cluster.audit():
        about = event["objectRef"]
        if about.get("namespace") == namespace and about.get("name") in names:
            if event["verb"] == "create" and about["resource"] == "llamaservers":
                begun[about["name"]] = time_of(event, "stageTimestamp")
            if about["resource"] == "deployments" and event["responseStatus"]["code"] == 201:
                made.setdefault(about["name"], time_of(event, "stageTimestamp"))
    assert set(made) == names
    seconds = [made[name] - begun[name] for name in names if name in begun]
    requests = installed.requests(namespace)
    verbs = Counter(event["verb"] for event in requests)
    p = quantiles(seconds, n=100)
    with capsys.disabled():
        print(f"\n{OBJECTS} objects at once, from create to Deployment: p50 {p[49]:.1f} s, p99 {p[98]:.1f} s;", end=" ")
        print(f"API requests per object: {len(requests) / OBJECTS:.1f} ({dict(verbs)})")
    assert len(requests) / OBJECTS < MOST_REQUESTS
    applied = Counter(event["objectRef"].get("name") for event in requests if event["verb"] == "patch")
    terms = 1 + lease()["leaseTransitions"] - terms  # who leads anew knows nothing of what was applied
    assert max(applied.values()) <= 8 * terms, "each child once, the status a few times"
