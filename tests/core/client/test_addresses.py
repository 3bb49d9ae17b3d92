"""Which addresses a server may send a download to."""

from __future__ import annotations

import pytest

from kling_async._checks import AddressPolicy, is_loopback, is_public

API = "https://api.aimlapi.com"
LOCAL = "http://127.0.0.1:8765"
PUBLIC = (
    "8.8.8.8 93.184.216.34 1.1.1.1 2606:2800:220:1::1 ::ffff:8.8.8.8 64:ff9b::808:808"
)
PRIVATE = """
127.0.0.1 127.8.8.8 ::1 0.0.0.0 :: 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1
169.254.169.254 168.63.129.16 100.64.0.1 100.100.100.200 192.0.0.192 198.18.0.1
224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 fe80::1 fe80::1%eth0 fc00::1
fd00:ec2::254 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
64:ff9b::a00:1 64:ff9b:1::1 fec0::1 2002:7f00:1:: 2002:a9fe:a9fe::
2001:0:4136:e378:8000:63bf:3fff:fdd2 ::ffff:0:a9fe:a9fe ::a9fe:a9fe ::7f00:1
64:ff9b::a9fe:a9fe 64:ff9b::7f00:1 192.88.99.1 5f00::1 3fff::1 2001:db8::1 100::1
2606:2800:220:1:0:5efe:a00:1 2606:2800:220:1:200:5efe:7f00:1
"""


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_address_is_one(address: str) -> None:
    """Anybody may be sent there."""
    assert is_public(address)
    assert not AddressPolicy(API).forbids("films.example", 443, address)
    assert not AddressPolicy(API).forbids_host(address, 443)


@pytest.mark.parametrize("address", PRIVATE.split())
def test_a_private_address_is_refused(address: str) -> None:
    """Loopback, private, link-local, a cloud's, or one of these inside another."""
    assert not is_public(address)
    assert AddressPolicy(API).forbids("films.example", 443, address)
    assert AddressPolicy(API).forbids_host(address, 80)
    assert not AddressPolicy(API, is_unbounded=True).forbids_host(address, 80)


@pytest.mark.parametrize("address", ["", "films.example", "127.1", "1.2.3", "::g"])
def test_what_is_no_address_is_no_public_one(address: str) -> None:
    """What cannot be read is not trusted."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "127.8.8.8", "::1", "[::1]"]
)
def test_this_machine_is_known_by_name(host: str) -> None:
    """Before anything is looked up."""
    assert is_loopback(host)
    assert AddressPolicy(API).forbids_host(host, 80)


@pytest.mark.parametrize("host", ["a.localhost", "64:ff9b::7f00:1", "2002:7f00:1::"])
def test_what_may_leave_this_machine_is_not_it_for_certain(host: str) -> None:
    """No key goes there in the clear; a download does not go there either."""
    assert not is_loopback(host)
    assert AddressPolicy(API).forbids_host(host, 80)


def test_a_name_is_judged_by_where_it_leads() -> None:
    """By itself it says nothing."""
    assert not is_loopback("films.example")
    assert not AddressPolicy(API).forbids_host("films.example", 80)


def test_a_stand_in_on_this_machine_may_name_this_machine_and_no_other() -> None:
    """The emulator's videos lie beside it; the network around is none of its."""
    for host in ("127.0.0.1", "localhost", "::1", "::ffff:127.0.0.1", "127.0.0.2"):
        assert not AddressPolicy(LOCAL).forbids_host(host, 1)
    for host in ("10.0.0.1", "169.254.169.254", "fd00::1"):
        assert AddressPolicy(LOCAL).forbids_host(host, 1)


@pytest.mark.parametrize(
    "host, port, is_refused",
    [
        ("gateway.internal", 8080, False),
        ("GATEWAY.internal.", 8080, False),
        ("gateway.internal", 6379, True),
        ("cache.internal", 8080, True),
    ],
)
def test_the_apis_own_host_and_port_may_be_private(
    host: str, port: int, *, is_refused: bool
) -> None:
    """The user named it; nothing beside it was named."""
    reach = AddressPolicy("http://gateway.internal:8080/kling")
    assert reach.forbids(host, port, "10.0.0.7") == is_refused


def test_a_base_url_without_a_port_has_that_of_its_scheme() -> None:
    """Not any."""
    assert not AddressPolicy("https://10.0.0.7").forbids_host("10.0.0.7", 443)
    assert AddressPolicy("https://10.0.0.7").forbids_host("10.0.0.7", 80)
    assert not AddressPolicy("http://10.0.0.7").forbids_host("10.0.0.7", 80)
