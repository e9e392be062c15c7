"""What wakes the operator, and with which rights: the real process, its service account, the API server's audit log."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dev.localcluster import Cluster
from tests.support.cluster.accounts import LEASES, WATCHED, WRITES, Account, without
from tests.support.cluster.definitions import until_served
from tests.support.operator.operator_process import OperatorProcess
from tests.support.polling import until

pytestmark = pytest.mark.cluster

POD_SPEC = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
    "nodeSelector": {"none": "such"},
    "containers": [
        {
            "name": "main",
            "image": "localhost/none:1",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
ROUNDS = 5
LABELS = {"app": "x"}
# kind: API version, the rest of a small object
CHILDREN: dict[str, tuple[str, dict[str, Any]]] = {
    "ConfigMap": ("v1", {}),
    "Service": ("v1", {"spec": {"ports": [{"port": 80}]}}),
    "ServiceAccount": ("v1", {}),
    "PersistentVolumeClaim": (
        "v1",
        {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}},
    ),
    "Pod": ("v1", {"spec": POD_SPEC}),
    "Deployment": (
        "apps/v1",
        {
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": POD_SPEC},
            }
        },
    ),
    "PodDisruptionBudget": ("policy/v1", {"spec": {"maxUnavailable": 1, "selector": {"matchLabels": LABELS}}}),
    "NetworkPolicy": ("networking.k8s.io/v1", {"spec": {"podSelector": {"matchLabels": LABELS}}}),
}
MONITORS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def child(namespace: str, kind: str, owner: str, **metadata: Any) -> dict[str, Any]:
    """An object that says whose child it is."""
    version, rest = CHILDREN.get(kind, ("monitoring.coreos.com/v1", {}))
    labels = {"llamaserver.dev/name": owner} if owner else {}
    named = {"name": f"child-{owner or 'none'}", "namespace": namespace, "labels": labels, **metadata}
    return {"apiVersion": version, "kind": kind, "metadata": named, **rest}


class World:
    """One operator at work in a namespace."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path, stack: ExitStack) -> None:
        self.cluster, self.namespace = cluster, namespace
        self._folder, self._stack = folder, stack
        self.account = Account(cluster, namespace, "operator").make()
        stack.callback(self.account.forget)

    def start(self, *flags: str) -> OperatorProcess:
        kubeconfig, log = self.account.kubeconfig(self._folder), self._folder / "operator.log"
        ours = (f"--namespace={self.namespace}", "--discovery-seconds=1")
        module = "tests.support.operator.writing_operator"
        return self._stack.enter_context(OperatorProcess(kubeconfig, log, *ours, *flags, module=module)).until_leading()

    def count(self, name: str, namespace: str = "") -> int:
        """How often it reconciled an object."""
        found = self.cluster.kubectl.get("configmap", f"{name}-written", namespace or self.namespace)
        return int(found.get("data", {}).get("count", 0))

    def until_more(self, name: str, than: int = 0, namespace: str = "") -> int:
        until(lambda: self.count(name, namespace) > than, f"{name} is reconciled", 60)
        return self.count(name, namespace)

    def denied(self) -> set[tuple[str, str]]:
        """Verb and resource of its requests that it has no right to."""
        decision = "authorization.k8s.io/decision"
        events = [
            e for e in self.cluster.audit(self.account.user) if e.get("annotations", {}).get(decision) == "forbid"
        ]
        return {(event["verb"], event.get("objectRef", {}).get("resource", "")) for event in events}


