"""The LlamaServer schema on a real API server: what it admits, fills in, refuses, and how it shows.

It stands there under names of its own, so that no operator acts on the objects. They are small and share a namespace.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from kubernetes import client, config

from tests.support.polling import until

GROUP, VERSION, PLURAL = "schema.llamaserver.dev", "v1alpha1", "llamaschemas"
NAMESPACE = f"schema-{uuid4().hex[:8]}"
RESOURCE = f"{PLURAL}.{GROUP}"
ROOT = Path(__file__).parents[2]
SAMPLES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("crd_samples.yaml").read_text())
MINIMAL: dict[str, Any] = {"model": {"source": {"http": {"url": "http://models.example/tiny.gguf"}}}}
CLAIM = {"claimTemplate": {"size": "20Gi", "storageClassName": "fast", "accessModes": ["ReadWriteOnce"]}}

pytestmark = pytest.mark.cluster


def crd() -> dict[str, Any]:
    made = yaml.safe_load((ROOT / "crds" / "llamaservers.yaml").read_text())
    made["metadata"]["name"] = RESOURCE
    made["spec"]["group"] = GROUP
    made["spec"]["names"] |= {"plural": PLURAL, "singular": PLURAL[:-1], "shortNames": [], "categories": []}
    return made


def over(base: Any, patch: Any) -> Any:
    """JSON merge patch."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = over(merged.get(key), value)
    return merged


def holds(whole: Any, part: Any) -> bool:
    """Whether nothing of `part` was dropped or changed in `whole`; defaults may have come."""
    if isinstance(part, dict):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(holds, whole, part))
    return bool(whole == part)


def schema_nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in the schema."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from schema_nodes(child)


