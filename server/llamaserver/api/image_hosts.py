"""The hosts that images may come from (--image-hosts)."""

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import aiohttp
from yarl import URL

from ..errors import InvalidRequest
from ..models.addresses import AddressRefused, is_public

_Network = IPv4Network | IPv6Network


class ImageHosts:
    """What the entries of the option allow.

    An entry is a host with or without a port, or a network. Without a port, that of the scheme is allowed. A host can
    have public addresses, and those that other entries name.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._ports: dict[str, set[int | None]] = {}  # None: that of the scheme
        self._networks: list[_Network] = []
        self._single: list[_Network] = []  # addresses that are named with a port
        for entry in entries:
            self._add(entry)

    def _add(self, entry: str) -> None:
        if (network := _network(entry.strip("[]"))) is not None:
            self._networks.append(network)
            return
        url = URL(f"http://{entry}")
        host = (url.raw_host or "").lower()
        self._ports.setdefault(host, set()).add(url.explicit_port)
        if (network := _network(host)) is not None:
            self._single.append(network)

    def check(self, url: URL) -> None:
        """Raise InvalidRequest, without a field, unless the URL is one of HTTP on a named host."""
        if url.scheme not in ("http", "https") or not url.raw_host or url.raw_user or url.raw_password:
            raise InvalidRequest("must be an HTTP URL without a user")
        host = url.raw_host.lower()
        ports, address = self._ports.get(host, set()), _address(host)
        usual = url.is_default_port()
        named = usual and address is not None and any(address in network for network in self._networks)
        if not (named or url.port in ports or (usual and None in ports)):
            raise InvalidRequest(f"images may not come from {url.raw_authority!r:.100} (--image-hosts)")

    def socket(self, found: aiohttp.AddrInfoType) -> socket.socket:
        """A socket for an address that a name was resolved to. Raises AddressRefused."""
        family, kind, protocol, _, place = found
        address = _address(str(place[0]).partition("%")[0])
        if address is None or not (is_public(address) or self._has(address)):
            raise AddressRefused("not a public address, and --image-hosts does not name it")
        return socket.socket(family, kind, protocol)

    def _has(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in (*self._networks, *self._single))


def _network(text: str) -> _Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
