"""What the platform holds pods to: network policy, disruption budget, service account, Pod Security, read-only root.

The namespace enforces the restricted Pod Security profile. Of NetworkPolicies, the content is looked at here. In
test_network.py they are enforced.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dev.localcluster import Cluster, product
from dev.localcluster.kubectl import KubectlError, Object
from tests.support.cluster.llama import Llama
from tests.support.polling import until
from tests.support.server import certificates

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def budget(llama: Llama) -> Object:
    return llama.child("poddisruptionbudget")


def test_one_pod_at_a_time_may_be_evicted(llama: Llama, cluster: Cluster) -> None:
    llama.apply().until_ready()
    assert budget(llama) == {}, "a single pod must not hold up the drain of its node"
    llama.apply(replicas=2).until_ready()
    spec = budget(llama)["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")

    def allowed(count: int) -> Callable[[], bool]:
        return lambda: bool(budget(llama)["status"].get("disruptionsAllowed") == count)

    until(allowed(1), "one may go", 60, pause=0.25)
    first, second = llama.pods
    llama.evict(first)
    with pytest.raises(KubectlError, match=r"TooManyRequests.*disruption budget"):
        llama.evict(second)
    until(lambda: first["metadata"]["uid"] not in llama.pod_uids, "the evicted pod goes", 60, pause=0.25)
    until(allowed(1), "another may go once there are two again", 120, pause=0.5)
    assert second["metadata"]["uid"] in llama.pod_uids

    # One that hangs does not count: it may go, the one that works may not.
    (new,) = [pod for pod in llama.pods if pod["metadata"]["uid"] != second["metadata"]["uid"]]
    cluster.signal_container(llama.namespace, new["metadata"]["name"], "SIGSTOP")
    until(allowed(0), "the hanging pod is unready", 60, pause=0.25)
    with pytest.raises(KubectlError, match=r"TooManyRequests.*disruption budget"):
        llama.evict(second)
    llama.evict(new)
    cluster.signal_container(llama.namespace, new["metadata"]["name"], "SIGCONT")

    llama.apply(replicas=1)
    until(lambda: budget(llama) == {}, "no budget for one pod", 60, pause=0.25)


def test_who_may_reach_which_port(llama: Llama, cluster: Cluster) -> None:
    llama.apply(replicas=0)
    until(lambda: llama.child("deployment"), "all is made", 60, pause=0.25)  # it is the last
    spec = llama.child("networkpolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    deployment = llama.child("deployment")["spec"]
    assert spec["podSelector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
    clients, monitors = spec["ingress"]
    assert clients == {"ports": [{"port": "http", "protocol": "TCP"}]}, "everybody"
    (container,) = deployment["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "management": 8081}
    assert monitors["ports"] == [{"port": ports["management"], "protocol": "TCP"}]
    operator, prometheus = monitors["from"]
    assert prometheus == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}

    def selected(kind: str, selector: Object, namespace: str = "") -> list[str]:
        labels = ",".join(f"{key}={value}" for key, value in selector["matchLabels"].items())
        return [item["metadata"]["name"] for item in cluster.kubectl.items(kind, namespace, labels)]

    assert selected("namespaces", operator["namespaceSelector"]) == [product.NAMESPACE]
    pods = selected("pods", operator["podSelector"], product.NAMESPACE)
    everything = cluster.kubectl.items("pods", namespace=product.NAMESPACE)
    assert pods == [item["metadata"]["name"] for item in everything]
    assert pods[0].startswith(f"{product.RELEASE}-llamaserver-operator-")

    peers = [{"podSelector": {"matchLabels": {"app": "chat"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
    llama.apply(security={"networkPolicy": {"from": peers}})
    allowed = {"ports": [{"port": "http", "protocol": "TCP"}], "from": peers}
    wanted = [allowed, monitors]
    until(lambda: llama.child("networkpolicy")["spec"]["ingress"] == wanted, "only some clients", 60, pause=0.25)
    llama.apply(security={"networkPolicy": {"mode": "None"}})
    until(lambda: llama.child("networkpolicy") == {}, "the policy goes", 60, pause=0.25)


PROBE = """
import errno, json, os
def write(folder):
    try:
        with open(os.path.join(folder, "probe"), "w"): return "written"
    except OSError as error: return errno.errorcode[error.errno]
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
print(json.dumps({
    "user": [os.getuid(), os.getgid()], "groups": os.getgroups(),
    "capabilities": [status[name].strip().strip("0") for name in ("CapEff", "CapPrm", "CapBnd")],
    "no_new_privileges": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(),
    "token": os.path.exists("/var/run/secrets/kubernetes.io"),
    "writes": {folder: write(folder) for folder in FOLDERS},
}))
"""


def probe(llama: Llama, *folders: str) -> dict[str, Any]:
    """What a process in the server's container may do."""
    (pod,) = llama.pods
    where = ["exec", pod["metadata"]["name"], f"--namespace={llama.namespace}", "--container=server"]
    script = PROBE.replace("FOLDERS", repr(folders))
    found: dict[str, Any] = json.loads(llama.cluster.kubectl(*where, "--", "python3", "-c", script))
    return found


