"""Whoever asks and wherever a server sends us: any host, URL, origin and answer.

Addresses are hidden in each way that leads to them, hosts are nearly ours, answers
are bytes with the key in them.
"""

from __future__ import annotations

import ipaddress
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import anyio
import httpx
import pytest
from clients import KEY, ONCE
from everything_told import everything_told
from hostile import PIECES, SECRET, V6, disguises
from hypothesis import assume, example, given, settings, strategies as st
from raw_server import Peer, RawRequest, RawServer

from kling_async import AsyncKling, ConfigurationError, DownloadError, KlingError, Video
from kling_async._checks import AddressPolicy, is_loopback, is_public
from kling_async._config import find_base_url
from kling_async.durable._database import Database
from kling_async.emulator import Emulator
from kling_async.emulator._server import is_own

VENDOR = "https://api.aimlapi.com"
# Of this machine, of a network, of a cloud, of nobody (RFC 6890).
NETWORKS = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12
    192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 224.0.0.0/4
    240.0.0.0/4 168.63.129.16/32
""".split()
private = st.sampled_from(NETWORKS).flatmap(
    lambda it: st.ip_addresses(v=4, network=ipaddress.IPv4Network(it))
)
# A resolver or a URL's parser may read more into a host than an address has in it.
odd_hosts = st.sampled_from(["localhost", "127.0.0.1", "[::1]", *PIECES]) | st.text(
    max_size=8
)
urls = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP:", "//", "file:///", ""]),
    st.sampled_from(["", "u:p@", "\\", "\t"]),
    odd_hosts | private.map(str),
    st.sampled_from(["", ":80", ":0", "/v.mp4", "#@films.example", "?@films.example"]),
)
SHORT = settings(deadline=None, max_examples=50)


@given(inner=private)
def test_a_private_address_is_private_in_every_disguise(
    inner: ipaddress.IPv4Address,
) -> None:
    """Whatever a router would make of it."""
    for address in disguises(inner):
        assert not is_public(address), address
        assert AddressPolicy(VENDOR).forbids("films.example", 443, address)
        assert AddressPolicy(VENDOR).forbids_host(f"[{address}]", 443)


@given(address=st.ip_addresses(v=6))
def test_only_what_is_given_out_is_public(address: V6) -> None:
    """And an address with a zone is of one network."""
    inner = address.ipv4_mapped
    if address not in ipaddress.IPv6Network("2000::/3") and inner is None:
        is_nat64 = address in ipaddress.IPv6Network("64:ff9b::/96")
        assert is_nat64 or not is_public(str(address))
    assert not is_public(f"{address}%eth0") or address.is_global


@given(host=odd_hosts)
def test_a_name_is_never_a_public_address(host: str) -> None:
    """It is judged by where it leads; only one name is this machine's own."""
    assume(not host.replace(".", "").isdecimal() and ":" not in host)
    assert not is_public(host)
    if is_loopback(host):
        assert host.strip("[]").rstrip(".").lower() == "localhost"


def names_in(folder: str) -> list[str]:
    """List a folder, hidden files too."""
    return [it.name for it in Path(folder).iterdir()]


@SHORT
@given(url=urls, is_redirect=st.booleans())
@example(url="http://127.0.0.1/v.mp4", is_redirect=True)
@example(url="http://[::ffff:7f00:1]/v.mp4", is_redirect=False)
@example(url="http://films.example\\@127.0.0.1/v.mp4", is_redirect=True)
def test_no_link_and_no_redirect_leads_behind_the_wall(
    url: str, *, is_redirect: bool
) -> None:
    """Any text in a URL's place: an error of ours, or a request to a public host."""
    asked: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if is_redirect and len(asked) == 1:
            to = url.encode("utf-8", "replace")
            return httpx.Response(302, headers=[(b"location", to)])
        return httpx.Response(404)

    async def fetch() -> None:
        link = "https://films.example/v.mp4" if is_redirect else url
        transport = httpx.MockTransport(serve)
        async with (
            httpx.AsyncClient(transport=transport) as http,
            AsyncKling(KEY, base_url=VENDOR, retry=ONCE, http_client=http) as kling,
        ):
            with tempfile.TemporaryDirectory() as folder:
                with pytest.raises(DownloadError):
                    await kling.download(Video(url=link), Path(folder) / "v.mp4")
                assert names_in(folder) == []

    anyio.run(fetch)
    for host in asked:
        assert not is_loopback(host)
        assert not AddressPolicy(VENDOR).forbids_host(host, 80)


