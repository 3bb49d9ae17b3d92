"""Checks of values: ids, numbers and times that callers give, addresses of anyone.

A server says where its video is. It must not be able to name machines and services
inside the user's own network. Resolves no names, opens no connection, and knows nothing
of models: `_requests` checks the fields of a request.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import re
import sys
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias
from urllib.parse import urlsplit

from attrs import frozen

from kling_async._errors import ConfigurationError, InvalidRequestError, Problem
from kling_async._text import short_repr

_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_DRAWN = re.compile(r"kling-[0-9a-f]{32}")

# Far longer than any documented id, and far shorter than a URL may be.
_LONGEST = 1024


def require_generation_id(given: object) -> str:
    """Return an id of a generation; refuse anything else."""
    if isinstance(given, str):
        found = given.strip()
        if 0 < len(found) <= _LONGEST and found.isprintable():
            return found
    allowed = "the id of a generation, as create() returned it"
    raise unfit("generation_id", given, allowed)


def unfit(
    name: str, given: object, allowed: str, hint: str | None = None
) -> InvalidRequestError:
    """Return the error that one argument of a request is not what is allowed."""
    return InvalidRequestError([Problem(name, repr(given)[:80], allowed, hint)])


def is_client_request_id(text: str) -> bool:
    """Whether the vendor accepts this id: it silently drops any other."""
    return _CLIENT_REQUEST_ID.fullmatch(text) is not None


class DrawnId(str):
    """A random client request id, made for a single create."""

    __slots__ = ()


def is_drawn(client_request_id: str) -> bool:
    """Whether only one create can have this id; a caller's own may be used twice."""
    return isinstance(client_request_id, DrawnId) or bool(
        _DRAWN.fullmatch(client_request_id)
    )


def client_request_id_from(given: object) -> str:
    """Return the caller's own id if it fits the vendor's alphabet, or make one."""
    if given is None:
        return DrawnId(f"kling-{uuid.uuid4().hex}")
    if isinstance(given, str) and is_client_request_id(given):
        return given
    allowed = "1 to 128 of A-Z a-z 0-9 . _ : -"
    hint = "The vendor silently drops any other, so the create could not be traced"
    raise unfit("client_request_id", given, allowed, hint)


LEAST, MOST = sys.float_info.min, sys.float_info.max


def require(name: str, given: object, allowed: str, *, fits: bool) -> None:
    """Refuse an argument that does not fit: annotations are not enforced.

    Args:
        name: The argument.
        given: What was given.
        allowed: What is allowed, in words.
        fits: Whether ``given`` fits.

    Raises:
        ConfigurationError: It does not fit.
    """
    if not fits:
        shown = short_repr(given)
        raise ConfigurationError(f"{name}: given {shown}; allowed: {allowed}")


def is_number(given: object, low: float = 0, high: float = MOST) -> bool:
    """Whether a value is a number within bounds."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return low <= given <= high


# Amounts and seconds are not greater: a sum or product of those could be infinite.
_MOST_READ = 1e18


def number_from(value: object) -> float | None:
    """Read a number of a request or an answer, also from text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= _MOST_READ else None  # nor is NaN


def is_whole(given: object, low: int = 1, high: float = math.inf) -> bool:
    """Whether a value is a whole number within bounds."""
    return isinstance(given, int) and is_number(given, low, high)


def require_timeout(name: str, value: object) -> None:
    """Refuse anything but a time-out in seconds; ``math.inf`` is one."""
    allowed = "seconds, more than 0, or math.inf for no limit"
    require(name, value, allowed, fits=is_number(value, LEAST, math.inf))


def timeout_from(given: float | None, default: float) -> float:
    """Return a time-out in seconds, or the default for None; refuse anything else."""
    if given is None:
        return default
    require_timeout("timeout", given)
    return given


def require_count(name: str, value: object) -> None:
    """Refuse anything but a whole number of at least 1."""
    require(name, value, "1 or more", fits=is_whole(value))


def require_number(
    name: str, value: object, *, least: float, above: bool = False
) -> None:
    """Refuse anything but a finite number that is large enough."""
    allowed = f"more than {least:g}" if above else f"{least:g} or more"
    low = math.nextafter(least, math.inf) if above else least
    require(name, value, f"{allowed}, finite", fits=is_number(value, low))


def require_share(name: str, value: object) -> None:
    """Refuse anything but a number from 0 to 1."""
    require(name, value, "0 to 1", fits=is_number(value, 0, 1))


class MissingExtraError(ModuleNotFoundError):
    """An extra of this package is needed and not installed."""


@contextmanager
def needs_extra(extra: str, *packages: str) -> Generator[None]:
    """Import packages of an extra; if one is missing, say how to install it.

    Raises:
        MissingExtraError: One of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise MissingExtraError(
            f'{error.name} is not installed: pip install "kling_async[{extra}]"',
            name=error.name,
        ) from error


# "The window cannot exceed 92 days" (the vendor's page on usage).
_LONGEST_WINDOW = dt.timedelta(days=92)


def time_from(
    name: str, given: object, *, before: dt.datetime | None = None
) -> dt.datetime:
    """Return a time, given itself or as how long ago; check its distance to another."""
    if isinstance(given, dt.timedelta):
        time = dt.datetime.now(dt.UTC) - given
    elif isinstance(given, dt.datetime) and given.tzinfo is not None:
        time = given
    else:
        allowed = "a datetime with its time zone, or a timedelta: how long ago"
        hint = "Such as datetime.now(UTC), or timedelta(hours=24)"
        raise unfit(name, given, allowed, hint)
    if before is not None and not dt.timedelta() <= before - time <= _LONGEST_WINDOW:
        start = time.isoformat(timespec="seconds")
        end = before.isoformat(timespec="seconds")
        allowed = f"at most {_LONGEST_WINDOW.days} days before {end}, and not after it"
        hint = "Ask for a longer time in several parts"
        raise InvalidRequestError([Problem(name, start, allowed, hint)])
    return time


def without_none(filters: Mapping[str, str | None]) -> dict[str, str]:
    """Keep the filters that were given."""
    return {name: value for name, value in filters.items() if value is not None}


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


PORTS = {"http": 80, "https": 443}


def host_and_port(url: str) -> tuple[str, int]:
    """Return where a web URL leads."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 80)


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
        inside = read.ipv4_mapped or (_last_32(read) if read in _NAT64 else None)
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
        home, home_port = host_and_port(self.base_url)
        if is_loopback(address) and is_loopback(home):
            return False
        return (_plain(host), port) != (_plain(home), home_port)


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()
