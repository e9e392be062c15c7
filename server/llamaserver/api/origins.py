"""Which `Host` and `Origin` a request may have.

A server without keys on a loopback address serves the programs of its own machine. A page of a foreign website, open in
a browser on this machine, is none of them. It can send requests to 127.0.0.1, with its own `Origin`. By DNS rebinding
it can also send them under its own name, with that name as `Host`. Ollama had this problem as CVE-2024-28224. Such a
server therefore takes names of this machine only, unless --allowed-hosts and --allowed-origins name others. Its names
are those of its loopback addresses, its host name, and what containers call it, such as host.docker.internal. The
public DNS has no names that end in .internal, so no foreign website can have one.
"""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from ..config import Config
from ..errors import Forbidden

ANY = "*"
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::[0-9]*)?")
_PROGRAMS = frozenset({"app", "file", "tauri", "vscode-file", "vscode-webview"})  # no web page has these schemes


class Origins:
    """The hosts and origins of one server. Without a limit, everything is allowed."""

    def __init__(self, config: Config, *, keyless: bool) -> None:
        self._private = private = keyless and _is_for_this_machine(config.hosts)
        self._hosts = _limit(config.allowed_hosts, private)
        self._origins = _limit(config.allowed_origins, private)
        self._why = "A server without API keys on a loopback address is for its own machine. " if private else ""

    def check(self, hosts: list[str], origins: list[str]) -> None:
        """Raise Forbidden if a header `Host` or `Origin` has a value that is not allowed."""
        for host in hosts:
            if not self._host(host):
                raise Forbidden(f"the Host {host!a} is not allowed. {self._why}--allowed-hosts can allow others")
        for origin in origins:
            if not self._origin(origin, hosts):
                raise Forbidden(f"pages of {origin!a} are not allowed. {self._why}--allowed-origins can allow others")

    def _host(self, host: str) -> bool:
        if self._hosts is None or not host:
            return True
        if (found := _HOST.fullmatch(host)) is None:
            return False
        name = _plain(found["name"])
        return is_loopback(name) or name in self._hosts or (self._private and _is_of_this_machine(name))

    def _origin(self, origin: str, hosts: list[str]) -> bool:
        """Whether it is allowed: one that is listed, one of this machine, or the server's own page.

        A page is the server's own if its name is that in `Host`. Where any `Host` is allowed, this tells nothing: a
        foreign page has it too after DNS rebinding.
        """
        if self._origins is None or origin.lower() in self._origins:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        own = self._hosts is not None and bool(name) and parts.netloc.lower() in hosts
        return own or parts.scheme in _PROGRAMS or is_loopback(name)


def is_loopback(host: str) -> bool:
    """Whether a host means the machine itself: localhost and names below it (RFC 6761), 127.0.0.0/8, ::1."""
    name = _plain(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_for_this_machine(hosts: tuple[str, ...]) -> bool:
    """Whether all addresses are of the machine itself. A UNIX socket alone is none: no web page can use it."""
    addresses = [host for host in hosts if not host.endswith(".sock")]
    return bool(addresses) and all(map(is_loopback, addresses))


def _is_of_this_machine(name: str) -> bool:
    return name.endswith(".internal") or name == socket.gethostname().lower()


def _plain(host: str) -> str:
    return host.lower().removesuffix(".").removeprefix("[").removesuffix("]")


def _limit(listed: tuple[str, ...], private: bool) -> frozenset[str] | None:
    """What is allowed beside loopback names. None: everything."""
    if ANY in listed or not (listed or private):
        return None
    return frozenset(_plain(entry).rstrip("/") for entry in listed)
