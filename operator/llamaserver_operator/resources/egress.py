"""The part of a NetworkPolicy that limits where pods connect to: name servers, and the ports of the download."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from ..config import Config
from ..files import model_files
from ..manifests import Manifest
from ..spec import Spec

_DNS: Manifest = {"ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]}
# Everything but the link itself, where the metadata services of clouds are.
_ANYWHERE = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128", "fe80::/10"]}},
]
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def egress(spec: Spec, config: Config) -> list[Manifest]:
    """The rules. Without a download there is none, so the pods connect to nothing."""
    ports = sorted(set(_ports(spec, config)))
    if not ports:
        return []
    return [_DNS, {"ports": [{"port": port, "protocol": "TCP"} for port in ports], "to": _ANYWHERE}]


def _ports(spec: Spec, config: Config) -> Iterator[int]:
    """The ports of sources, of the mirror and of proxies, and 443, to which sources redirect."""
    downloads = model_files(spec).downloads
    if not downloads:
        return
    yield 443
    env = {str(item.get("name")): str(item.get("value", "")) for item in spec.pod_template.env}
    for file in downloads:
        http = file.source.http
        yield from _port(http.url if http else env.get("HF_ENDPOINT", config.hf_endpoint))
    for name, value in env.items():
        if name.lower() in _PROXIES:
            yield from _port(value)


def _port(url: str) -> Iterator[int]:
    try:
        parts = urlsplit(url)
        if parts.hostname:
            yield parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:  # no URL: the download reports it
        return