near_hosts = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "evil.", "x@", "[", "127.0.0.1."]) | st.text(max_size=4),
    st.sampled_from(["127.0.0.1", "localhost", "[::1]", "evil.example"]),
    st.sampled_from(["", ".evil.example", ":80:", "#", "@evil", "]", "\u3002"])
    | st.text(max_size=4),
)
OWN_HOSTS = {"localhost", "127.0.0.1", "[::1]", "::1"}


@given(host=near_hosts)
def test_an_emulator_answers_to_no_name_but_its_own(host: str) -> None:
    """Another site's page could have one that leads here (DNS rebinding)."""
    if is_own(host, frozenset({"127.0.0.1"})):
        name, colon, port = host.rpartition(":")
        name = name if colon and port.isdecimal() else host
        inner = name.strip("[]").rstrip(".").lower()
        assert inner in OWN_HOSTS or ipaddress.ip_address(inner).is_loopback


@SHORT
@given(origin=near_hosts.map("http://{}".format) | st.text())
@example("http://[")
@example("null")
def test_a_page_elsewhere_drives_no_emulator(origin: str) -> None:
    """Whatever it says where it is from."""
    content = origin.encode("utf-8", "surrogatepass")
    assume(origin != "http://localhost" and not {*b"\r\n\0"} & {*content})
    emulator = Emulator()

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(emulator.app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost"
        ) as web:
            path, body = "/_emulator/credits", {"credits": 1}
            return await web.post(path, headers=[(b"origin", content)], json=body)

    before = emulator.balance
    assert anyio.run(ask).status_code == 403
    assert emulator.balance == before


heads = st.sampled_from(
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 401 No\r\n", b"HTTP/1.1 503 No\r\n"]
)
names = st.sampled_from(
    [b"content-length", b"transfer-encoding", b"content-encoding", b"location", b"x"]
)
values = st.sampled_from([b"5", b"chunked", b"gzip", KEY.encode()]) | st.binary(
    max_size=6
)
lines = st.builds(lambda name, value: name + b": " + value + b"\r\n", names, values)
bodies = st.sampled_from(
    [f'{{"id": "g", "status": "{KEY}"}}'.encode(), f"5\r\n{KEY}\r\n".encode()]
) | st.binary(max_size=20).map(lambda it: it + KEY.encode() + it)
broken = st.builds(
    lambda head, lines, body: head + b"".join(lines) + b"\r\n" + body,
    heads | st.binary(max_size=20),
    st.lists(lines, max_size=3),
    bodies,
)


@pytest.mark.parametrize("transport", ["httpx", "httpx2", "aiohttp"])
@SHORT
@given(content=broken)
async def test_no_bytes_make_an_error_show_the_key(
    transport: Literal["httpx", "httpx2", "aiohttp"], content: bytes
) -> None:
    """Half of HTTP, or none, with the key anywhere in it; no cause, no local."""

    async def script(_: RawRequest, peer: Peer) -> None:
        await peer.send(content)
        peer.hang_up()

    async with (
        RawServer(script) as server,
        AsyncKling(
            KEY, base_url=server.base_url, retry=ONCE, transport=transport
        ) as kling,
    ):
        try:
            seen = await kling.get("g")
        except KlingError as error:
            told = everything_told(error, but={"content", "server"})
        else:
            told = f"{seen!r} {seen.raw}"
    assert KEY not in told


parts = st.text(st.characters(codec="ascii", exclude_characters="/?#@"), max_size=6)
FORMS = [
    "postgresql://{0}:{1}{2}@h/d",
    "postgresql://{0}:{2}{1}@h:1/d",
    "postgresql://u@h/d?{0}=x&password={1}{2}",
    "postgresql://u@h/d?sslpassword={1}&{0}={2}",
    "postgres://{0}:{1}%40{2}/d",
    "mysql://{0}:{1}@h/{2}",
    "{0}:{1}@h/{2}",
    "https://{0}:{1}@h/{2}",
    "https://h/{0}?{2}={1}",
    "https://h/#{0}{1}{2}",
]


@given(form=st.sampled_from(FORMS), before=parts, after=parts, is_quoted=st.booleans())
def test_no_url_shows_its_password(
    form: str, before: str, after: str, *, is_quoted: bool
) -> None:
    """Of a database or of the API, whatever stands around it."""
    if is_quoted:
        before, after = quote(before), quote(after)
    url = form.format(before, SECRET, after)
    for read in (Database.at, find_base_url):
        try:
            found = read(url)
        except ConfigurationError as error:
            told = f"{error} {error!r}"
        else:
            told = f"{found} {found!r}" if isinstance(found, Database) else ""
        assert SECRET not in told, url
