"""The operator's client against the real API server: what it sends is understood, refusals become the right errors."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from llamaserver_operator.cluster import Cluster as Client
from llamaserver_operator.errors import Conflict, Forbidden, Invalid, NotFound, NotLeading
from llamaserver_operator.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    KINDS,
    LEASE,
    POD,
    SERVICE,
    SERVICE_MONITOR,
    Kind,
)
from llamaserver_operator.metrics import Metrics

from dev.localcluster import Cluster
from tests.support.cluster.accounts import Account

pytestmark = pytest.mark.cluster

Object = dict[str, Any]


@pytest.fixture
async def client(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    async with await Client.connect(Metrics()) as made:
        yield made


def config_map(namespace: str, name: str = "thing", **data: str) -> Object:
    metadata = {"namespace": namespace, "name": name, "labels": {"mine": "yes"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_apply_makes_changes_and_takes_away(client: Client, cluster: Cluster, namespace: str) -> None:
    made = await client.apply(config_map(namespace, a="1", b="2"))
    assert made["data"] == {"a": "1", "b": "2"}
    cluster.kubectl.patch(
        "configmap", "thing", {"data": {"c": "theirs"}, "metadata": {"labels": {"theirs": "yes"}}}, namespace=namespace
    )
    changed = await client.apply(config_map(namespace, a="3"))
    assert changed["data"] == {"a": "3", "c": "theirs"}
    assert changed["metadata"]["labels"] == {"mine": "yes", "theirs": "yes"}
    managers = {entry["manager"]: entry["operation"] for entry in changed["metadata"]["managedFields"]}
    assert managers["llamaserver-operator"] == "Apply"


async def test_applying_the_same_again_changes_nothing(client: Client, namespace: str) -> None:
    first = await client.apply(config_map(namespace, a="1"))
    second = await client.apply(config_map(namespace, a="1"))
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_what_others_changed_is_taken_back(client: Client, cluster: Cluster, namespace: str) -> None:
    await client.apply(config_map(namespace, a="1"))
    cluster.kubectl.patch("configmap", "thing", {"data": {"a": "drifted"}}, namespace=namespace)
    assert (await client.apply(config_map(namespace, a="1")))["data"] == {"a": "1"}


async def test_the_status_is_another_resource(client: Client, namespace: str) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": "thing"}}
    await client.apply({**service, "spec": {"ports": [{"port": 80}]}})
    condition = {"type": "Tried", "status": "True", "reason": "Test", "message": ""}
    condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    told = await client.apply_status({**service, "status": {"conditions": [condition]}})
    assert told["status"]["conditions"][0]["type"] == "Tried"
    assert told["spec"]["ports"][0]["port"] == 80


async def test_reading(client: Client, namespace: str) -> None:
    assert await client.get(CONFIG_MAP, namespace, "thing") is None
    await client.apply(config_map(namespace, "thing"))
    await client.apply(config_map(namespace, "other"))
    found = await client.get(CONFIG_MAP, namespace, "thing")
    assert found is not None
    assert found["metadata"]["name"] == "thing"
    listed = await client.list(CONFIG_MAP, namespace, "mine=yes")
    assert {(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in listed} == {
        ("v1", "ConfigMap", "thing"), ("v1", "ConfigMap", "other"),
    }  # fmt: skip
    assert await client.list(CONFIG_MAP, namespace, "mine=no") == []
    assert len(await client.list(CONFIG_MAP, namespace, "mine=yes", limit=1)) == 1
    [one] = await client.list(CONFIG_MAP, namespace, field_selector="metadata.name=thing")
    assert one["metadata"]["name"] == "thing"
    everywhere = await client.list(CONFIG_MAP, "", "mine=yes")
    assert {item["metadata"]["namespace"] for item in everywhere} >= {namespace}
    assert await client.list(POD, "no-such-namespace") == []
    assert await client.get(Kind("", "v1", "Namespace", "namespaces"), "", namespace)


async def test_delete_is_of_one_object_not_of_a_name(client: Client, namespace: str) -> None:
    made = await client.apply(config_map(namespace))
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAP, namespace, "thing", "00000000-0000-0000-0000-000000000000")
    assert await client.get(CONFIG_MAP, namespace, "thing")
    await client.delete(CONFIG_MAP, namespace, "thing", made["metadata"]["uid"])
    assert await client.get(CONFIG_MAP, namespace, "thing") is None
    await client.delete(CONFIG_MAP, namespace, "thing", made["metadata"]["uid"])  # gone already: fine


async def test_annotations_are_set_and_removed_and_others_stay(
    client: Client, cluster: Cluster, namespace: str
) -> None:
    await client.apply(config_map(namespace))
    cluster.kubectl("annotate", "configmap", "thing", "theirs=1", f"--namespace={namespace}")
    await client.annotate(CONFIG_MAP, namespace, "thing", {"a": "1", "b": "2"})
    changed = await client.annotate(CONFIG_MAP, namespace, "thing", {"a": None})
    assert changed["metadata"]["annotations"] == {"b": "2", "theirs": "1"}
    with pytest.raises(NotFound):
        await client.annotate(CONFIG_MAP, namespace, "absent", {"a": "1"})


async def test_create_and_replace_tell_who_was_faster(client: Client, namespace: str) -> None:
    made = await client.create(config_map(namespace, a="1"))
    with pytest.raises(Conflict, match="already exists"):
        await client.create(config_map(namespace, a="1"))
    await client.replace({**made, "data": {"a": "2"}})
    with pytest.raises(Conflict, match="modified"):
        await client.replace({**made, "data": {"a": "3"}})


async def test_events_show_up_where_people_look(client: Client, cluster: Cluster, namespace: str) -> None:
    made = await client.apply(config_map(namespace))
    await client.create_event(
        namespace, {**made, "kind": "ConfigMap", "apiVersion": "v1"}, "Warning", "Tried", "x" * 5000
    )
    told = cluster.kubectl("describe", "configmap", "thing", f"--namespace={namespace}")
    assert "Tried" in told
    assert "llamaserver-operator" in told


async def test_an_event_that_cannot_be_made_is_only_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    gone = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "thing", "namespace": "no-such-namespace"}}
    await client.create_event("no-such-namespace", gone, "Normal", "Tried", "")
    assert "cannot create the Event Tried" in caplog.text


async def test_errors_have_the_api_servers_words(client: Client, namespace: str) -> None:
    bad = {**config_map(namespace), "data": {"a": 1}}
    with pytest.raises(Invalid, match=r"\.data"):
        await client.apply(bad)
    with pytest.raises(Invalid, match="Invalid value"):
        await client.apply(config_map(namespace, "Not A Name"))
    with pytest.raises(Invalid, match="no-such-field"):
        await client.apply({**config_map(namespace), "no-such-field": 1})
    with pytest.raises(NotFound, match="no-such-namespace"):
        await client.apply(config_map("no-such-namespace"))
    with pytest.raises(NotFound):
        await client.apply(
            {
                "apiVersion": SERVICE_MONITOR.api_version,
                "kind": "ServiceMonitor",
                "metadata": {"namespace": namespace, "name": "thing"},
            }
        )


async def test_a_missing_right_is_told(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account(cluster, namespace, "weak").make()
    monkeypatch.setenv("KUBECONFIG", str(account.kubeconfig(tmp_path)))
    async with await Client.connect(Metrics()) as client:
        with pytest.raises(Forbidden, match=f'User "{account.user}" cannot patch resource "configmaps"'):
            await client.apply(config_map(namespace))
        with pytest.raises(Forbidden):
            await client.get(CONFIG_MAP, namespace, "thing")
        with pytest.raises(Forbidden):
            await client.list(CONFIG_MAP, namespace)
        assert await client.serves(DEPLOYMENT), "anybody may ask what there is"


async def test_a_namespace_that_ends_takes_nothing_new(client: Client, cluster: Cluster, namespace: str) -> None:
    held = {
        **config_map(namespace),
        "metadata": {"namespace": namespace, "name": "held", "finalizers": ["test.example/held"]},
    }
    cluster.kubectl.create(held)
    cluster.kubectl.delete("namespace", namespace, wait=False)
    try:
        with pytest.raises(Forbidden, match="being terminated"):
            await client.apply(config_map(namespace))
    finally:
        cluster.kubectl.patch("configmap", "held", {"metadata": {"finalizers": None}}, namespace=namespace)


async def test_what_the_api_server_serves(client: Client) -> None:
    for kind in KINDS:
        if kind.group not in ("llamaserver.dev", "monitoring.coreos.com"):
            assert await client.serves(kind), kind
    assert not await client.serves(Kind("apps", "v1", "Nothing", "nothings"))
    assert not await client.serves(Kind("no.such.group", "v1", "Nothing", "nothings"))


async def test_without_the_lease_nothing_is_written_but_the_lease(client: Client, namespace: str) -> None:
    made = await client.apply(config_map(namespace))
    client.may_write = lambda: False
    metadata = {"namespace": namespace, "name": "thing"}
    event = {**made, "apiVersion": "v1", "kind": "ConfigMap"}
    for attempt in (
        client.apply(config_map(namespace, a="1")),
        client.apply_status(config_map(namespace, a="1")),
        client.create(config_map(namespace, "other")),
        client.replace({**made, "data": {"a": "1"}}),
        client.annotate(CONFIG_MAP, namespace, "thing", {"a": "1"}),
        client.delete(CONFIG_MAP, namespace, "thing", made["metadata"]["uid"]),
        client.create_event(namespace, event, "Normal", "Tried", ""),
    ):
        with pytest.raises(NotLeading):
            await attempt
    found = await client.get(CONFIG_MAP, namespace, "thing")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert await client.get(CONFIG_MAP, namespace, "other") is None
    lease = await client.create({"apiVersion": LEASE.api_version, "kind": "Lease", "metadata": metadata, "spec": {}})
    assert await client.replace({**lease, "spec": {"holderIdentity": "me"}})


async def test_a_new_token_is_used_when_the_kubeconfig_names_a_file(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pod, whose token is renewed: `credentials` reads what is there now."""
    weak, strong = Account(cluster, namespace, "weak").make(), Account(cluster, namespace, "strong").make()
    strong.allow({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]})
    chosen = tmp_path / "chosen"
    monkeypatch.setenv("KUBECONFIG", str(chosen))
    chosen.symlink_to(weak.kubeconfig(tmp_path))
    async with await Client.connect() as client:
        with pytest.raises(Forbidden):
            await client.get(CONFIG_MAP, namespace, "thing")
    chosen.unlink()
    chosen.symlink_to(strong.kubeconfig(tmp_path))
    async with await Client.connect() as client:
        assert await client.get(CONFIG_MAP, namespace, "thing") is None


async def test_requests_are_counted(cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    metrics = Metrics()

    def count(verb: str, kind: str, code: str) -> float:
        labels = {"verb": verb, "kind": kind, "code": code}
        return metrics.registry.get_sample_value("llamaserver_operator_api_requests_total", labels) or 0

    async with await Client.connect(metrics) as client:
        await client.apply(config_map(namespace))
        await client.list(SERVICE, namespace)
        await client.get(DEPLOYMENT, namespace, "thing")
    assert (
        count("APPLY", "ConfigMap", "201") == count("LIST", "Service", "200") == count("GET", "Deployment", "404") == 1
    )