class Api:
    """Objects of the schema in one namespace."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._objects, self._where = client.CustomObjectsApi(api), (GROUP, VERSION, namespace, PLURAL)

    def create(self, spec: dict[str, Any], name: str = "sample", **how: Any) -> dict[str, Any]:
        body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "LlamaServer", "metadata": {"name": name}, "spec": spec}
        return self._objects.create_namespaced_custom_object(*self._where, body, field_validation="Strict", **how)

    def admitted(self, spec: dict[str, Any], name: str = "sample") -> dict[str, Any]:
        return self.create(spec, name, dry_run="All")["spec"]

    def refusal(self, spec: dict[str, Any], name: str = "sample") -> str:
        with pytest.raises(client.ApiException) as caught:
            self.admitted(spec, name)
        return reason(caught.value)

    def replace(self, body: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        name, changed = body["metadata"]["name"], {**deepcopy(body), "spec": spec}
        how = {"dry_run": "All", "field_validation": "Strict"}
        return self._objects.replace_namespaced_custom_object(*self._where, name, changed, **how)

    def set_status(self, name: str, status: dict[str, Any]) -> dict[str, Any]:
        return self._objects.patch_namespaced_custom_object_status(*self._where, name, {"status": status})

    def scale(self, name: str) -> dict[str, Any]:
        return self._objects.get_namespaced_custom_object_scale(*self._where, name)

    def delete(self, name: str) -> None:
        self._objects.delete_namespaced_custom_object(*self._where, name)


def reason(error: client.ApiException) -> str:
    assert error.status in {400, 422}, error
    return yaml.safe_load(error.body)["message"]


@pytest.fixture(scope="module")
def api(cluster) -> Iterator[Api]:
    with schema_served(cluster, NAMESPACE) as made:
        yield made


@contextmanager
def schema_served(cluster, namespace: str) -> Iterator[Api]:
    """The schema on the API server, and a namespace for its objects."""
    with config.new_client_from_config(str(cluster.kubeconfig)) as kube:
        made, definitions = Api(kube, namespace), client.ApiextensionsV1Api(kube)
        cluster.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        definitions.create_custom_resource_definition(crd())
        try:
            until(lambda: _served(made), "the resource is served")
            cluster.kubectl("wait", "--for=condition=NamesAccepted", f"crd/{RESOURCE}")
            found = definitions.read_custom_resource_definition(RESOURCE).status.conditions
            assert "NonStructuralSchema" not in [each.type for each in found], found
            yield made
        finally:
            cluster.kubectl.delete("crd", RESOURCE)
            cluster.kubectl.delete("namespace", namespace, wait=False)


def _served(api: Api) -> bool:
    try:
        return bool(api.admitted(MINIMAL))
    except client.ApiException as error:
        if error.status == 404:
            return False
        raise


ACCEPTED = [(sample, fragment) for sample in SAMPLES for fragment in sample["accepted"]]
REFUSED = [(sample, fragment) for sample in SAMPLES for fragment in sample["refused"]]


def ids(cases: list[tuple[dict[str, Any], Any]]) -> list[str]:
    return [f"{number}-{sample['field']}" for number, (sample, _) in enumerate(cases)]


@pytest.mark.parametrize(("sample", "fragment"), ACCEPTED, ids=ids(ACCEPTED))
def test_what_a_rule_accepts(api, sample, fragment):
    wanted = over(MINIMAL, fragment)
    assert holds(api.admitted(wanted), wanted)


@pytest.mark.parametrize(("sample", "fragment"), REFUSED, ids=ids(REFUSED))
def test_what_a_rule_refuses(api, sample, fragment):
    text = api.refusal(over(MINIMAL, fragment))
    assert sample["message"] in text
    assert f"{sample['field']}: " in text


def test_every_rule_and_pattern_has_samples():
    told = {sample["message"] for sample in SAMPLES}
    nodes = list(schema_nodes(crd()["spec"]["versions"][0]["schema"]))
    rules = {
        rule["message"]
        for node in nodes
        for rule in node.get("x-kubernetes-validations", [])
        if "messageExpression" not in rule  # test_messages.py has what these say
    }
    patterns = {f"should match '{node['pattern']}'" for node in nodes if isinstance(node.get("pattern"), str)}
    assert len(rules) > 15
    assert len(patterns) > 10
    elsewhere = {message for message, *_ in TRANSITIONS} | {NAME_RULE}
    assert (rules | patterns) - told - elsewhere == set()


SAFE = {"slotsEndpoint": "Disabled", "requestSystemPrompt": "Disabled"}


def test_defaults(api):
    assert api.admitted(MINIMAL) == {
        "model": {"source": {"http": {"url": "http://models.example/tiny.gguf"}}},
        "context": {"tokensPerSlot": 4096, "slots": 4},
        "engine": {"gpuLayers": "All", "flashAttention": "Auto"},
        "replicas": 1,
        "rollout": {
            "strategy": "Auto",
            "drainTimeoutSeconds": 300,
            "progressDeadlineSeconds": 1800,
            "upgradePolicy": "Pinned",
        },
        "serving": {"port": 8080, "serviceType": "ClusterIP", **SAFE},
        "security": {"cacheIsolation": "PerKey", "networkPolicy": {"mode": "Managed", "egress": "Any"}},
        "observability": {"serviceMonitor": "Auto"},
    }


def test_defaults_of_optional_parts(api):
    hugging_face = {"http": None, "huggingFace": {"repo": "a/b", "file": "m.gguf"}}
    fragment = {
        "model": {"source": hugging_face, "cache": {"claimTemplate": {"size": "1Gi"}}},
        "loraAdapters": [{"name": "a", "source": MINIMAL["model"]["source"]}],
        "accelerator": {"vendor": "NVIDIA"},
        "kvCache": {"volume": {"emptyDir": {}}},
    }
    spec = api.admitted(over(MINIMAL, fragment))
    assert spec["model"]["source"]["huggingFace"]["revision"] == "main"
    assert spec["model"]["cache"] == {
        "claimTemplate": {"size": "1Gi", "accessModes": ["ReadWriteOnce"]},
        "retentionPolicy": "Retain",
    }
    assert spec["loraAdapters"][0]["scale"] == 1
    assert spec["accelerator"] == {"vendor": "NVIDIA", "count": 1, "onFallback": "Fail"}
    assert spec["kvCache"] == {
        "persistence": "None",
        "manualSlots": "Disabled",
        "scope": "Replica",
        "volume": {"emptyDir": {}, "retentionPolicy": "Retain"},
    }


def test_a_misspelt_field_is_refused(api):
    assert 'unknown field "spec.replcas"' in api.refusal({**MINIMAL, "replcas": 1})


NAME_RULE = (
    "metadata.name must be a DNS-1035 label of at most 52 characters: lower-case letters, digits and dashes, "
    "beginning with a letter"
)


@pytest.mark.parametrize("name", ["a", "chat-2", "a" * 52])
def test_names(api, name):
    assert api.admitted(MINIMAL, name)


@pytest.mark.parametrize("name", ["2-chat", "chat.small", "a" * 53])
def test_names_that_no_service_may_have(api, name):
    assert NAME_RULE in api.refusal(MINIMAL, name)


# message, what is laid over the claim
TRANSITIONS = [
    ("size can only grow", {"size": "19Gi"}),
    ("storageClassName is immutable", {"storageClassName": "slow"}),
    ("storageClassName is immutable", {"storageClassName": None}),
    ("accessModes are immutable", {"accessModes": ["ReadWriteMany"]}),
]


@pytest.fixture
def stored(api) -> Iterator[dict[str, Any]]:
    yield api.create(over(MINIMAL, {"model": {"cache": CLAIM}, "kvCache": {"volume": CLAIM}}), "stored")
    api.delete("stored")


@pytest.mark.parametrize(("message", "change"), TRANSITIONS)
@pytest.mark.parametrize("where", ["model.cache", "kvCache.volume"])
def test_what_must_not_change(api, stored, where, message, change):
    outer, inner = where.split(".")
    with pytest.raises(client.ApiException) as caught:
        api.replace(stored, over(stored["spec"], {outer: {inner: {"claimTemplate": change}}}))
    assert message in reason(caught.value)
    assert f"spec.{where}.claimTemplate" in reason(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"cache": {"claimTemplate": {"size": "21Gi"}}}},
        {"model": {"cache": {"claimTemplate": {"size": "20480Mi"}}}},  # the same
        {"model": {"cache": {"claimTemplate": None, "claimName": "mine"}}},
        {"kvCache": {"volume": {"retentionPolicy": "Delete"}}},
        {"kvCache": None},
    ],
)
def test_what_may_change(api, stored, change):
    assert api.replace(stored, over(stored["spec"], change))


STATUS = {
    "observedGeneration": 1,
    "replicas": 2,
    "readyReplicas": 2,
    "restarts": 3,
    "selector": "app.kubernetes.io/name=llamaserver,llamaserver.dev/name=sample",
    "endpoint": "http://sample.test.svc:8080",
    "model": {"file": "tiny.gguf"},
    "slots": {"total": 8, "perReplica": 4},
    "accelerator": {"device": "NVIDIA H100"},
    "conditions": [
        {"type": "Ready", "status": "False", "reason": "ModelNotFound", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Available", "status": "True", "reason": "Serving", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Accepted", "status": "True", "reason": "Valid", "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ],
}


@pytest.fixture
def served(api) -> Iterator[str]:
    api.create({**MINIMAL, "replicas": 2}, "served")
    api.set_status("served", STATUS)
    yield "served"
    api.delete("served")


def test_columns(cluster, served):
    table = cluster.kubectl("get", RESOURCE, f"--namespace={NAMESPACE}")
    head, row = (line.split() for line in table.splitlines())
    assert head == ["NAME", "READY", "AVAILABLE", "REASON", "REPLICAS", "RESTARTS", "MODEL", "SLOTS", "AGE"]
    assert row[:-1] == ["served", "False", "True", "ModelNotFound", "2", "3", "tiny.gguf", "8"]


def test_wide_columns(cluster, served):
    table = cluster.kubectl("get", RESOURCE, f"--namespace={NAMESPACE}", "--output=wide")
    head, row = table.splitlines()
    assert head.split()[-3:] == ["ENDPOINT", "GPU", "AGE"] or head.split()[-3:] == ["AGE", "ENDPOINT", "GPU"]
    assert "http://sample.test.svc:8080" in row
    assert "NVIDIA H100" in row


def test_a_write_of_the_status_leaves_the_spec_alone(api, served):
    changed = api.set_status(served, {**STATUS, "replicas": 1})
    assert changed["status"]["replicas"] == 1
    assert changed["spec"]["replicas"] == 2
    assert changed["metadata"]["generation"] == 1


def test_scale_subresource(cluster, api, served):
    scale = api.scale(served)
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 2, "selector": STATUS["selector"]}
    cluster.kubectl("scale", f"{RESOURCE}/{served}", f"--namespace={NAMESPACE}", "--replicas=0")
    assert api.scale(served)["spec"].get("replicas", 0) == 0


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("spec", "The GPUs of each pod. Without it, the model runs on the CPU."),
        ("spec.kvCache.volume", "Set exactly one of claimName, claimTemplate and emptyDir."),
        ("spec.kvCache.hostMemory", "If resources sets no memory, the pod requests this amount."),
    ],
)
def test_explain_reads_like_documentation(cluster, api, field, text):
    told = cluster.kubectl("explain", f"{PLURAL}.{field}", f"--api-version={GROUP}/{VERSION}")
    assert text in " ".join(told.split())
    assert "<no description>" not in told
