"""Where our own API calls go: several small pools, behind the environment's proxy.

httpcore's pool walks all its connections at each request, so one of 100 is slow;
small ones side by side are not. Sends what it is given, and knows no API.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx
from attrs import define, field

from kling_async._addresses import is_loopback

# Measured, see docs/benchmarks.md: fewer gain nothing, more cost time.
_POOL_SIZE = 4

NewPool = Callable[[int, httpx.Proxy | None], httpx.AsyncBaseTransport]


@define(eq=False)
class _Pool:
    """One small pool, and how many of its connections are free."""

    transport: httpx.AsyncBaseTransport
    free: int


@define(eq=False)
class _Body(httpx.AsyncByteStream):
    """The body of an answer, whose connection is busy until it is closed."""

    _stream: httpx.AsyncByteStream
    _pool: _Pool
    _is_open: bool = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._pool.free += self._is_open
            self._is_open = False


class Shards(httpx.AsyncBaseTransport):
    """Small pools side by side; a request goes to the one that has most to spare.

    Args:
        max_connections: How many connections they have together.
        new_pool: Makes one of so many connections, through a proxy or none.
        proxy: Through which.
    """

    def __init__(
        self, max_connections: int, new_pool: NewPool, proxy: httpx.Proxy | None = None
    ) -> None:
        count = -(-max_connections // _POOL_SIZE)
        least, more = divmod(max_connections, count)
        sizes = [least + (number < more) for number in range(count)]
        self._pools = [_Pool(new_pool(size, proxy), size) for size in sizes]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its connection is free when the response is closed."""
        pool = max(self._pools, key=_spare)
        pool.free -= 1
        try:
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            pool.free += 1
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 (narrows)
        response.stream = _Body(response.stream, pool)
        return response

    async def aclose(self) -> None:
        """Close all of them."""
        for pool in self._pools:
            await pool.transport.aclose()


def _spare(pool: _Pool) -> int:
    return pool.free


@define(eq=False)
class Routes(httpx.AsyncBaseTransport):
    """Sends each request the way that the environment names for its host.

    Read are the variables that `urllib.request` reads, once for each host:
    ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.
    """

    _open: Callable[[httpx.Proxy | None], httpx.AsyncBaseTransport]
    _by_proxy: dict[str | None, httpx.AsyncBaseTransport] = field(
        factory=dict[str | None, httpx.AsyncBaseTransport]
    )
    _by_host: dict[tuple[str, bytes, int | None], httpx.AsyncBaseTransport] = field(
        factory=dict[tuple[str, bytes, int | None], httpx.AsyncBaseTransport]
    )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        url = request.url
        host = url.scheme, url.raw_host, url.port
        transport = self._by_host.get(host)
        if transport is None:
            transport = self._by_host[host] = self._route(url)
        return await transport.handle_async_request(request)

    def _route(self, url: httpx.URL) -> httpx.AsyncBaseTransport:
        proxy = proxy_for(url)
        if proxy not in self._by_proxy:
            self._by_proxy[proxy] = self._open(httpx.Proxy(proxy) if proxy else None)
        return self._by_proxy[proxy]

    async def aclose(self) -> None:
        """Close all ways."""
        with anyio.CancelScope(shield=True):
            for transport in self._by_proxy.values():
                await transport.aclose()


def proxy_for(url: httpx.URL) -> str | None:
    """Give the proxy that the environment names for a URL, if any."""
    if url.scheme == "http" and is_loopback(url.host):
        return None  # what is said to this machine in the clear does not leave it
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    names = url.netloc.decode("ascii"), url.host  # with its port, and without
    if not proxy or any(map(proxy_bypass, names)):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
