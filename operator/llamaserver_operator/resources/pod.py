"""The pod template: the container of the server, and the init container of the download."""

from .. import names
from ..config import Config
from ..files import ModelFiles, model_files
from ..manifests import Manifest
from ..quantity import mebibytes_of
from ..spec import ResourceClaim, Spec
from .arguments import DRAIN_DELAY, literal, save_seconds, server_arguments, server_variables
from .volumes import Volumes, pod_volumes

_STARTUP = 1800  # seconds that the process has to give its first answer
_LOADING = 4  # seconds that a readiness probe waits while the model loads
_MARGIN = 10  # seconds of the grace period beyond what the server needs
_FETCH_NEEDS = {"cpu": "100m", "memory": "128Mi"}  # requests of the download, unless the spec has some


def pod_template(spec: Spec, namespace: str, name: str, image: str, config: Config) -> Manifest:
    """The pod template of the Deployment."""
    files = model_files(spec)
    volumes = pod_volumes(spec, files, name)
    overlay = spec.pod_template
    metadata: Manifest = {"labels": {**overlay.labels, **names.labels(name)}}
    if overlay.annotations:
        metadata["annotations"] = overlay.annotations
    about = {
        "image": image,
        "imagePullPolicy": spec.image.pull_policy or config.image_pull_policy,
        # A crashed server writes no message. Then the end of the log is used.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    server = about | _server(spec, volumes, server_arguments(spec, files, namespace, name))
    pod: Manifest = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(spec),
        "securityContext": _pod_security(spec),
        "containers": [server],
        "volumes": volumes.volumes,
    }
    if files.downloads:
        pod["initContainers"] = [about | _fetch(spec, files, volumes, f"{namespace}/{name}", config)]
    return {"metadata": metadata, "spec": pod | _overlay(spec)}


def grace_seconds(spec: Spec) -> int:
    """Seconds from SIGTERM to SIGKILL: stop accepting connections, drain, and save the KV cache."""
    return DRAIN_DELAY + spec.rollout.drain_timeout_seconds + save_seconds(spec.kv_cache) + _MARGIN


