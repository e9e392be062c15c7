"""Sources of downloads that the chart's value allowPrivateSources keeps out. Pure.

This finds what a URL says. The download itself also checks the address of each connection.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from .files import model_files
from .problems import Problem
from .spec import Spec


def private_sources(spec: Spec) -> Iterable[Problem]:
    """A problem for each URL with a loopback or link-local address."""
    for file in model_files(spec):
        if (http := file.source.http) and _is_private(host := _host(http.url)):
            text = f"{host} is a loopback or link-local address. The chart's value allowPrivateSources allows it"
            yield Problem("SourceNotAllowed", f"{file.field}.http.url: {text}")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_private(host: str) -> bool:
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified
