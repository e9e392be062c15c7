"""The chart on a cluster of its own, by real helm: install, upgrade, uninstall, another release, fewer rights."""

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import yaml

from dev.localcluster import Cluster, product
from dev.localcluster.hub import Hub
from tests.support.cluster.helm import CHART, Helm, HelmError
from tests.support.models import Models
from tests.support.polling import until

pytestmark = pytest.mark.cluster

CRD = "llamaservers.llamaserver.dev"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(cluster, tmp_path_factory) -> Iterator[Cluster]:
    """Not the session's: the chart has one resource for the whole cluster."""
    own = Cluster(tmp_path_factory.mktemp("chart") / "c")
    own.up()
    try:
        product.load_images(own)
        yield own
    finally:
        own.down()


@pytest.fixture
def operators(cluster) -> Iterator[str]:
    """A namespace for the operator; afterwards every release and the resource are gone."""
    name = f"operators-{uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    helm = Helm(kubeconfig=cluster.kubeconfig)
    for release in json.loads(helm("list", f"--namespace={name}", "--output=json")):
        helm("uninstall", release["name"], f"--namespace={name}", "--wait")
    cluster.kubectl.delete("crd", CRD)
    cluster.kubectl.delete("namespace", name, wait=False)


@pytest.fixture(params=[4, 3], ids=["helm4", "helm3"])
def any_helm(cluster, request) -> Helm:
    return Helm(request.param, cluster.kubeconfig)


@pytest.fixture
def helm(cluster) -> Helm:
    return Helm(kubeconfig=cluster.kubeconfig)


def deploy(helm: Helm, release: str, namespace: str, values: Object | None = None, *options: str, chart=CHART) -> None:
    where = [f"--namespace={namespace}", "--wait", "--timeout=3m", *options]
    helm(
        "upgrade",
        "--install",
        release,
        str(chart),
        *where,
        values={"registry": "localhost", **(values or {})},
        timeout=200,
    )


