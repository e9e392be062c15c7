"""Messages about pods: the fields that cause a trouble, and what to change."""

import json
from dataclasses import replace
from typing import Any

import pytest
from llamaserver_operator.remedies import quota

from tests.support.operator.worlds import Manifest, pod, told, with_pod

HTTP = {"http": {"url": "http://models.example/model.gguf"}}
PLAIN: Manifest = {"model": {"source": HTTP}}
CACHED: Manifest = {"model": {"source": HTTP, "cache": {"claimTemplate": {"size": "1Gi"}}}}
LIMITED: Manifest = {**CACHED, "resources": {"limits": {"memory": "150Mi"}}}
SERVED = {"model": {"file": "model.gguf", "sizeBytes": 96_500_000}}


def ends(code: int, reason: str = "Error", message: str = "", name: str = "server") -> Manifest:
    last = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    container = {"name": name, "ready": False, "restartCount": 1, "state": state, "lastState": last}
    return pod(**{"initContainerStatuses" if name == "fetch" else "containerStatuses": [container]})


# ---- memory


def noted(phase: str, **more: Any) -> str:
    return json.dumps({"phase": phase, "cpu": "some CPU", **more}) + "\n"


@pytest.mark.parametrize(
    ("raw", "one", "status", "message"),
    [
        (
            LIMITED, ends(137, "OOMKilled", noted("load", model_bytes=96_500_000)), {},
            "container server was killed at its memory limit of 150Mi while it loaded the model: the model "
            "has 93 MiB, the context 4 x 4,096 tokens. Raise spec.resources.limits.memory, or lower spec.context",
        ),
        (
            LIMITED, ends(137, "OOMKilled", noted("serving")), SERVED,
            "container server was killed at its memory limit of 150Mi while it served: the model has 93 "
            "MiB, the context 4 x 4,096 tokens. Raise spec.resources.limits.memory, or lower spec.context",
        ),
        (
            LIMITED, ends(137, "OOMKilled"), {"model": {"file": "another.gguf", "sizeBytes": 96_500_000}},
            "container server was killed at its memory limit of 150Mi: the context 4 x 4,096 tokens. Raise "
            "spec.resources.limits.memory, or lower spec.context",
        ),
        (
            {**LIMITED, "kvCache": {"hostMemory": "100Mi"}, "context": {"slots": 8, "tokensPerSlot": 8192}},
            ends(137, "OOMKilled", noted("warm-up")), {},
            "container server was killed at its memory limit of 150Mi while it warmed up: the context 8 x "
            "8,192 tokens. Raise spec.resources.limits.memory, or lower spec.context or spec.kvCache.hostMemory",
        ),
        (
            CACHED, ends(137, "OOMKilled", noted("load")), {},
            "container server was killed because node node-1 had no memory left while it loaded the "
            "model: the context 4 x 4,096 tokens. Set spec.resources.requests.memory to what it needs, or lower "
            "spec.context",
        ),
        (
            LIMITED, ends(137, "OOMKilled", name="fetch"), {},
            "container fetch was killed at its memory limit of 150Mi while it downloaded. Raise "
            "spec.resources.limits.memory",
        ),
    ],
)  # fmt: skip
def test_memory(raw: Manifest, one: Manifest, status: Manifest, message: str) -> None:
    assert told(raw, one, status) == ("Progressing", "OOMKilled", message)


# ---- storage of the node


def evicted(message: str) -> Manifest:
    return pod(phase="Failed", reason="Evicted", message=message)


OVER = "Pod ephemeral local storage usage exceeds the total limit of containers 50Mi. "
LOW = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 2Mi. "
KV_LIMIT = {**CACHED, "kvCache": {"volume": {"emptyDir": {"sizeLimit": "1Gi"}}}}


