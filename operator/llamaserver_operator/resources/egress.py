"""The part of a NetworkPolicy that limits where pods connect to: name servers, and the ports of the download."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from ..config import Config
from ..files import model_files
from ..manifests import Manifest
from ..spec import Spec

# OpenShift's name servers listen on 5353, behind a Service with port 53.
_DNS: Manifest = {"ports": [{"port": port, "protocol": name} for port in (53, 5353) for name in ("UDP", "TCP")]}
# In some network plug-ins, as in Cilium, an ipBlock never matches a pod.
_PODS: Manifest = {"namespaceSelector": {}}
# Everything but the link itself, where the metadata services of clouds are.
_ANYWHERE = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128", "fd20:ce::254/128", "fe80::/10"]}},
    _PODS,
]
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def egress(spec: Spec, config: Config) -> list[Manifest]:
    """The rules. Without a download there is none, so the pods connect to nothing."""
    if not model_files(spec).downloads:
        return []
    hosts = list(_hosts(spec, config))
    ports = sorted({443, *(port for _, port in hosts)})  # sources redirect to 443
    rules = [_DNS, {"ports": [{"port": port, "protocol": "TCP"} for port in ports], "to": _ANYWHERE}]
    # A policy sees the port of the pod, which may differ from the port of its Service.
    return [*rules, {"to": [_PODS]}] if any(_is_service(host) for host, _ in hosts) else rules


def _hosts(spec: Spec, config: Config) -> Iterator[tuple[str, int]]:
    """Host and port of sources, of the mirror and of proxies."""
    env = {str(item.get("name")): str(item.get("value", "")) for item in spec.pod_template.env}
    for file in model_files(spec).downloads:
        http = file.source.http
        yield from _host(http.url if http else env.get("HF_ENDPOINT", config.hf_endpoint))
    for name, value in env.items():
        if name.lower() in _PROXIES:
            yield from _host(value)


def _is_service(host: str) -> bool:
    """Whether a host is a name inside the cluster."""
    name = host.rstrip(".")
    return ("." not in name and ":" not in name) or name.endswith(".svc") or ".svc." in name


def _host(url: str) -> Iterator[tuple[str, int]]:
    try:
        parts = urlsplit(url)
        if parts.hostname:
            yield parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:  # no URL: the download reports it
        return
