"""Which addresses a download may go to: public ones, and those the user named.

A server says where its video lies. Nothing it says may lead to the machines and
services behind the user's own wall. Looks nothing up and opens no connection.
"""

from __future__ import annotations

import ipaddress
from typing import TypeAlias
from urllib.parse import urlsplit

from attrs import frozen

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# Not public, though `ipaddress` calls them so, in some versions at least: Azure's
# platform ("What is IP address 168.63.129.16?", Azure documentation), protocol
# assignments with Oracle's metadata among them (RFC 6890), local NAT64 (RFC 8215),
# and what was site-local (RFC 3879).
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(it)
    for it in ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10")
)

# RFC 6052, section 2.1: an IPv4 address in the last 32 bits.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_loopback(host: str) -> bool:
    """Whether a name or numeric address is this machine's own for certain."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_public(address: str) -> bool:
    """Whether a numeric address can be reached from anywhere, and is nobody's own."""
    read = _address(address)
    if read is None or any(read in network for network in _NOT_PUBLIC):
        return False
    return read.is_global and not read.is_multicast


def _address(text: str) -> _Address | None:
    """Read a numeric address; an IPv4 address inside an IPv6 one is what counts."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        teredo = address.teredo[1] if address.teredo else None
        return address.ipv4_mapped or address.sixtofour or teredo or address
    return address


@frozen
class Reach:
    """How far downloads go.

    Attributes:
        base_url: The API's own URL. What lies on the same host and port may be
            fetched wherever that is: the user named it. If it is loopback, so may
            all else on this machine: the API is a stand-in here.
        is_unbounded: Whether any address is allowed.
    """

    base_url: str
    is_unbounded: bool = False

    def refuses_host(self, host: str, port: int) -> bool:
        """Whether a host is an address, or this machine, that is not allowed.

        Any other name is judged by `refuses`, once it is known where it leads.
        """
        if is_loopback(host):
            return self.refuses(host, port, "127.0.0.1")
        return _address(host) is not None and self.refuses(host, port, host)

    def refuses(self, host: str, port: int, address: str) -> bool:
        """Whether a host may not be fetched from at a numeric address."""
        if self.is_unbounded or is_public(address):
            return False
        home = urlsplit(self.base_url)
        if is_loopback(address) and is_loopback(home.hostname or ""):
            return False
        home_port = home.port or (443 if home.scheme == "https" else 80)
        return (_plain(host), port) != (_plain(home.hostname or ""), home_port)


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()