def _pod_security(spec: Spec) -> Manifest:
    overlay = spec.pod_template.security_context
    context: Manifest = {
        "runAsNonRoot": True,
        "runAsUser": names.USER,
        "runAsGroup": names.USER,
        "fsGroup": overlay.fs_group or names.USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if overlay.supplemental_groups:
        context["supplementalGroups"] = list(overlay.supplemental_groups)
    return context


_CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _server(spec: Spec, volumes: Volumes, arguments: list[str]) -> Manifest:
    container: Manifest = {
        "name": names.SERVER_CONTAINER,
        "args": arguments,
        "ports": [
            {"name": "http", "containerPort": names.HTTP_PORT, "protocol": "TCP"},
            {"name": "management", "containerPort": names.MANAGEMENT_PORT, "protocol": "TCP"},
        ],
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": volumes.server,
        **_probes(),
    }
    if resources := _resources(spec):
        container["resources"] = resources
    given = {item["name"] for item in spec.pod_template.env}
    ours = [{"name": name, "value": value} for name, value in server_variables(spec).items() if name not in given]
    container["env"] = [*spec.pod_template.env, *ours]
    return container


def _probes() -> Manifest:
    # /livez also answers while a model loads. Readiness waits for the model. The deadline of the rollout is not part of
    # the template, because raising the deadline must not restart the download. While a model loads, /readyz waits
    # before it answers no. So the pod becomes ready at once, without a probe every second. An ending pod answers no at
    # once. If it is the only pod, the Service uses it until the third failure. That is about as long as the pod accepts
    # new connections (DRAIN_DELAY). The next pod may become ready in this time.
    def probe(path: str, period: int, failures: int) -> Manifest:
        get = {"path": path, "port": "management", "scheme": "HTTP"}
        return {"httpGet": get, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": _LOADING + 1}

    return {
        "startupProbe": probe("/livez", 1, _STARTUP),
        "livenessProbe": probe("/livez", 10, 6),
        "readinessProbe": probe(f"/readyz?wait={_LOADING}", 3, 3),
    }


def _resources(spec: Spec) -> Manifest:
    requests, limits = dict(spec.resources.requests), dict(spec.resources.limits)
    made: Manifest = {}
    if (gpu := spec.accelerator) and gpu.resource:
        limits[gpu.resource] = str(gpu.count)  # the API server sets the request to the limit
    cache = spec.kv_cache
    if cache and cache.host_memory and "memory" not in requests and "memory" not in limits:
        # A value of the user is complete and is kept. Without one, request the part that is known. It is not a limit,
        # because the model and its context need memory, too.
        requests["memory"] = f"{mebibytes_of(cache.host_memory)}Mi"
    if gpu and gpu.resource_claims:
        made["claims"] = [{"name": claim.name} for claim in gpu.resource_claims]
    if requests:
        made["requests"] = requests
    if limits:
        made["limits"] = limits
    return made


def _fetch(spec: Spec, files: ModelFiles, volumes: Volumes, owner: str, config: Config) -> Manifest:
    arguments = ["fetch", "--models-dir", names.MODELS_DIR, "--management-port", str(names.MANAGEMENT_PORT)]
    arguments += ["--owner", owner]
    for file in files.downloads:
        arguments += ["--file", literal(file.fetch_argument)]
    container: Manifest = {
        "name": names.FETCH_CONTAINER,
        "args": arguments,
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": volumes.fetch,
        "resources": _fetch_resources(spec),
    }
    # The download needs the variables of the server, such as proxies and the certificates of a mirror.
    env = list(spec.pod_template.env)
    if config.hf_endpoint and all(item["name"] != "HF_ENDPOINT" for item in env):
        env.append({"name": "HF_ENDPOINT", "value": config.hf_endpoint})
    # Always set, so that the Secret of envFrom cannot set it.
    env.append({"name": "LLAMA_ARG_PRIVATE_SOURCES", "value": "allow" if config.allow_private_sources else "refuse"})
    container["env"] = env
    if secret := spec.model.credentials_secret_ref:
        container["envFrom"] = [{"secretRef": {"name": secret.name}}]
    return container


def _fetch_resources(spec: Spec) -> Manifest:
    """CPU and memory of the server. The download ends before, so they cost nothing, and quotas and QoS classes fit."""
    given = {"requests": spec.resources.requests, "limits": spec.resources.limits}
    made = {how: {name: values[name] for name in _FETCH_NEEDS if name in values} for how, values in given.items()}
    for name, small in _FETCH_NEEDS.items():
        if name not in made["requests"] and name not in made["limits"]:
            made["requests"][name] = small
    return {how: values for how, values in made.items() if values}


def _overlay(spec: Spec) -> Manifest:
    overlay, gpu = spec.pod_template, spec.accelerator
    made: Manifest = {
        "nodeSelector": overlay.node_selector,
        "tolerations": list(overlay.tolerations),
        "affinity": overlay.affinity,
        "topologySpreadConstraints": list(overlay.topology_spread_constraints),
        "priorityClassName": overlay.priority_class_name,
        "schedulerName": overlay.scheduler_name,
        "imagePullSecrets": list(overlay.image_pull_secrets),
    }
    if gpu:
        made["runtimeClassName"] = gpu.runtime_class_name
        made["resourceClaims"] = [_claim(claim) for claim in gpu.resource_claims]
    return {key: value for key, value in made.items() if value}


def _claim(claim: ResourceClaim) -> Manifest:
    if claim.resource_claim_name:
        return {"name": claim.name, "resourceClaimName": claim.resource_claim_name}
    return {"name": claim.name, "resourceClaimTemplateName": claim.resource_claim_template_name}