def test_pods_with_every_volume_run_restricted(llama: Llama, cluster: Cluster, tmp_path: Path) -> None:
    def made(kind: str, name: str, **data: Any) -> Object:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": llama.namespace}, **data}

    certificate, key = (path.read_text() for path in certificates.make(tmp_path, "model"))
    cluster.kubectl.create(
        made("Secret", "keys", stringData={"one": "open-sesame"}),
        made("Secret", "certificate", stringData={"tls.crt": certificate, "tls.key": key}),
        made("ConfigMap", "texts", data={"prompt": "Answer briefly."}),
    )
    claim = {"claimTemplate": {"size": "1Gi", "accessModes": ["ReadWriteMany"]}, "retentionPolicy": "Delete"}
    llama.apply(
        model={"cache": claim},
        kvCache={"persistence": "Continuous", "volume": claim},
        chatTemplate={"inline": "{% for message in messages %}{{ message.content }}{% endfor %}"},
        systemPrompt={"configMapKeyRef": {"name": "texts", "key": "prompt"}},
        security={"apiKeysSecretRef": {"name": "keys"}, "tls": {"secretName": "certificate"}},
        podTemplate={
            "volumes": [{"name": "extra", "emptyDir": {}}, {"name": "own", "configMap": {"name": "texts"}}],
            "volumeMounts": [{"name": "extra", "mountPath": "/extra"}, {"name": "own", "mountPath": "/own"}],
        },
    ).until_ready()
    (pod,) = llama.pods
    kinds = {kind for volume in pod["spec"]["volumes"] for kind in volume if kind != "name"}
    assert kinds == {"emptyDir", "persistentVolumeClaim", "projected", "secret", "configMap"}
    projected = [volume["projected"] for volume in pod["spec"]["volumes"] if "projected" in volume]
    assert "serviceAccountToken" not in json.dumps(projected)
    account = cluster.kubectl.get("serviceaccount", pod["spec"]["serviceAccountName"], llama.namespace)
    assert account["metadata"]["name"] == llama.name
    assert account["automountServiceAccountToken"] is False

    own = ("/", "/opt/llamaserver", "/etc", "/own", "/etc/llamaserver/api-keys", "/etc/llamaserver/config")
    found = probe(llama, *own, "/tmp", "/kv", "/models", "/extra")
    assert found.pop("writes") == {
        **dict.fromkeys(own, "EROFS"),
        **dict.fromkeys(("/tmp", "/kv", "/models", "/extra"), "written"),
    }
    assert found.pop("groups") == [10001]
    assert found == {
        "user": [10001, 10001],
        "capabilities": ["", "", ""],
        "no_new_privileges": "1",
        "seccomp": "2",
        "token": False,
    }


def test_pods_with_sources_in_claims_and_images_are_admitted(llama: Llama, cluster: Cluster) -> None:
    """Admission only: the container runtime here cannot mount images."""
    llama.spec["model"] = {"source": {"image": {"reference": "registry.example/models/tiny:1", "path": "tiny.gguf"}}}
    claim = {"persistentVolumeClaim": {"claimName": "adapters", "path": "style.gguf"}}
    llama.apply(
        replicas=0,
        loraAdapters=[{"name": "style", "source": claim}],
        kvCache={"volume": {"emptyDir": {"sizeLimit": "1Gi"}}},
    )
    until(lambda: llama.child("deployment"), "a Deployment is made", 60, pause=0.25)
    template = llama.child("deployment")["spec"]["template"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert volumes["source-0"]["image"]["reference"] == "registry.example/models/tiny:1"
    assert volumes["source-1"]["persistentVolumeClaim"] == {"claimName": "adapters", "readOnly": True}

    def admit(pod: Object) -> str:
        about = {"name": "tried", "namespace": llama.namespace}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": pod}
        return cluster.kubectl("create", "--dry-run=server", "--output=name", "--filename=-", stdin=json.dumps(body))

    until(lambda: llama.child("serviceaccount"), "its service account", 60, pause=0.25)
    assert admit(template["spec"]) == "pod/tried\n"
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        admit({**template["spec"], "securityContext": {}})