@pytest.mark.parametrize(
    ("raw", "message", "status", "expected"),
    [
        (
            PLAIN, OVER, {"download": {"bytes": 1, "totalBytes": 98_000_000}},
            "Pod ephemeral local storage usage exceeds the total limit of containers 50Mi. Without spec.model.cache "
            "the model (94 MiB) is on the scratch volume of the pod. Set spec.model.cache, or raise "
            "spec.resources.limits.ephemeral-storage",
        ),
        (
            PLAIN, 'Container server exceeded its local ephemeral storage limit "50Mi". ', {},
            'Container server exceeded its local ephemeral storage limit "50Mi". Without spec.model.cache the model '
            "is on the scratch volume of the pod. Set spec.model.cache, or raise "
            "spec.resources.limits.ephemeral-storage",
        ),
        (
            CACHED, OVER, SERVED,
            "Pod ephemeral local storage usage exceeds the total limit of containers 50Mi. Raise "
            "spec.resources.limits.ephemeral-storage",
        ),
        (
            PLAIN, LOW, {},
            "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 2Mi. Without "
            "spec.model.cache the model is on the scratch volume of the pod. Set spec.model.cache, or set "
            "spec.resources.requests.ephemeral-storage to what it needs",
        ),
        (
            KV_LIMIT, 'Usage of EmptyDir volume "kv" exceeds the limit "1Gi". ', {},
            'Usage of EmptyDir volume "kv" exceeds the limit "1Gi". Raise spec.kvCache.volume.emptyDir.sizeLimit, or '
            "lower spec.kvCache.maxSize",
        ),
        (
            PLAIN, 'Usage of EmptyDir volume "mine" exceeds the limit "1Gi". ', {},
            'Usage of EmptyDir volume "mine" exceeds the limit "1Gi". Raise its sizeLimit in spec.podTemplate.volumes',
        ),
        (
            PLAIN, 'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". ', {},
            'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". Add a larger volume to volumes and volumeMounts '
            "of spec.podTemplate, and set the variable TMPDIR in spec.podTemplate.env to its path",
        ),
        (
            PLAIN, "The node was low on resource: memory. ", {},
            "The node was low on resource: memory. Set spec.resources.requests.memory to what the server needs. "
            "Then it gets a node with that much memory",
        ),
        (PLAIN, "The node had condition: [DiskPressure]. ", {}, "The node had condition: [DiskPressure]. "),
    ],
)  # fmt: skip
def test_evictions(raw: Manifest, message: str, status: Manifest, expected: str) -> None:
    assert told(raw, evicted(message), status) == ("Progressing", "Evicted", expected)


# ---- images as volumes


OF_IMAGE: Manifest = {"model": {"source": {"image": {"reference": "registry.example/model:1", "path": "m.gguf"}}}}
SPEC_ERROR = 'failed to generate container "c" spec: failed to generate spec: failed to mkdir "": mkdir : no such file'
INFO = {"containerRuntimeVersion": "containerd://1.6.20", "kubeletVersion": "v1.33.1"}
NO_PLUGIN = 'MountVolume.NewMounter failed for volume "source-0": no volume plugin matched'


def not_created(message: str) -> Manifest:
    state = {"waiting": {"reason": "CreateContainerError", "message": message}}
    return pod(containerStatuses=[{"name": "server", "state": state, "lastState": {}}])


@pytest.mark.parametrize(
    ("raw", "infos", "where"),
    [
        (
            OF_IMAGE, {"node-1": INFO},
            "node node-1 (containerd 1.6.20) cannot mount image volumes (spec.model.source.image)",
        ),
        (OF_IMAGE, {}, "node node-1 cannot mount image volumes (spec.model.source.image)"),
        (
            {**PLAIN, "projector": OF_IMAGE["model"]}, {},
            "node node-1 cannot mount image volumes (spec.projector.source.image)",
        ),
        (
            {**PLAIN, "podTemplate": {"volumes": [{"name": "v", "image": {"reference": "i"}}]}}, {},
            "node node-1 cannot mount image volumes (spec.podTemplate.volumes)",
        ),
    ],
)  # fmt: skip
def test_a_runtime_without_image_volumes(raw: Manifest, infos: Manifest, where: str) -> None:
    message = f"{where}. It needs containerd 2.1 or CRI-O 1.33 or later"
    assert told(raw, not_created(SPEC_ERROR), node_infos=infos) == ("Progressing", "ImageVolumesUnsupported", message)


def test_a_kubelet_without_image_volumes() -> None:
    about = {
        "involvedObject": {"uid": "uid-of-new-0"},
        "type": "Warning",
        "reason": "FailedMount",
        "message": NO_PLUGIN,
    }
    found = told(OF_IMAGE, pod(phase="Pending"), warnings=[about], node_infos={"node-1": INFO})
    assert found == (
        "Progressing",
        "ImageVolumesUnsupported",
        "node node-1 (kubelet v1.33.1) cannot mount image volumes (spec.model.source.image). "
        "It needs Kubernetes 1.35 or later",
    )


@pytest.mark.parametrize(
    ("raw", "message"), [(PLAIN, SPEC_ERROR), (OF_IMAGE, "context deadline exceeded"), (PLAIN, 'exec: "x" not found')]
)
def test_other_mount_failures_are_not_about_image_volumes(raw: Manifest, message: str) -> None:
    found = told(raw, not_created(message), node_infos={"node-1": INFO})
    assert found == ("Progressing", "CreateContainerError", f"container server: {message}")


# ---- files


SECURED: Manifest = {**PLAIN, "security": {"tls": {"secretName": "cert"}, "apiKeysSecretRef": {"name": "keys"}}}
KV = {"volume": {"emptyDir": {}}, "persistence": "Continuous", "integritySecretRef": {"name": "sign"}}
SIGNED: Manifest = {**PLAIN, "kvCache": KV}
TEXTS: Manifest = {**PLAIN, "chatTemplate": {"inline": "t"}, "systemPrompt": {"inline": "p"}}


