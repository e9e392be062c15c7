"""ServiceMonitors of the real resource, and a real Prometheus that scrapes what they say."""

import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.localcluster import Cluster, binaries, product
from dev.localcluster.kubectl import KubectlError, Object
from tests.support.cluster.definitions import until_served
from tests.support.cluster.llama import Llama
from tests.support.cluster.prometheus import Prometheus
from tests.support.polling import until
from tests.support.server import certificates

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CRD = "servicemonitors.monitoring.coreos.com"
TOKENS = "llamacpp:tokens_predicted_total"
SELECTED = {"labels": {"release": "prometheus"}}
NAME = "llamaserver_dev_name"  # the label that the ServiceMonitor takes over from the Service


def install_monitors(cluster: Cluster) -> None:
    cluster.kubectl("apply", "--server-side", f"--filename={binaries.service_monitors()}")
    until_served(cluster, CRD)


@pytest.fixture
def no_monitors(cluster: Cluster) -> Iterator[None]:
    """A cluster without the resource, before and after."""
    cluster.kubectl.delete("crd", CRD)
    yield
    cluster.kubectl.delete("crd", CRD)


def monitor(llama: Llama) -> Object:
    """The object's ServiceMonitor; empty when there is none, or no such resource."""
    try:
        return llama.child(CRD)
    except KubectlError as error:
        assert "the server doesn't have a resource type" in str(error)
        return {}


def operator_pods(cluster: Cluster) -> list[Any]:
    pods = cluster.kubectl.items("pods", product.NAMESPACE, "app.kubernetes.io/name=llamaserver-operator")
    return [(pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]) for pod in pods]


def selector(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


def test_the_resource_may_come_later_and_go_again(llama: Llama, cluster: Cluster, no_monitors: None) -> None:
    def other(name: str, mode: str, replicas: int) -> Llama:
        return Llama(cluster, llama.namespace, name).apply(replicas=replicas, observability={"serviceMonitor": mode})

    llama.apply(replicas=0, observability={"labels": {"release": "one"}})
    always, never = other("always", "Always", 1), other("never", "Never", 0)
    llama.until_condition("Accepted", "True", "Valid")
    told = always.until_condition("Accepted", "False", "ServiceMonitorUnavailable")
    assert "spec.observability.serviceMonitor" in told
    assert "CRD is not installed" in told
    always.until_ready()
    assert any(event[:2] == ("Warning", "ServiceMonitorUnavailable") for event in always.events())
    operator = operator_pods(cluster)

    install_monitors(cluster)
    until(lambda: monitor(llama), "a ServiceMonitor is made", 90, pause=0.5)
    always.until_condition("Accepted", "True", "Valid")
    assert monitor(always)
    assert not monitor(never)
    labels = monitor(llama)["metadata"]["labels"]
    assert (labels["release"], labels["llamaserver.dev/name"]) == ("one", llama.name)
    selected = cluster.kubectl.items(
        "services", llama.namespace, selector(monitor(llama)["spec"]["selector"]["matchLabels"])
    )
    assert [item["metadata"]["name"] for item in selected] == [f"{llama.name}-management"]

    pods = always.pod_uids
    always.apply(observability={"labels": {"release": "two"}})
    until(lambda: monitor(always)["metadata"]["labels"].get("release") == "two", "a new label", 60, pause=0.5)
    always.apply(observability={"serviceMonitor": "Never"})
    until(lambda: not monitor(always), "it is not wanted any more", 60, pause=0.5)
    assert always.pod_uids == pods

    cluster.kubectl.delete("crd", CRD)
    always.apply(observability={"serviceMonitor": "Always"})
    always.until_condition("Accepted", "False", "ServiceMonitorUnavailable")
    assert always.condition("Ready")[:2] == ("True", "Serving")
    assert always.pod_uids == pods
    assert operator_pods(cluster) == operator, "without a restart of the operator"


@pytest.fixture
def secure(llama: Llama, tmp_path: Path) -> Llama:
    """An object with API keys and TLS."""
    certificate, key = (path.read_text() for path in certificates.make(tmp_path, "model"))

    def secret(name: str, data: dict[str, str]) -> Object:
        about = {"name": name, "namespace": llama.namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": about, "stringData": data}

    files = {"tls.crt": certificate, "tls.key": key}
    llama.cluster.kubectl.create(secret("certificate", files), secret("keys", {"one": "open-sesame"}))
    security = {"apiKeysSecretRef": {"name": "keys"}, "tls": {"secretName": "certificate"}}
    return Llama(llama.cluster, llama.namespace, "secure").apply(security=security, observability=SELECTED)


def test_prometheus_sees_the_tokens_of_a_completion(
    llama: Llama, secure: Llama, cluster: Cluster, no_monitors: None, tmp_path: Path
) -> None:
    install_monitors(cluster)
    llama.apply(observability=SELECTED).until_ready()
    secure.until_ready()
    both = {llama.name, secure.name}
    until(lambda: monitor(llama) and monitor(secure), "ServiceMonitors are made", 90, pause=0.5)
    monitors = cluster.kubectl.items(CRD, llama.namespace, selector(SELECTED["labels"]))
    with Prometheus(cluster, llama.namespace, tmp_path, monitors) as prometheus:
        up = dict.fromkeys(both, 1.0)
        until(lambda: prometheus.values("up", NAME) == up, "both are scraped", 60, pause=0.5)
        before = prometheus.values(TOKENS, NAME)
        assert before == dict.fromkeys(both, 0.0)
        assert llama.complete(ignore_eos=True)["tokens_predicted"] == 4
        trusted = ssl.create_default_context(cafile=tmp_path / "model.crt")
        asked = json.dumps({"prompt": "Hello", "n_predict": 8, "temperature": 0, "ignore_eos": True}).encode()
        with secure.service() as relay:
            url, key = f"https://localhost:{relay.port}/completion", {"Authorization": "Bearer open-sesame"}
            request = urllib.request.Request(url, asked, key)
            with urllib.request.urlopen(request, timeout=60, context=trusted) as answer:
                assert json.load(answer)["tokens_predicted"] == 8
        counted = {llama.name: 4.0, secure.name: 8.0}
        until(lambda: prometheus.values(TOKENS, NAME) == counted, "the tokens are counted", 60, pause=0.5)

        ((labels, _),) = [each for each in prometheus.query(TOKENS) if each[0][NAME] == secure.name]
        assert labels["namespace"] == secure.namespace
        assert labels["pod"] == secure.pods[0]["metadata"]["name"]
        assert labels["service"] == f"{secure.name}-management"
