"""What keeps a model from being served is told in words that a person can act on, and passes when its cause does."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.localcluster.hub import Hub
from dev.localcluster.kubectl import KubectlError, Object
from tests.support.cluster.llama import REPO, Llama
from tests.support.models import Models
from tests.support.polling import until
from tests.support.server import certificates

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CRD = "llamaservers.llamaserver.dev"
ARGUMENTS = ("spec", "engine", "extraArgs")  # where the schema has them


@dataclass(frozen=True)
class Case:
    """A spec's change, the condition that tells what is wrong with it, and words of its message."""

    changes: Object
    condition: str
    reason: str
    words: tuple[str, ...]


def hub_file(file: str) -> Object:
    return {"source": {"huggingFace": {"file": file}}}


CASES = {
    "no-such-model": Case(
        {"model": hub_file("none.gguf")}, "ModelAvailable", "ModelNotFound", ("none.gguf", "404 Not Found")
    ),
    "other-checksum": Case(
        {"model": {"sha256": "0" * 64}}, "ModelAvailable", "ChecksumMismatch", ("tiny.gguf", f"expected {'0' * 64}")
    ),
    "half-a-model": Case(
        {"model": hub_file("half.gguf")},
        "ModelAvailable",
        "NotGGUF",
        (
            "half.gguf is not a complete GGUF file: it has ",
            "The file on the server is incomplete. The download was discarded",
        ),
    ),
    "unknown-architecture": Case(
        {"model": hub_file("unknown.gguf")},
        "ModelAvailable",
        "ModelLoadFailed",
        (
            "'no-such-architecture'; the file is from the cache, downloaded at ",
            ". Each new pod starts with the download",
        ),
    ),
    "full-disk": Case(
        {"model": {"cache": {"claimName": "small"}}}, "ModelAvailable", "DiskFull", ("MiB free", "64 MiB to spare")
    ),
    "bad-argument": Case(
        {"engine": {"extraArgs": ["--no-such-option"]}}, "Progressing", "BadArguments", ("--no-such-option",)
    ),
    "too-large": Case(
        {"resources": {"requests": {"cpu": "1000"}}}, "Scheduled", "Unschedulable", ("0/1 nodes", "Insufficient cpu")
    ),
    "no-such-claim": Case(
        {"model": {"cache": {"claimName": "none"}}}, "Scheduled", "Unschedulable", ('"none" not found',)
    ),
    "no-such-image": Case(
        {"image": {"repository": "localhost/none", "tag": "1"}}, "Progressing", "ImagePullFailed", ("localhost/none:1",)
    ),
    "crashing": Case(
        # Python cannot even start: nothing of ours could write a last word.
        {"podTemplate": {"env": [{"name": "PYTHONHOME", "value": "/nowhere"}]}},
        "Progressing",
        "CrashLoopBackOff",
        ("exit code 1", "No module named 'encodings'"),
    ),
    "little-memory": Case(
        {"resources": {"requests": None, "limits": {"memory": "24Mi"}}},
        "Progressing",
        "OOMKilled",
        ("memory limit of 24Mi", "Raise spec.resources.limits.memory"),
    ),
    "no-such-key": Case(
        {
            "podTemplate": {
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "has-one-key", "key": "other"}}}]
            }
        },
        "Progressing",
        "SecretKeyNotFound",
        ("key other", "has-one-key"),
    ),
    "half-a-pair": Case(
        {"security": {"tls": {"secretName": "has-one-key"}}},
        "Progressing",
        "BadArguments",
        ('Secret "has-one-key" (spec.security.tls): tls.crt: No such file',),
    ),
    "refused": Case(
        {"podTemplate": {"labels": {"team": "no label at all"}}},
        "Accepted",
        "Invalid",
        ("Deployment refused", "no label at all"),
    ),
    "two-on-one-claim": Case(
        {"replicas": 2, "model": {"cache": {"claimTemplate": {"size": "64Mi"}}}},
        "Accepted",
        "NeedsReadWriteMany",
        ("spec.model.cache.claimTemplate.accessModes", "2 replicas", "ReadWriteOnce"),
    ),
}


@pytest.fixture
def another(llama: Llama) -> Callable[[str], Llama]:
    """Further objects in the test's namespace."""
    return lambda name: Llama(llama.cluster, llama.namespace, name)


