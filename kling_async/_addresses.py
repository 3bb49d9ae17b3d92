"""Which addresses a download may go to: public ones, and those the user named.

A server says where its video is. It must not be able to name machines and services
inside the user's own network. Resolves no names and opens no connection.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import TypeAlias
from urllib.parse import urlsplit

from attrs import frozen

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# Not public, though some versions of `ipaddress` say so: Azure's platform ("What is IP
# address 168.63.129.16?", Azure documentation), protocol assignments, Oracle's metadata
# among them (RFC 6890), 6to4 relays (RFC 7526), and addresses for documentation
# (RFC 9637).
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(it)
    for it in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "3fff::/20")
)

# All addresses assigned on the Internet (RFC 4291, section 2.4): others are private,
# or hide an IPv4 address.
_ASSIGNED = ipaddress.ip_network("2000::/3")

# RFC 6052, section 2.1: an IPv4 address in the last 32 bits.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_LAST_32 = 0xFFFFFFFF

# RFC 5214, section 6.1: bits 32 to 63 of an address that ends in an IPv4 address.
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


_BUCKET = re.compile(r"(s3a?|gs|az|azure|adl|abfss?)://[^\s/]+/\S.*", re.IGNORECASE)


def is_bucket_url(given: object) -> bool:
    """Whether a text names an object in a bucket, which the server cannot fetch."""
    return isinstance(given, str) and _BUCKET.fullmatch(given) is not None


def is_loopback(host: str) -> bool:
    """Whether a name or numeric address is certainly this machine's own."""
    if _plain(host) == "localhost":  # RFC 6761, section 6.3
        return True
    address = _address(host)
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1 is loopback, too
    return address is not None and (mapped or address).is_loopback


def is_public(address: str) -> bool:
    """Whether a numeric address is public: it can be reached from anywhere.

    An IPv4 address hidden in an IPv6 one has to be public, too.
    """
    read = _address(address)
    if isinstance(read, ipaddress.IPv6Address):
        inside = read.ipv4_mapped or _nat64_target(read)
        if inside is not None:
            return _is_public(inside)
        return (
            read in _ASSIGNED
            and _is_public(read)
            and all(map(_is_public, _tunnel_targets(read)))
        )
    return read is not None and _is_public(read)


def _is_public(address: _Address) -> bool:
    is_own = any(address in network for network in _NOT_PUBLIC)
    return address.is_global and not address.is_multicast and not is_own


def _nat64_target(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return _last_32(address) if address in _NAT64 else None


def _tunnel_targets(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """Yield the IPv4 addresses to which tunnels forward packets for this one."""
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if int(address) >> 32 & _LAST_32 in _ISATAP:
        yield _last_32(address)


def _last_32(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(address) & _LAST_32)


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


@frozen
class AddressPolicy:
    """Where downloads may go.

    Attributes:
        base_url: The API's own URL. Its host and port are always allowed: the user
            named them. If it is loopback, so is everything on this machine: the API is
            the emulator then.
        is_unbounded: Whether any address is allowed.
    """

    base_url: str
    is_unbounded: bool = False

    def forbids_host(self, host: str, port: int) -> bool:
        """Whether a host is a forbidden address, or a name of this machine.

        `forbids` decides on any other name, once it is resolved.
        """
        if is_loopback(host) or _plain(host).endswith(".localhost"):
            return self.forbids(host, port, "127.0.0.1")
        return _address(host) is not None and self.forbids(host, port, host)

    def forbids(self, host: str, port: int, address: str) -> bool:
        """Whether downloads from a host at this numeric address are forbidden."""
        if self.is_unbounded or is_public(address):
            return False
        home = urlsplit(self.base_url)
        if is_loopback(address) and is_loopback(home.hostname or ""):
            return False
        home_port = home.port or (443 if home.scheme == "https" else 80)
        return (_plain(host), port) != (_plain(home.hostname or ""), home_port)


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()