@pytest.fixture
def newer_chart(tmp_path):
    """The chart of a later version, whose resource has one more field."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    file = copy / "files" / "crd-llamaservers.yaml"
    crd = yaml.safe_load(file.read_text())
    (version,) = crd["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields["purpose"] = {"description": "What it is for.", "type": "string", "maxLength": 100}
    file.write_text(yaml.safe_dump(crd, sort_keys=False))
    about = copy / "Chart.yaml"
    about.write_text(about.read_text().replace("\nversion: ", "\nversion: 1"))
    return copy


def scaled_to_zero(name: str) -> Object:
    source = {"http": {"url": "http://models.example/tiny.gguf"}}
    return server(name, {"model": {"source": source}, "replicas": 0})


def server(name: str, spec: Object) -> Object:
    return {"apiVersion": "llamaserver.dev/v1alpha1", "kind": "LlamaServer", "metadata": {"name": name}, "spec": spec}


def apply(cluster: Cluster, namespace: str, *objects: Object) -> None:
    cluster.kubectl.apply(*({**each, "metadata": {**each["metadata"], "namespace": namespace}} for each in objects))


def condition(cluster: Cluster, namespace: str, name: str, kind: str = "Ready") -> tuple[str, str]:
    found = cluster.kubectl.get("llamaserver", name, namespace).get("status", {}).get("conditions", [])
    return next(((each["status"], each["reason"]) for each in found if each["type"] == kind), ("", ""))


def uids(cluster: Cluster, namespace: str) -> dict[str, str]:
    """What there is in a namespace."""
    kinds = "llamaservers,deployments,replicasets,pods,services,persistentvolumeclaims"
    items = cluster.kubectl.items(kinds, namespace=namespace)
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["uid"] for each in items}


def refusals(cluster: Cluster, account: str) -> list[str]:
    """Requests of a service account that RBAC refused.

    Not every 403: for a few seconds after a resource is new, the admission of owner references does not know its kind,
    and the operator tries again."""
    events = cluster.audit(f"system:serviceaccount:{account}")
    decision = "authorization.k8s.io/decision"
    return [event["requestURI"] for event in events if event.get("annotations", {}).get(decision) == "forbid"]


def answer(cluster: Cluster, namespace: str, name: str) -> int:
    """How many tokens the model answers with."""
    with cluster.service(name, namespace) as relay:
        body = json.dumps({"prompt": "Hello", "n_predict": 4, "temperature": 0, "ignore_eos": True}).encode()
        request = urllib.request.Request(f"{relay.url}/completion", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["tokens_predicted"]


@pytest.fixture
def hub(cluster, tmp_path) -> Iterator[str]:
    """Where pods find the model `tiny/llama`, file llama.gguf."""
    with Hub() as made:
        made.add("tiny/llama", "main", "llama.gguf", Models(tmp_path).llama())
        with cluster.expose(made.port) as relay:
            yield relay.url


def test_models_outlive_upgrades_and_the_release(cluster, helm, operators, namespace, hub, newer_chart):
    values = {"huggingFace": {"endpoint": hub}}
    deploy(helm, "one", operators, values)
    source = {"huggingFace": {"repo": "tiny/llama", "file": "llama.gguf"}}
    cache = {"claimTemplate": {"size": "64Mi"}}
    context = {"tokensPerSlot": 256, "slots": 2}
    apply(cluster, namespace, server("tiny", {"model": {"source": source, "cache": cache}, "context": context}))
    until(lambda: condition(cluster, namespace, "tiny")[0] == "True", "the model is served", 240, pause=0.5)
    before = uids(cluster, namespace)
    assert {kind.partition("/")[0] for kind in before} >= {"Pod", "Deployment", "Service", "PersistentVolumeClaim"}

    deploy(helm, "one", operators, values, chart=newer_chart)
    assert "What it is for." in cluster.kubectl("explain", "llamaserver.spec.purpose")
    cluster.kubectl.patch("llamaserver", "tiny", {"spec": {"purpose": "tests"}}, namespace=namespace)
    assert cluster.kubectl.get("llamaserver", "tiny", namespace)["spec"]["purpose"] == "tests"
    assert uids(cluster, namespace) == before
    assert refusals(cluster, f"{operators}:one-llamaserver-operator") == []

    helm("uninstall", "one", f"--namespace={operators}", "--wait")
    until(lambda: not cluster.kubectl.items("pods", namespace=operators), "the operator's pod is gone", 60)
    assert cluster.kubectl.get("crd", CRD)
    assert uids(cluster, namespace) == before
    assert answer(cluster, namespace, "tiny") == 4

    # Nothing of the operator holds the object, its children or its namespace back; the claim is kept.
    cluster.kubectl("delete", "llamaserver", "tiny", f"--namespace={namespace}", "--timeout=60s")
    kept = {key: uid for key, uid in before.items() if key.startswith("PersistentVolumeClaim/")}
    until(lambda: uids(cluster, namespace) == kept, "only the claim is left", 60, pause=0.5)
    cluster.kubectl.delete("namespace", namespace)


def test_another_release_goes_on(cluster, any_helm, operators, namespace, newer_chart):
    deploy(any_helm, "one", operators)
    apply(cluster, namespace, scaled_to_zero("first"))
    until(lambda: condition(cluster, namespace, "first") == ("True", "ScaledToZero"), "the object is told about", 60)
    any_helm("uninstall", "one", f"--namespace={operators}", "--wait")
    before = uids(cluster, namespace)
    crd = cluster.kubectl.get("crd", CRD)

    deploy(any_helm, "two", operators)
    apply(cluster, namespace, scaled_to_zero("second"))
    until(lambda: condition(cluster, namespace, "second") == ("True", "ScaledToZero"), "the second one, too", 60)
    assert before.items() <= uids(cluster, namespace).items()
    assert cluster.kubectl.get("crd", CRD)["metadata"] == crd["metadata"]

    with pytest.raises(HelmError, match="release-name"):
        deploy(any_helm, "two", operators, chart=newer_chart)
    deploy(any_helm, "two", operators, None, "--take-ownership", chart=newer_chart)
    assert "What it is for." in cluster.kubectl("explain", "llamaserver.spec.purpose")
    assert before.items() <= uids(cluster, namespace).items()


def test_served_namespaces(cluster, helm, operators, namespace):
    other = f"{namespace}-other"
    cluster.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    try:
        deploy(helm, "some", operators, {"watchNamespaces": [namespace], "rbac": {"aggregate": False}})
        ours = "--selector=app.kubernetes.io/instance=some"
        assert cluster.kubectl("get", "clusterroles,clusterrolebindings", ours) == ""
        apply(cluster, other, scaled_to_zero("ignored"))
        apply(cluster, namespace, scaled_to_zero("served"))
        until(lambda: condition(cluster, namespace, "served") == ("True", "ScaledToZero"), "the object is served", 60)
        assert "Deployment/served" in uids(cluster, namespace)
        assert set(uids(cluster, other)) == {"LlamaServer/ignored"}
        assert refusals(cluster, f"{operators}:some-llamaserver-operator") == []
    finally:
        cluster.kubectl.delete("namespace", other, wait=False)


def test_of_two_pods_one_acts(cluster, helm, operators, namespace):
    prometheus = {"metrics": {"service": True}, "networkPolicy": {"enabled": True}}
    deploy(helm, "pair", operators, {"replicas": 2, **prometheus})
    pods = {pod["metadata"]["name"] for pod in cluster.kubectl.items("pods", namespace=operators)}
    assert len(pods) == 2
    holder = cluster.kubectl.get("lease", "llamaserver-operator", operators)["spec"]["holderIdentity"]
    assert sum(holder.startswith(pod) for pod in pods) == 1
    apply(cluster, namespace, scaled_to_zero("served"))
    until(lambda: condition(cluster, namespace, "served") == ("True", "ScaledToZero"), "the object is served", 60)
    with cluster.service("pair-llamaserver-operator-metrics", operators) as relay:
        told = urllib.request.urlopen(f"{relay.url}/metrics", timeout=30).read().decode()
    assert "llamaserver_operator_is_leader" in told


def test_both_helms_render_the_same():
    values = {"watchNamespaces": ["a"], "metrics": {"service": True, "serviceMonitor": True}, "podLabels": {"a": "b"}}
    for given in ({}, values):
        assert Helm(3).objects(given) == Helm(4).objects(given)
    assert "0 chart(s) failed" in Helm(3)("lint", "--strict", str(CHART))


@pytest.fixture
def may(cluster) -> Callable[..., bool]:
    def allowed(user: str, verb: str, what: str, namespace: str, group: str = "") -> bool:
        resource, _, subresource = what.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        spec = {"user": user, "resourceAttributes": {**attributes, "subresource": subresource}}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        told = cluster.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(review))
        return json.loads(told)["status"]["allowed"]

    return allowed


def test_rights(cluster, helm, operators, namespace, may):
    deploy(helm, "one", operators)
    operator, ours = f"system:serviceaccount:{operators}:one-llamaserver-operator", "llamaserver.dev"
    assert may(operator, "patch", "llamaservers/status", namespace, ours)
    assert may(operator, "create", "deployments", namespace, "apps")
    for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
        assert not may(operator, verb, "secrets", namespace)
        assert not may(operator, verb, "secrets", operators)
        assert may(operator, verb, "nodes", "") == (verb == "get")  # for the version of one that cannot mount images
    assert not may(operator, "patch", "llamaservers", namespace, ours)
    assert not may(operator, "create", "pods", namespace)
    assert not may(operator, "create", "pods/exec", namespace)
    assert not may(operator, "get", "leases", namespace, "coordination.k8s.io")

    for role in ("view", "edit", "admin"):
        who = [f"--clusterrole={role}", f"--user={role}", f"--namespace={namespace}"]
        cluster.kubectl("create", "rolebinding", role, *who)
    for user, verb in (("view", "get"), ("edit", "create"), ("admin", "create")):
        until(partial(may, user, verb, "llamaservers", namespace, ours), "the roles are aggregated", 30, pause=0.2)
    assert not may("view", "patch", "llamaservers", namespace, ours)
    assert may("view", "get", "llamaservers/scale", namespace, ours)
    for user in ("edit", "admin"):
        assert may(user, "get", "llamaservers", namespace, ours)
        assert may(user, "delete", "llamaservers", namespace, ours)
        assert may(user, "patch", "llamaservers/scale", namespace, ours)
        assert not may(user, "patch", "llamaservers/status", namespace, ours)