@pytest.mark.parametrize(
    ("raw", "message", "expected"),
    [
        (
            SECURED, "--ssl-cert-file /etc/llamaserver/tls/tls.crt is no PEM certificate",
            'Secret "cert" (spec.security.tls): tls.crt is no PEM certificate',
        ),
        (
            SECURED, "--ssl-key-file /etc/llamaserver/tls/tls.key: No such file or directory",
            'Secret "cert" (spec.security.tls): tls.key: No such file or directory',
        ),
        (
            SECURED,
            "--ssl-key-file /etc/llamaserver/tls/tls.key does not belong to --ssl-cert-file "
            "/etc/llamaserver/tls/tls.crt",
            'Secret "cert" (spec.security.tls): tls.key does not belong to tls.crt',
        ),
        (
            SECURED, "--api-key-file /etc/llamaserver/api-keys is no file or folder that can be read",
            'Secret "keys" (spec.security.apiKeysSecretRef) is no file or folder that can be read',
        ),
        (
            SIGNED, "--kv-store-key-file /etc/llamaserver/kv-key/key: a key needs at least 32 bytes",
            'Secret "sign" (spec.kvCache.integritySecretRef): a key needs at least 32 bytes',
        ),
        (
            TEXTS, "--chat-template-file /etc/llamaserver/config/chat-template is not valid Jinja: line 1: no",
            "spec.chatTemplate is not valid Jinja: line 1: no",
        ),
        (
            PLAIN, "the chat template in the model's metadata (--chat-template names another) is not valid Jinja",
            "the chat template in the model's metadata (spec.chatTemplate names another) is not valid Jinja",
        ),
        (
            TEXTS, "--system-prompt-file /etc/llamaserver/config/system-prompt: 900 tokens leave no room",
            "spec.systemPrompt: 900 tokens leave no room",
        ),
        (SECURED, "--threads: must be an integer, not 'x'", "--threads: must be an integer, not 'x'"),
        (PLAIN, "--ssl-cert-file /mine/tls.crt is empty", "--ssl-cert-file /mine/tls.crt is empty"),
    ],
)  # fmt: skip
def test_files_are_replaced_by_the_fields_they_come_from(raw: Manifest, message: str, expected: str) -> None:
    for reason in ("BadArguments", "TemplateInvalid"):
        found = told(raw, ends(2, message=json.dumps({"reason": reason, "message": message})))
        assert found == ("Progressing", reason, expected)


MINE = {"name": "mine", "secret": {"secretName": "theirs", "items": [{"key": "a", "path": "a"}]}}


@pytest.mark.parametrize(
    ("raw", "said", "reason", "message"),
    [
        (
            SIGNED, '"kv-key" : references non-existent secret key: key', "SecretKeyNotFound",
            'Secret "sign" (spec.kvCache.integritySecretRef) has no entry "key"',
        ),
        (
            {**PLAIN, "podTemplate": {"volumes": [MINE]}}, '"mine" : references non-existent secret key: a',
            "SecretKeyNotFound", 'Secret "theirs" (spec.podTemplate.volumes) has no entry "a"',
        ),
        (
            PLAIN, '"other" : references non-existent config key: a', "ConfigMapKeyNotFound",
            'MountVolume.SetUp failed for volume "other" : references non-existent config key: a',
        ),
    ],
)  # fmt: skip
def test_a_volume_without_an_entry(raw: Manifest, said: str, reason: str, message: str) -> None:
    about = {
        **{"involvedObject": {"uid": "uid-of-new-0"}, "type": "Warning", "reason": "FailedMount"},
        "message": f"MountVolume.SetUp failed for volume {said}",
    }
    assert told(raw, pod(phase="Pending"), warnings=[about]) == ("Progressing", reason, message)


# ---- quotas


FULL = 'pods "demo-1" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1'


def test_a_quota_that_stops_a_rollout() -> None:
    _, one = with_pod(PLAIN, pod("old-0", "old", ready=True))
    assert quota(FULL, one) == (
        f"{FULL}. The quota has no room for another pod while the old one serves. Raise it, or set "
        "spec.rollout.strategy to Replace"
    )
    remedy = f"{FULL}. Raise the quota, or lower spec.resources or spec.replicas"
    assert quota(FULL, replace(one, pods=[])) == remedy, "nothing serves"
    assert quota(FULL, with_pod(PLAIN, pod(ready=True))[1]) == remedy, "more replicas, no rollout"
    assert quota(FULL, with_pod({**PLAIN, "rollout": {"strategy": "Replace"}}, pod())[1]) == remedy
    assert quota("pods are forbidden: a webhook said no", one) == "pods are forbidden: a webhook said no"