def secret(namespace: str, name: str, **data: str) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate and its key, as texts."""
    made, key = certificates.make(tmp_path, "model")
    return made.read_text(), key.read_text()


@contextmanager
def unchecked_arguments(llama: Llama) -> Iterator[None]:
    """A CRD that lets options of the operator's own through, as an older one may have done."""

    def patch(*change: Object) -> None:
        llama.cluster.kubectl("patch", "crd", CRD, "--type=json", f"--patch={json.dumps(change)}")

    def admitted() -> bool:
        try:
            Llama(llama.cluster, llama.namespace, "sample").apply(engine={"extraArgs": ["--port=1"]}, replicas=0)
        except KubectlError:
            return False
        llama.cluster.kubectl.delete("llamaserver", "sample", llama.namespace, wait=False)
        return True

    schema: Any = llama.cluster.kubectl.get("crd", CRD)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for part in ARGUMENTS:
        schema = schema["properties"][part]
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/"
    path += f"{'/properties/'.join(ARGUMENTS)}/x-kubernetes-validations"
    patch({"op": "remove", "path": path})
    try:
        until(admitted, "the API server has the looser schema", 60, pause=0.5)
        yield
    finally:
        patch({"op": "add", "path": path, "value": schema["x-kubernetes-validations"]})
        until(lambda: not admitted(), "the API server has the schema again", 60, pause=0.5)


def test_whatever_stops_a_model_is_told(another: Callable[[str], Llama], hub: Hub, tmp_path: Path) -> None:
    models = Models(tmp_path)
    hub.add(REPO, "main", "half.gguf", models.truncated(models.llama()))
    hub.add(REPO, "main", "unknown.gguf", models.unknown())
    first = another("two-on-one-claim")
    cluster, namespace = first.cluster, first.namespace
    volume = f"small-{namespace}"
    cluster.make_volume(volume, limit="16m")
    claim: Object = {"storageClassName": "local-static", "volumeName": volume, "accessModes": ["ReadWriteOnce"]}
    claim["resources"] = {"requests": {"storage": "1Gi"}}
    about = {"name": "small", "namespace": namespace}
    cluster.kubectl.create(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": claim},
        secret(namespace, "has-one-key", one="1"),
    )
    for name, case in CASES.items():
        another(name).apply(**case.changes)
    for name, case in CASES.items():
        llama = another(name)
        told = llama.until_conditions(case.condition, "False", case.reason, 240)
        message = told[case.condition][2]
        assert [word for word in case.words if word not in message] == [], f"{name}: {message}"
        assert told["Ready"] == ("False", case.reason, message), name
        assert told["Available"] == ("False", case.reason, message), name
        llama.until_event(case.reason)
    assert first.child("deployment") == {}  # nothing is made of a spec that was not accepted
    assert another("refused").child("deployment") == {}


def test_what_was_missing_may_come_later(another: Callable[[str], Llama], certificate: tuple[str, str]) -> None:
    template = {"configMapKeyRef": {"name": "template", "key": "chat.jinja"}}
    missing = {
        "token": Case(
            {"model": {"credentialsSecretRef": {"name": "hub"}}}, "ModelAvailable", "SecretNotFound", ("hub",)
        ),
        "keys": Case({"security": {"apiKeysSecretRef": {"name": "keys"}}}, "Progressing", "SecretNotFound", ("keys",)),
        "tls": Case({"security": {"tls": {"secretName": "tls"}}}, "Progressing", "SecretNotFound", ("tls",)),
        "text": Case(
            {"chatTemplate": template}, "Accepted", "ConfigMapNotFound", ("spec.chatTemplate", "template", "chat.jinja")
        ),
    }
    for name, case in missing.items():
        another(name).apply(**case.changes)
    for name, case in missing.items():
        message = another(name).until_condition(case.condition, "False", case.reason)
        assert all(word in message for word in case.words), message
        assert another(name).condition("Ready")[1] == case.reason
    cluster, namespace = another("token").cluster, another("token").namespace
    text = {"chat.jinja": "{% for message in messages %}{{ message.content }}{% endfor %}"}
    about = {"name": "template", "namespace": namespace}
    cluster.kubectl.create(
        secret(namespace, "hub", HF_TOKEN="any"),
        secret(namespace, "keys", some="key-1"),
        secret(namespace, "tls", **dict(zip(("tls.crt", "tls.key"), certificate, strict=True))),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": text},
    )
    for name in missing:
        another(name).until_ready(240)


