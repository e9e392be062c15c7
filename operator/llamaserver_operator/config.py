"""The command line and the environment as a Config."""

import argparse
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .errors import ConfigError

PREFIX = "LLAMASERVER_OPERATOR_"
_WATCH_NAMESPACES = f"{PREFIX}WATCH_NAMESPACES"
_WATCH_HELP = "namespace to watch, repeatable (default: all)"
_DESCRIPTION = (
    "Watches LlamaServer objects and makes pods that serve their models. The variable in brackets sets an option, too. "
    "An option on the command line overrides its variable."
)
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one instance of the operator."""

    watch_namespaces: tuple[str, ...] = ()  # empty: all namespaces
    namespace: str = "default"  # of the operator
    identity: str = "operator"

    server_image: str = ""
    server_image_cuda: str = ""
    server_image_rocm: str = ""
    server_image_vulkan: str = ""
    image_pull_policy: str = "IfNotPresent"
    hf_endpoint: str = ""
    allow_private_sources: bool = False
    prometheus_namespace_labels: Mapping[str, str] = field(default_factory=dict)
    operator_pod_labels: Mapping[str, str] = field(default_factory=dict)

    lease_name: str = "llamaserver-operator"
    lease_seconds: float = 15.0  # after this time without renewal, another instance may take over
    renew_seconds: float = 10.0  # after this time without renewal, the holder stops its work
    retry_seconds: float = 2.0

    workers: int = 4
    resync_seconds: float = 300.0
    discovery_seconds: float = 15.0
    health_host: str = ""  # empty: all addresses
    health_port: int = 8080
    log_format: str = "json"
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not self.retry_seconds < self.renew_seconds < self.lease_seconds:
            raise ConfigError("--retry-seconds must be less than --renew-seconds, and that less than --lease-seconds")

    def image_for(self, vendor: str) -> str:
        """The default server image for the devices of a vendor. The vendor "" is the CPU."""
        by_vendor = {"NVIDIA": self.server_image_cuda, "AMD": self.server_image_rocm, "Intel": self.server_image_vulkan}
        return by_vendor.get(vendor, "") or self.server_image


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _labels(text: str) -> dict[str, str]:
    labels = {}
    for part in _names(text):
        key, _, value = part.partition("=")
        if not key or not value:
            raise ValueError("must be KEY=VALUE[,KEY=VALUE...]")
        labels[key] = value
    return labels


def _at_least(low: float, read: Callable[[str], float]) -> Callable[[str], float]:
    def reader(text: str) -> float:
        value = read(text)
        if value < low:
            raise ValueError(f"must be at least {low:g}")
        return value

    return reader


def _one_of(*choices: str) -> Callable[[str], str]:
    def reader(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return reader


def _yes_or_no(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


# flag: (reader, default as text, help)
_OPTIONS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "namespace": (str, "", "namespace of the operator and of its Lease (default: the namespace of its pod)"),
    "identity": (str, "", "name of this instance in the Lease (default: the name of its pod, or of the host)"),
    "server-image": (str, "", "server image for the CPU"),
    "server-image-cuda": (str, "", "server image for NVIDIA GPUs"),
    "server-image-rocm": (str, "", "server image for AMD GPUs"),
    "server-image-vulkan": (str, "", "server image for Intel GPUs"),
    "image-pull-policy": (
        _one_of("Always", "IfNotPresent", "Never"),
        "IfNotPresent",
        "pull policy of server images: Always, IfNotPresent or Never",
    ),
    "hf-endpoint": (str, "", "URL of a Hugging Face mirror that downloads use instead of https://huggingface.co"),
    "allow-private-sources": (
        _yes_or_no,
        "false",
        "true allows downloads from loopback and link-local addresses",
    ),
    "prometheus-namespace-labels": (
        _labels,
        "kubernetes.io/metadata.name=monitoring",
        "labels of the namespace of Prometheus. NetworkPolicies allow it to scrape model pods",
    ),
    "operator-pod-labels": (
        _labels,
        "app.kubernetes.io/name=llamaserver-operator",
        "labels of the operator's pods. NetworkPolicies allow them to read the status of model pods",
    ),
    "lease-name": (str, "llamaserver-operator", "name of the Lease that the active instance holds"),
    "lease-seconds": (
        _at_least(1, float),
        "15",
        "another instance takes over a Lease not renewed for this many seconds",
    ),
    "renew-seconds": (
        _at_least(0.5, float),
        "10",
        "the active instance stops if it cannot renew for this many seconds",
    ),
    "retry-seconds": (_at_least(0.1, float), "2", "seconds between two reads or renewals of the Lease"),
    "workers": (_at_least(1, int), "4", "number of objects that are reconciled at the same time"),
    "resync-seconds": (
        _at_least(1, float),
        "300",
        "reconcile every object at this interval in seconds, without an event",
    ),
    "discovery-seconds": (
        _at_least(0.5, float),
        "15",
        "seconds between two checks for kinds that were added or removed",
    ),
    "health-host": (str, "", "address of the health port (default: all addresses)"),
    "health-port": (_at_least(0, int), "8080", "port of /healthz, /readyz and /metrics"),
    "log-format": (_one_of("json", "text"), "json", "json or text"),
    "log-level": (_one_of("debug", "info", "warning", "error"), "info", "debug, info, warning or error"),
}


def options() -> list[tuple[str, str, str, str]]:
    """Name, default, variable and meaning of each option."""
    watch = ("watch-namespace", "", _WATCH_NAMESPACES, _WATCH_HELP)
    return [watch, *((flag, default, _variable(flag), text) for flag, (_, default, text) in _OPTIONS.items())]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The configuration. ConfigError when an option or a variable is wrong."""
    parser = _Parser(prog="llamaserver-operator", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--watch-namespace", action="append", metavar="NAME", help=f"{_WATCH_HELP} [{_WATCH_NAMESPACES}]"
    )
    for flag, (_, default, text) in _OPTIONS.items():
        shown = f" (default: {default})" if default else ""
        parser.add_argument(f"--{flag}", metavar="VALUE", help=f"{text}{shown} [{_variable(flag)}]")
    given = vars(parser.parse_args(argv))
    values: dict[str, Any] = {}
    for flag, (read, default, _) in _OPTIONS.items():
        name = flag.replace("-", "_")
        text = given[name] if given[name] is not None else environ.get(_variable(flag), "") or default
        try:
            values[name] = read(text)
        except ValueError as error:
            raise ConfigError(f"--{flag}: {error}, not {text!r}") from None
    chosen = given["watch_namespace"] or [environ.get(_WATCH_NAMESPACES, "")]
    values["watch_namespaces"] = tuple(dict.fromkeys(_names(",".join(chosen))))
    values["namespace"] = values["namespace"] or environ.get("POD_NAMESPACE", "") or _own_namespace()
    values["identity"] = values["identity"] or environ.get("POD_NAME", "") or socket.gethostname()
    return Config(**values)


def _variable(flag: str) -> str:
    return PREFIX + flag.upper().replace("-", "_")


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"
