"""Addresses that a guarded download may not connect to, and those that only some may.

They belong to the machine itself, to its link, or to the metadata service of a cloud. Private networks are allowed: a
mirror in the cluster has such an address. The check is made on the address of each connection, after the name is
resolved, so no second answer of a name server can evade it. A redirect and a proxy are connections, too.
"""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import aiohttp

_REFUSED = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "::/128", "::1/128", "fe80::/10"),
        # Metadata services at other addresses: AWS and Google (IPv6), Alibaba, Azure, Oracle.
        *("fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
    )
)
_NAT64 = ip_network("64:ff9b::/96")


class AddressRefused(OSError):
    """The address of a connection is refused."""

    def __init__(self, what: str = "an address of this machine, of its link, or of a metadata service") -> None:
        super().__init__(errno.EACCES, what)


def is_refused(host: str) -> bool:
    """Whether a host is a refused address, or a name of this machine. Other names are checked once resolved."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        try:
            address = IPv4Address(socket.inet_aton(name))  # 127.1, 0x7f000001, 2130706433
        except (OSError, ValueError):
            return False
    return any(part in network for part in (address, *_inside(address)) for network in _REFUSED)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the Internet, and of no metadata service."""
    parts = (address, *_inside(address))
    return not is_refused(str(address)) and all(part.is_global and not part.is_multicast for part in parts)


def _inside(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 address that an IPv6 address stands for: mapped, compatible, 6to4 or NAT64."""
    if isinstance(address, IPv4Address):
        return []
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    known = [part for part in (address.ipv4_mapped, address.sixtofour) if part]
    return [*known, *([low] if address in _NAT64 or int(address) >> 32 == 0 else [])]


def checked_socket(found: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for an address that a name was resolved to. Raises AddressRefused."""
    family, kind, protocol, _, address = found
    if is_refused(str(address[0])):
        raise AddressRefused
    return socket.socket(family, kind, protocol)


async def check_host(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A middleware of the client. It checks the host of each URL, because a proxy resolves names itself."""
    if is_refused(request.url.raw_host or ""):
        raise aiohttp.ClientConnectorError(request.connection_key, AddressRefused())
    return await handler(request)
