"""What pods run, read from their arguments. The spec may have changed since they started. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from . import kinds, names
from .manifests import PodSpec
from .observed import Observed, is_ready


@dataclass(frozen=True, slots=True)
class Running:
    """One server: the number of its slots, their total context in tokens, and whether it serves HTTPS."""

    slots: int
    context: int
    tls: bool


def ready_servers(observed: Observed) -> list[Running]:
    """The servers of all ready pods, of any template."""
    return _servers(pod["spec"] for pod in observed.own_pods() if is_ready(pod))


def current(observed: Observed) -> Running | None:
    """A ready server of the newest template, else any ready server, else the server of the Deployment's template."""
    newest = [pod["spec"] for pod in observed.new_pods() if is_ready(pod)]
    template = [observed.deployment["spec"]["template"]["spec"]] if observed.deployment else []
    found = [*_servers(newest), *ready_servers(observed), *_servers(template)]
    return found[0] if found else None


def service_port(observed: Observed) -> int | None:
    """The port of the present Service. None when there is no Service."""
    name = observed.owner["metadata"]["name"]
    for service in observed.children.get(kinds.SERVICE, ()):
        if service["metadata"]["name"] == name:
            return int(service["spec"]["ports"][0]["port"])
    return None


def _servers(specs: Iterable[PodSpec]) -> list[Running]:
    return [found for spec in specs if (found := server_of(spec))]


def server_of(spec: PodSpec) -> Running | None:
    """The server in the spec of a pod. None when its arguments do not show slots and context."""
    arguments = arguments_of(spec)
    values = dict(pairwise(arguments))
    numbers = [values.get(flag, "") for flag in ("--parallel", "--ctx-size")]
    if not all(number.isdecimal() for number in numbers):
        return None
    return Running(int(numbers[0]), int(numbers[1]), "--ssl-cert-file" in values)


def arguments_of(spec: PodSpec) -> list[str]:
    """The arguments of the server's container in the spec of a pod. Empty without such a container."""
    containers = spec.get("containers", ())
    return next((item.get("args", []) for item in containers if item["name"] == names.SERVER_CONTAINER), [])
