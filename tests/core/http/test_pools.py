"""The connections of the slots: when they are made anew, and through which proxy."""

from __future__ import annotations

import asyncio
import gzip
import threading
import urllib.request

import anyio
import httpx
import pytest
from clients import ID, KEY, ONCE, QUEUED, client
from raw_server import Peer, RawRequest, RawServer, answer, answering

from kling_async import ConfigurationError, ConnectionFailedError
from kling_async._http.pool import Proxies, ProxyRoutingTransport
from kling_async._http.session import Library

SERVED = answering(answer(QUEUED))


async def test_requests_one_after_the_other_share_one_connection() -> None:
    """A hundred slots do not mean many connections where one is enough."""
    async with RawServer(SERVED) as server, client(server.base_url) as kling:
        for _ in range(20):
            await kling.get(ID)
        assert server.accepted == 1


async def test_a_compressed_answer_is_read() -> None:
    """What the headers ask for is understood."""
    body = httpx.Response(200, json=QUEUED).content
    packed = gzip.compress(body)
    script = answering(answer(packed, content_encoding="gzip"))
    async with RawServer(script) as server, client(server.base_url) as kling:
        assert (await kling.get(ID)).id == ID
    assert "gzip" in server.requests[0].headers["accept-encoding"]


# --- proxies


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Begin with an environment that names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_the_environments_proxy_is_used(
    no_proxies: pytest.MonkeyPatch, variable: str
) -> None:
    """A plain request goes to it whole, with the URL in its first line."""
    async with RawServer(SERVED) as proxy:
        no_proxies.setenv(variable, proxy.base_url.removeprefix("http://"))
        async with client("http://kling.test", allow_plain_http=True) as kling:
            assert (await kling.get(ID)).id == ID
    (request,) = proxy.requests
    assert request.target.startswith("http://kling.test/v2/video/generations?")
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("listed", ["127.0.0.1", "*", "kling.test, 127.0.0.1"])
async def test_a_host_of_no_proxy_is_reached_directly(
    no_proxies: pytest.MonkeyPatch, listed: str
) -> None:
    """Whatever else goes through the proxy."""
    async with RawServer(SERVED) as proxy, RawServer(SERVED) as server:
        no_proxies.setenv("HTTP_PROXY", proxy.base_url)
        no_proxies.setenv("NO_PROXY", listed)
        async with client(server.base_url) as kling:
            await kling.get(ID)
        assert (len(server.requests), len(proxy.requests)) == (1, 0)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_what_is_for_this_machine_goes_through_no_proxy(
    no_proxies: pytest.MonkeyPatch, variable: str
) -> None:
    """In the clear it would show the key to another one."""
    async with RawServer(SERVED) as proxy, RawServer(SERVED) as server:
        no_proxies.setenv(variable, proxy.base_url)
        async with client(server.base_url) as kling:
            await kling.get(ID)
        assert (len(server.requests), proxy.accepted) == (1, 0)


async def test_an_https_request_asks_the_proxy_for_a_tunnel(
    no_proxies: pytest.MonkeyPatch,
) -> None:
    """The key is not shown to a proxy that cannot have it."""
    async with RawServer(answering(answer(b"", "502 Bad Gateway"))) as proxy:
        no_proxies.setenv("HTTPS_PROXY", proxy.base_url)
        async with client("https://kling.test", retry=ONCE) as kling:
            with pytest.raises(ConnectionFailedError, match="502") as caught:
                await kling.get(ID)
    assert not caught.value.request_sent
    (request,) = proxy.requests
    assert (request.method, request.target) == ("CONNECT", "kling.test:443")
    assert KEY not in repr(request)


@pytest.mark.parametrize(
    "library, given",
    [
        ("httpx", "ftp://proxy.test:21"),
        ("httpx", "http://[v1.x]"),
        ("httpx2", "ftp://proxy.test:21"),
        ("httpx2", "http://[v1.x]"),
        ("aiohttp", "ftp://proxy.test:21"),
        ("aiohttp", "http://[v1.x]"),
        ("aiohttp", "socks5://proxy.test:1080"),
    ],
)
async def test_a_proxy_of_no_use_is_a_wrong_configuration(
    no_proxies: pytest.MonkeyPatch, library: Library, given: str
) -> None:
    """Told before anything is sent, by the variables' names."""
    no_proxies.setenv("HTTP_PROXY", given)
    async with client(
        "http://kling.test", retry=ONCE, allow_plain_http=True, transport=library
    ) as kling:
        with pytest.raises(ConfigurationError, match="HTTP_PROXY"):
            await kling.get(ID)


