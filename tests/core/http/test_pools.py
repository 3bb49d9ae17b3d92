"""Small pools side by side: which one a request goes to, and through which proxy."""

from __future__ import annotations

import asyncio
import gzip

import httpx
import pytest
from attrs import define, field
from clients import ID, KEY, ONCE, QUEUED, client
from raw_server import Peer, RawRequest, RawServer, answer, answering

from kling_async import ConfigurationError, ConnectionFailedError
from kling_async._http.pool import Routes, Shards

SERVED = answering(answer(QUEUED))
REQUEST = httpx.Request("GET", "http://kling.test/")


@define(eq=False)
class Counting(httpx.AsyncBaseTransport):
    """A pool that notes how many of its connections are busy, at most."""

    size: int
    busy: int = 0
    most: int = 0
    is_closed: bool = False
    fails: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer at once, and stay busy until the answer is closed."""
        await request.aread()
        if self.fails:
            raise httpx.ConnectError("refused")
        self.busy += 1
        self.most = max(self.most, self.busy)
        return httpx.Response(200, stream=Leaving(self))

    async def aclose(self) -> None:
        """Note it."""
        self.is_closed = True


@define(eq=False)
class Leaving(httpx.AsyncByteStream):
    """An empty body whose end frees a connection."""

    pool: Counting

    async def aclose(self) -> None:
        """Free it."""
        self.pool.busy -= 1


@define(eq=False)
class Made:
    """The pools that shards have made."""

    pools: list[Counting] = field(factory=list[Counting])

    def new(self, size: int, proxy: httpx.Proxy | None) -> Counting:
        """Make one."""
        assert proxy is None
        self.pools.append(Counting(size))
        return self.pools[-1]


@pytest.mark.parametrize("most", [1, 3, 4, 5, 10, 100])
async def test_no_pool_is_ever_asked_for_more_than_it_holds(most: int) -> None:
    """All connections are used before any request would have to wait for one."""
    made = Made()
    shards = Shards(most, made.new)
    assert sum(pool.size for pool in made.pools) == most
    for _ in range(3):
        answers = [await shards.handle_async_request(REQUEST) for _ in range(most)]
        assert all(pool.busy == pool.size for pool in made.pools)
        for it in answers:
            await it.aclose()
            await it.aclose()
        assert all(pool.busy == 0 for pool in made.pools)
    assert all(pool.most == pool.size for pool in made.pools)
    await shards.aclose()
    assert all(pool.is_closed for pool in made.pools)


async def test_a_failed_request_leaves_its_place_free() -> None:
    """However often a connection is refused, the pool counts as free."""
    made = Made()
    shards = Shards(8, made.new)
    for pool in made.pools:
        pool.fails = True
    for _ in range(20):
        with pytest.raises(httpx.ConnectError):
            await shards.handle_async_request(REQUEST)
    for pool in made.pools:
        pool.fails = False
    for _ in range(8):
        await shards.handle_async_request(REQUEST)
    assert all(pool.most == pool.size for pool in made.pools)


async def test_requests_one_after_the_other_share_one_connection() -> None:
    """Many pools do not mean many connections where one is enough."""
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


@pytest.mark.parametrize("given", ["ftp://proxy.test:21", "http://[v1.x]"])
async def test_a_proxy_of_no_use_is_a_wrong_configuration(
    no_proxies: pytest.MonkeyPatch, given: str
) -> None:
    """Told before anything is sent, by the variables' names."""
    no_proxies.setenv("HTTP_PROXY", given)
    kling = client("http://kling.test", retry=ONCE, allow_plain_http=True)
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
    used = list[httpx.Proxy | None]()

    def open_route(proxy: httpx.Proxy | None) -> httpx.AsyncBaseTransport:
        used.append(proxy)
        return httpx.MockTransport(lambda _: httpx.Response(200))

    no_proxies.setenv("HTTP_PROXY", "http://proxy.test")
    no_proxies.setenv("NO_PROXY", no_proxy)
    routes = Routes(open_route)
    for _ in range(2):
        await routes.handle_async_request(httpx.Request("GET", url))
    assert [proxy is None for proxy in used] == [is_direct]


async def test_a_hundred_exchanges_are_in_flight_at_once() -> None:
    """Small pools together bring as many as one large one."""
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