def test_old_pods_serve_while_a_rollout_fails_or_a_spec_is_refused(llama: Llama) -> None:
    llama.apply().until_ready()
    (uid,) = llama.pod_uids
    llama.apply(model=hub_file("none.gguf"))
    message = llama.until_condition("Ready", "False", "ModelNotFound")
    assert "404 Not Found" in message
    assert llama.condition("Progressing")[:2] == ("False", "ModelNotFound")
    assert llama.condition("Stalled")[:2] == ("True", "ModelNotFound")
    assert llama.condition("Available") == ("True", "Serving", "1 pod serves, 1 of an earlier spec")
    assert uid in llama.pod_uids
    assert llama.complete()["tokens_predicted"]
    llama.until_event("ModelNotFound", "Ready is False")

    llama.apply(model=hub_file("tiny.gguf"), context={"slots": 1}).until_ready()
    assert llama.condition("Progressing")[:2] == ("True", "Complete")
    until(lambda: len(llama.pods) == 1, "one pod is left")
    assert uid not in llama.pod_uids

    (uid,) = llama.pod_uids
    with unchecked_arguments(llama):
        llama.apply(engine={"extraArgs": ["--port=1"]})
        message = llama.until_condition("Accepted", "False", "InvalidSpec")
        assert "spec.engine.extraArgs: --port is spec.serving.port" in message
        assert llama.condition("Ready") == llama.condition("Accepted")
        assert llama.condition("Stalled") == ("True", "InvalidSpec", message)
        assert llama.condition("Available") == ("True", "Serving", "1 pod serves")
        assert llama.pod_uids == {uid}
        assert llama.complete()["tokens_predicted"]
        llama.apply(engine={"extraArgs": []}).until_ready()
    assert llama.pod_uids == {uid}


def test_an_edit_that_the_api_server_refuses_leaves_the_pods_serving(llama: Llama) -> None:
    llama.apply().until_ready()
    before = llama.pod_uids
    llama.apply(podTemplate={"labels": {"team": "no label at all"}})
    message = llama.until_condition("Progressing", "False", "Invalid")
    assert llama.condition("Accepted") == ("False", "Invalid", message)
    assert llama.condition("Ready") == llama.condition("Accepted")
    assert llama.condition("Available")[0] == "True"
    assert llama.pod_uids == before
    llama.apply(podTemplate=None).until_ready()
    assert llama.pod_uids == before


def test_an_object_of_somebody_else_is_left_alone(llama: Llama) -> None:
    about = {"name": llama.name, "namespace": llama.namespace, "labels": {"mine": "yes"}}
    service = {"selector": {"app": "other"}, "ports": [{"port": 80}]}
    llama.cluster.kubectl.create({"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": service})
    before = llama.child("service")
    llama.apply()
    message = llama.until_condition("Accepted", "False", "NameConflict")
    assert "Service 'model' exists and does not belong to this object" in message
    assert llama.child("service") == before
    assert llama.child("deployment") == {}
    llama.cluster.kubectl.delete("service", llama.name, llama.namespace)
    llama.until_ready()


def test_a_quota_is_told_with_the_words_of_the_api_server(llama: Llama) -> None:
    about = {"name": "few", "namespace": llama.namespace}
    few = {"hard": {"pods": "0", "services": "1"}}
    llama.cluster.kubectl.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": about, "spec": few})
    until(lambda: llama.child("resourcequota", "few").get("status", {}).get("used"), "the quota counts")
    llama.apply()
    message = llama.until_condition("Accepted", "False", "Forbidden")
    assert "Service" in message and "exceeded quota: few" in message
    llama.cluster.kubectl.patch(
        "resourcequota", "few", {"spec": {"hard": {"services": "9"}}}, namespace=llama.namespace
    )
    message = llama.until_condition("Progressing", "False", "FailedCreate")
    assert "exceeded quota: few" in message
    assert llama.condition("Accepted")[0] == "True"
    llama.cluster.kubectl.delete("resourcequota", "few", llama.namespace)
    llama.until_ready(240)
