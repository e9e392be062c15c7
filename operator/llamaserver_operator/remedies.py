"""Explains a trouble of pods by fields of the object, and says what to change. Pure. Each trouble has a function."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from . import names
from .crashes import LONGEST, End, end_of
from .files import model_files
from .manifests import Manifest, Pod, ResourceRequirements
from .observed import Observed, container_statuses
from .pods import Trouble, trouble_of, unscheduled
from .rollout import claim_field
from .running import arguments_of, server_of
from .spec import Spec

_MIB = 2**20
# Events of a Pending claim that only waits until its pod has a node.
_FOR_ITS_POD = ("WaitForFirstConsumer", "WaitForPodScheduled")
_TLS_FILE = re.compile(rf"--ssl-(?:cert|key)-file {re.escape(names.TLS_DIR)}/")
_VOLUMES = ("CreateContainerError", "FailedMount")
_NO_RUNTIME = 'mkdir ""'  # a runtime without image volumes reads them as paths of the node
_NO_KUBELET = "no volume plugin matched"
_NO_ENTRY = re.compile(r'volume "([^"]+)" ?: references non-existent secret key: ([^\s,\]]+)')
_FIELDS_OF_SECRETS = {
    "kv-key": "spec.kvCache.integritySecretRef",
    "tls": "spec.security.tls",
    "api-keys": "spec.security.apiKeysSecretRef",
}
_FULL_VOLUME = re.compile(r'EmptyDir volume "([^"]+)" exceeds')


def explained(found: Trouble | None, pod: Pod, spec: Spec, observed: Observed) -> Trouble | None:
    """The trouble of a pod, with the fields that cause it."""
    if not pod["spec"].get("nodeName") and (found is None or found.condition == "Scheduled"):
        return _pending_claim(pod, spec, observed) or found
    if found is None:
        return None
    if found.reason in _VOLUMES:
        return _image_volume(found, pod, spec, observed)
    return _BY_REASON.get(found.reason, _files)(found, pod, observed)


def ended(pod: Pod, end: End, observed: Observed) -> Trouble:
    """The trouble that the end of a container means, with the fields that cause it."""
    found = trouble_of(pod, end)
    return _BY_REASON.get(found.reason, _files)(found, pod, observed)


# ---- claims without a volume


def _pending_claim(pod: Pod, spec: Spec, observed: Observed) -> Trouble | None:
    """The claim that keeps a pod from getting a node, with the message of the provisioner."""
    said = unscheduled(pod).lower()
    if said and "volume" not in said:
        return None
    for claim in observed.pending_claims:
        name, uid = claim["metadata"]["name"], claim["metadata"]["uid"]
        if text := _failure_of_claim(item for item in observed.warnings if item["involvedObject"].get("uid") == uid):
            field = claim_field(spec, observed.owner["metadata"]["name"], name)
            if field.endswith("claimTemplate") and "storageclass" in text.lower().replace(" ", ""):
                field += ".storageClassName"
            return Trouble("Scheduled", "ClaimPending", f"claim {name} is Pending: {text} ({field})")
    return None


def _failure_of_claim(events: Iterable[Manifest]) -> str:
    """The message of the last Event of a claim, if it is about a failure."""
    telling = [item for item in events if _fails(item) or item.get("reason") in _FOR_ITS_POD]
    last = max(telling, key=lambda item: (_time(item), _fails(item)), default=None)
    return " ".join(str(last.get("message", "")).split())[-LONGEST:] if last and _fails(last) else ""


def _fails(event: Manifest) -> bool:
    return event.get("type") == "Warning" or event.get("reason") == "FailedBinding"


def _time(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


# ---- memory


def _memory(found: Trouble, pod: Pod, observed: Observed) -> Trouble:
    end = next((end for end in _ends(pod) if end.reason == "OOMKilled"), None)
    if end is None:
        return found
    name = end.container
    limit = _resources(pod, name).get("limits", {}).get("memory")
    cause = (
        f"at its memory limit of {limit}" if limit else f"because node {pod['spec'].get('nodeName')} had no memory left"
    )
    text = " ".join(filter(None, (f"container {name} was killed", cause, end.during)))
    more = "Raise spec.resources.limits.memory" if limit else "Set spec.resources.requests.memory to what it needs"
    if name != names.SERVER_CONTAINER:
        return replace(found, message=f"{text}. {more}")
    needs = [f"the model has {size}"] if (size := _size_of_model(pod, observed)) else []
    if server := server_of(pod["spec"]):
        needs.append(f"the context {server.slots} x {server.context // server.slots:,} tokens")
    lower = "spec.context or spec.kvCache.hostMemory" if "--cache-ram" in arguments_of(pod["spec"]) else "spec.context"
    about = f": {', '.join(needs)}" if needs else ""
    return replace(found, message=f"{text}{about}. {more}, or lower {lower}")


def _ends(pod: Pod) -> Iterator[End]:
    for container in container_statuses(pod):
        if end := end_of(pod, container):
            yield end


# ---- storage of the node


def _eviction(found: Trouble, pod: Pod, observed: Observed) -> Trouble:
    text = found.message
    if full := _FULL_VOLUME.search(text):
        fields = {
            "kv": "Raise spec.kvCache.volume.emptyDir.sizeLimit, or lower spec.kvCache.maxSize",
            "tmp": (
                "Add a larger volume to volumes and volumeMounts of spec.podTemplate, and set the variable TMPDIR in "
                "spec.podTemplate.env to its path"
            ),
        }
        remedy = fields.get(full[1], "Raise its sizeLimit in spec.podTemplate.volumes")
    elif "ephemeral" in text:
        remedy = _room(text, pod, observed)
    elif "resource: memory" in text:
        remedy = (
            "Set spec.resources.requests.memory to what the server needs. Then it gets a node with that much memory"
        )
    else:
        return found
    return replace(found, message=f"{text.rstrip('. ')}. {remedy}")


def _room(text: str, pod: Pod, observed: Observed) -> str:
    """What to change when the storage of the node is full. Without a cache, the model takes most of it."""
    if "limit" in text:
        verb, what = "raise", "spec.resources.limits.ephemeral-storage"
    else:
        verb, what = "set", "spec.resources.requests.ephemeral-storage to what it needs"
    volumes = {item["name"]: item for item in pod["spec"].get("volumes", ())}
    if "emptyDir" not in volumes.get("models", {}):
        return f"{verb.capitalize()} {what}"
    size = f" ({found})" if (found := _size_of_model(pod, observed)) else ""
    return (
        f"Without spec.model.cache the model{size} is on the scratch volume of the pod. "
        f"Set spec.model.cache, or {verb} {what}"
    )


# ---- images as volumes


def _image_volume(found: Trouble, pod: Pod, spec: Spec, observed: Observed) -> Trouble:
    """A node without image volumes. Its runtime and its kubelet give other messages, which do not say so."""
    if not mounts_images(pod) or not (_NO_RUNTIME in found.message or _NO_KUBELET in found.message):
        return found
    node = str(pod["spec"].get("nodeName"))
    info = observed.node_infos.get(node, {})
    if _NO_RUNTIME in found.message:
        version, needed = info.get("containerRuntimeVersion", "").replace("://", " "), "containerd 2.1 or CRI-O 1.33"
    else:
        version, needed = f"kubelet {info.get('kubeletVersion', '')}", "Kubernetes 1.35"
    fields = [f"{file.field}.image" for file in model_files(spec) if file.source.image] or ["spec.podTemplate.volumes"]
    about = f" ({version})" if info else ""
    text = f"node {node}{about} cannot mount image volumes ({', '.join(fields)}). It needs {needed} or later"
    return Trouble(found.condition, "ImageVolumesUnsupported", text)


def mounts_images(pod: Pod) -> bool:
    """Whether the pod mounts images. Not every node supports this."""
    return any("image" in item for item in pod["spec"].get("volumes", ()))


# ---- files that come from fields


def _files(found: Trouble, pod: Pod, observed: Observed) -> Trouble:
    """Replaces files in a message of the server by the Secret, or the field, that they come from."""
    text, places = found.message, _secrets(pod)
    if "tls" in places and _TLS_FILE.search(text):
        text = f"{places['tls']}: {_TLS_FILE.sub('', text)}"
    if "api-keys" in places:
        text = text.replace(f"--api-key-file {names.API_KEYS_DIR}", places["api-keys"])
    if "kv-key" in places:
        text = text.replace(f"--kv-store-key-file {names.KV_KEY_DIR}/key", places["kv-key"])
    text = text.replace(f"--chat-template-file {names.CONFIG_DIR}/chat-template", "spec.chatTemplate")
    text = text.replace("(--chat-template names another)", "(spec.chatTemplate names another)")
    text = text.replace(f"--system-prompt-file {names.CONFIG_DIR}/system-prompt", "spec.systemPrompt")
    return replace(found, message=text)


def _no_entry(found: Trouble, pod: Pod, observed: Observed) -> Trouble:
    """A Secret that lacks an entry. The kubelet names only the volume of the pod."""
    entry, places = _NO_ENTRY.search(found.message), _secrets(pod)
    if entry is None or entry[1] not in places:
        return _files(found, pod, observed)
    return replace(found, message=f'{places[entry[1]]} has no entry "{entry[2]}"')


def _secrets(pod: Pod) -> dict[str, str]:
    """Secret and field by name of the volume."""
    secrets = {item["name"]: item["secret"] for item in pod["spec"].get("volumes", ()) if "secret" in item}
    fields = {volume: _FIELDS_OF_SECRETS.get(volume, "spec.podTemplate.volumes") for volume in secrets}
    return {name: f'Secret "{secret.get("secretName", "")}" ({fields[name]})' for name, secret in secrets.items()}


_BY_REASON: dict[str, Callable[[Trouble, Pod, Observed], Trouble]] = {
    "OOMKilled": _memory,
    "Evicted": _eviction,
    "SecretKeyNotFound": _no_entry,
}


# ---- pods that the API server refuses


def quota(message: str, observed: Observed) -> str:
    """The message of the API server about a refused pod, with a remedy when a quota is the cause."""
    if "exceeded quota" not in message:
        return message
    update = (observed.deployment or {}).get("spec", {}).get("strategy", {}).get("rollingUpdate", {})
    if update.get("maxSurge") and observed.old_pods():
        remedy = "The quota has no room for another pod while the old one serves. Raise it, or set "
        return f"{message}. {remedy}spec.rollout.strategy to Replace"
    return f"{message}. Raise the quota, or lower spec.resources or spec.replicas"


# ---- helpers


def _resources(pod: Pod, container: str) -> ResourceRequirements:
    both = [*pod["spec"].get("initContainers", ()), *pod["spec"].get("containers", ())]
    found = (item.get("resources", {}) for item in both if item["name"] == container)
    return next(found, ResourceRequirements())


def _size_of_model(pod: Pod, observed: Observed) -> str:
    """Size from the server's note, else from the status of the object. Empty when it is unknown."""
    status, known = observed.owner.get("status", {}), observed.owner.get("status", {}).get("model", {})
    noted = (end.noted.get("model_bytes") for end in _ends(pod))
    same = any(known.get("file") and word.endswith(f"/{known['file']}") for word in arguments_of(pod["spec"]))
    sizes = (*noted, known.get("sizeBytes") if same else 0, status.get("download", {}).get("totalBytes"))
    size = next((size for size in sizes if isinstance(size, int) and size > 0), 0)
    return f"{math.ceil(size / _MIB)} MiB" if size else ""