@pytest.mark.parametrize(
    "no_proxy, url, is_direct",
    [
        ("::1", "http://[::1]:8000/", True),
        ("kling.test:8000", "http://kling.test:8000/", True),
        ("kling.test:8000", "http://kling.test/", False),
        (".kling.test", "http://api.kling.test/", True),
        ("kling.test", "http://notkling.test/", False),
    ],
)
async def test_no_proxy_names_hosts_as_elsewhere(
    no_proxies: pytest.MonkeyPatch, no_proxy: str, url: str, *, is_direct: bool
) -> None:
    """Addresses, ports and domains, by the rules of the standard library."""
    used = list[str | None]()

    def open_route(proxy: str | None) -> httpx.AsyncBaseTransport:
        used.append(proxy)
        return httpx.MockTransport(lambda _: httpx.Response(200))

    no_proxies.setenv("HTTP_PROXY", "http://proxy.test")
    no_proxies.setenv("NO_PROXY", no_proxy)
    routes = ProxyRoutingTransport(open_route)
    for _ in range(2):
        await routes.handle_async_request(httpx.Request("GET", url))
    assert [proxy is None for proxy in used] == [is_direct]


async def test_a_hundred_exchanges_are_in_flight_at_once() -> None:
    """There are as many slots as connections."""
    all_here = asyncio.Event()

    async def script(_: RawRequest, peer: Peer) -> None:
        if len(server.requests) == 100:
            all_here.set()
        await all_here.wait()
        await peer.send(answer(QUEUED))

    async with RawServer(script) as server, client(server.base_url) as kling:
        async with asyncio.timeout(20):
            await asyncio.gather(*(kling.get(ID) for _ in range(100)))
        assert server.accepted == 100


async def test_a_connection_that_the_server_closed_is_made_anew() -> None:
    """Nothing is sent into one that is known to be closed."""
    async with RawServer(answering(answer(QUEUED, connection="close"))) as server:
        async with client(server.base_url, retry=ONCE) as kling:
            for _ in range(3):
                await kling.get(ID)
        assert server.accepted == 3


async def test_a_cancelled_exchange_costs_one_connection() -> None:
    """Whenever it is torn, the next has a sound one (encode/httpcore issue 1093)."""
    async with RawServer(SERVED) as server:
        async with client(server.base_url, retry=ONCE, max_connections=2) as kling:
            for steps in range(40):
                torn = asyncio.create_task(kling.get(ID))
                for _ in range(steps):
                    await asyncio.sleep(0)
                torn.cancel()
                await asyncio.wait([torn])
                assert (await kling.get(ID)).id == ID
            async with asyncio.timeout(60):
                await asyncio.gather(*(kling.get(ID) for _ in range(10)))
        assert server.accepted <= 80


async def test_a_slot_that_asks_another_server_makes_a_connection_to_it() -> None:
    """Clients that share connections may have base URLs of their own."""
    async with RawServer(SERVED) as here, RawServer(SERVED) as there:
        async with client(here.base_url, max_connections=1) as kling:
            other = kling.with_options(base_url=there.base_url)
            for _ in range(2):
                await kling.get(ID)
                await other.get(ID)
        assert (len(here.requests), len(there.requests)) == (2, 2)


@pytest.mark.parametrize("is_direct", [True, False])
async def test_what_the_system_says_of_a_host_is_asked_once_beside_the_loop(
    monkeypatch: pytest.MonkeyPatch, *, is_direct: bool
) -> None:
    """MacOS and Windows look names up for it, and a DNS may take its time."""
    asked, may_answer = list[str](), threading.Event()

    def look_up(host: str) -> bool:
        asked.append(host)
        assert may_answer.wait(300)
        return is_direct

    async def answer_the_lookup() -> None:
        while not asked:
            await anyio.lowlevel.checkpoint()
        may_answer.set()  # by the loop, which a look-up on it would hold up

    settings = {"https": "http://10.0.0.1:3128"}
    monkeypatch.setattr(urllib.request, "getproxies", lambda: settings)
    monkeypatch.setattr(urllib.request, "getproxies_environment", dict[str, str])
    monkeypatch.setattr(urllib.request, "proxy_bypass", look_up)
    proxies, found = Proxies(), list[str | None]()

    async def find() -> None:
        found.append(await proxies.find(httpx.URL("https://kling.test:8443/v2")))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(find)
        tasks.start_soon(answer_the_lookup)
    assert found == [None if is_direct else settings["https"]] * 20
    assert asked == ["kling.test"]