@pytest.fixture
def world(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(cluster, namespace, tmp_path, stack)


@pytest.fixture
def other(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A second namespace."""
    name = f"{namespace[:50]}-other"
    cluster.kubectl.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    cluster.kubectl.delete("namespace", name, wait=False)


def test_what_happens_to_any_child_wakes_its_object_and_nothing_else_does(world: World) -> None:
    world.account.allow(LEASES, WRITES, *WATCHED)
    world.start(f"--watch-namespace={world.namespace}")
    kubectl = world.cluster.kubectl
    kubectl.create(child(world.namespace, "ConfigMap", ""))
    for kind in CHILDREN:
        owner = kind.lower()
        kubectl.create(child(world.namespace, kind, owner))
        made = world.until_more(owner)
        kubectl.patch(kind, f"child-{owner}", {"metadata": {"annotations": {"a": "b"}}}, namespace=world.namespace)
        changed = world.until_more(owner, made)
        kubectl.delete(kind, f"child-{owner}", world.namespace, wait=False)
        world.until_more(owner, changed)
    assert world.count("none") == 0
    assert not world.denied()


def test_watching_leaves_no_trace_on_what_is_watched(world: World) -> None:
    world.account.allow(LEASES, WRITES, *WATCHED)
    world.cluster.kubectl.create(child(world.namespace, "ConfigMap", "quiet"))

    def metadata() -> dict[str, Any]:
        found: dict[str, Any] = world.cluster.kubectl.get("configmap", "child-quiet", world.namespace)["metadata"]
        return found

    before = metadata()
    operator = world.start(f"--watch-namespace={world.namespace}")
    world.until_more("quiet")
    assert operator.stop() == 0
    assert metadata() == before, "no finalizer, no annotation, no new version"
    written = {
        (event["verb"], event["objectRef"]["resource"])
        for event in world.cluster.audit(world.account.user)
        if event["verb"] not in ("get", "list", "watch")
    }
    assert written == {
        ("create", "leases"),
        ("update", "leases"),
        ("patch", "configmaps"),  # that is the reconcile of these tests
    }


@pytest.mark.parametrize(("seconds", "finished"), [(2, True), (60, False)])
def test_told_to_stop_it_finishes_what_runs_unless_that_takes_too_long(
    world: World, seconds: int, finished: bool
) -> None:
    world.account.allow(LEASES, WRITES, *WATCHED)
    written = {"name": "object-written", "namespace": world.namespace}
    world.cluster.kubectl.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": written, "data": {"slow": str(seconds)}},
        child(world.namespace, "ConfigMap", "object"),
    )
    operator = world.start(f"--watch-namespace={world.namespace}")
    until(lambda: operator.metric("llamaserver_operator_api_requests_total", verb="GET", kind="ConfigMap"), "it runs")
    assert operator.stop() == 0
    assert world.count("object") == (1 if finished else 0)
    assert operator.said("stopped before all running reconciles ended") != finished
    lease = world.cluster.kubectl.get("lease", "llamaserver-operator", world.namespace)
    assert lease["spec"]["holderIdentity"] == ""


def test_the_log_is_json_and_names_the_object(world: World) -> None:
    world.account.allow(LEASES, *WATCHED)  # may not write, so each reconcile fails
    world.cluster.kubectl.create(child(world.namespace, "ConfigMap", "refused"))
    operator = world.start(f"--watch-namespace={world.namespace}")
    until(lambda: operator.said("forbidden"), "the refusal is told")
    lines = [line for line in operator.lines if "forbidden" in line["msg"]]
    assert (lines[0]["namespace"], lines[0]["name"], lines[0]["level"]) == (world.namespace, "refused", "WARNING")
    assert "configmaps" in lines[0]["msg"]
    assert world.account.user in lines[0]["msg"], "the API server's own words"
    until(lambda: operator.metric("llamaserver_operator_errors_total", kind="Forbidden") >= 2, "it is tried again")
    assert operator.metric("llamaserver_operator_reconciles_total", result="error") >= 2
    assert operator.metric("llamaserver_operator_api_requests_total", kind="ConfigMap", code="403") >= 2


def test_one_namespace_needs_rights_in_that_namespace_only(world: World, other: str) -> None:
    world.account.allow(LEASES, WRITES, *WATCHED)
    operator = world.start(f"--watch-namespace={world.namespace}")
    world.cluster.kubectl.create(child(other, "ConfigMap", "foreign"), child(world.namespace, "ConfigMap", "own"))
    world.until_more("own")
    assert world.count("foreign", other) == 0
    assert world.denied() == set(), "nothing is even asked for elsewhere"
    elsewhere = {event.get("objectRef", {}).get("namespace", "") for event in world.cluster.audit(world.account.user)}
    assert elsewhere - {""} == {world.namespace}
    assert operator.stop() == 0


def test_several_namespaces(world: World, other: str) -> None:
    world.account.allow(LEASES, WRITES, *WATCHED)
    world.account.allow(WRITES, *WATCHED, namespace=other)
    world.start(f"--watch-namespace={world.namespace}", f"--watch-namespace={other}")
    world.cluster.kubectl.create(child(other, "ConfigMap", "foreign"), child(world.namespace, "ConfigMap", "own"))
    world.until_more("own")
    world.until_more("foreign", namespace=other)
    assert world.denied() == set()


def test_all_namespaces(world: World, other: str) -> None:
    world.account.allow(LEASES, WRITES).allow(WRITES, namespace=other)
    world.account.allow_everywhere(*WATCHED)  # but no writing to what other tests have left
    world.start()
    world.cluster.kubectl.create(child(other, "ConfigMap", "foreign"), child(world.namespace, "ConfigMap", "own"))
    world.until_more("own")
    world.until_more("foreign", namespace=other)
    assert not {verb for verb, _ in world.denied()} & {"list", "watch"}


def test_a_kind_that_may_not_be_watched_is_told_and_the_others_are_watched(world: World) -> None:
    world.account.allow(LEASES, WRITES, *without("services"))
    operator = world.start(f"--watch-namespace={world.namespace}")
    until(lambda: operator.said("not watching services: services is forbidden"), "it is told")
    world.cluster.kubectl.create(
        child(world.namespace, "Service", "unseen"), child(world.namespace, "ConfigMap", "seen")
    )
    world.until_more("seen")
    assert world.count("unseen") == 0
    assert world.denied() == {("list", "services")}
    assert operator.metric("llamaserver_operator_errors_total", kind="watch") >= 1


def test_a_kind_that_comes_later_is_watched_without_a_restart(world: World) -> None:
    kubectl = world.cluster.kubectl
    kubectl.delete("customresourcedefinition", MONITORS["metadata"]["name"])
    world.account.allow(LEASES, WRITES, *WATCHED)
    operator = world.start(f"--watch-namespace={world.namespace}")
    kubectl.create(child(world.namespace, "ConfigMap", "early"))
    seen = world.until_more("early")
    kubectl.create(MONITORS)
    try:
        until(lambda: operator.said("the cluster serves other kinds now"), "the new kind is found")
        world.until_more("early", seen)  # everything is looked at again: it may want one now
        until_served(world.cluster, MONITORS["metadata"]["name"])
        kubectl.create(child(world.namespace, "ServiceMonitor", "monitored"))
        world.until_more("monitored")
    finally:
        kubectl.delete("customresourcedefinition", MONITORS["metadata"]["name"])
    until(lambda: operator.log.count("the cluster serves other kinds now") == 2, "its end is seen")
    kubectl.create(child(world.namespace, "ConfigMap", "late"))
    world.until_more("late")
    assert operator.health("/healthz") == (200, "ok")


def test_a_kind_that_goes_is_noticed_by_who_misses_it_not_at_the_next_look(world: World) -> None:
    """Until it is, nothing is watched, and reconciles fail."""
    kubectl, crd = world.cluster.kubectl, MONITORS["metadata"]["name"]
    world.account.allow(LEASES, WRITES, *WATCHED)
    kubectl.create(MONITORS)
    try:
        until_served(world.cluster, crd)
        operator = world.start(f"--watch-namespace={world.namespace}", "--discovery-seconds=3600")
        kubectl.create(child(world.namespace, "ServiceMonitor", "monitored"))
        seen = world.until_more("monitored")
        annotated = {"metadata": {"annotations": {"a": "b"}}}
        kubectl.patch("servicemonitor", "child-monitored", annotated, namespace=world.namespace)
        world.until_more("monitored", seen)  # by the watch: the first may have been by the list
    finally:
        kubectl.delete("customresourcedefinition", crd)
    until(lambda: operator.said("the cluster serves other kinds now"), "its end is noticed")
    kubectl.create(child(world.namespace, "ConfigMap", "late"))
    world.until_more("late")
    assert "Traceback" not in operator.log


def test_what_a_reconcile_saw_gone_is_told_when_it_is_there_again(world: World) -> None:
    """However soon: the object of that reconcile wants one now, and no event says so."""
    kubectl, crd = world.cluster.kubectl, MONITORS["metadata"]["name"]

    def seen(wanted: str) -> bool:
        return str(kubectl.get("configmap", "object-written", world.namespace)["data"]["monitors"]) == wanted

    def touched_until_gone() -> bool:
        patch = {"metadata": {"annotations": {"touched": str(time.monotonic_ns())}}}
        kubectl.patch("configmap", "child-object", patch, namespace=world.namespace)
        return seen("False")

    kubectl.delete("customresourcedefinition", crd)
    world.account.allow(LEASES, WRITES, *WATCHED)
    world.start(f"--watch-namespace={world.namespace}")
    kubectl.create(child(world.namespace, "ConfigMap", "object"))
    world.until_more("object")
    try:
        for _ in range(ROUNDS):
            kubectl.create(MONITORS)
            until(lambda: seen("True"), "it is seen", 30)
            kubectl.delete("customresourcedefinition", crd)
            until(touched_until_gone, "its end is seen", 30)
    finally:
        kubectl.delete("customresourcedefinition", crd)


def test_an_operator_that_may_not_hold_the_lease_says_so_and_is_not_ready(world: World, tmp_path: Path) -> None:
    kubeconfig = world.account.kubeconfig(tmp_path)
    flags = (f"--namespace={world.namespace}", f"--watch-namespace={world.namespace}")
    with OperatorProcess(
        kubeconfig, tmp_path / "log", *flags, module="tests.support.operator.writing_operator"
    ) as operator:
        until(lambda: operator.said("leases"), "it says what it may not")
        assert "is forbidden" in operator.log
        assert operator.health("/readyz")[0] == 503
        assert operator.health("/healthz") == (200, "ok")
        assert operator.stop() == 0
