"""Connections of our API calls: each slot has its own, with or without a proxy.

They use the transport of httpx or httpx2, with its TLS, proxies, time-outs and
errors, but without its pool: that walks all its connections at each request, and
a request cancelled there can leave it unusable (encode/httpcore issue 1093). Knows no
API.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast
from urllib import request as environment

import anyio
import httpx
from anyio import to_thread
from attrs import define, field, frozen

from kling_async._checks import is_loopback
from kling_async._errors import ConfigurationError
from kling_async._http.environment import is_bypassed
from kling_async._http.library import HTTPLibrary, errors_named
from kling_async._runtime.limiter import Slot
from kling_async._runtime.loop import new_lock

if TYPE_CHECKING:
    import httpcore

# The name under which a request's extensions carry its slot.
SLOT = "kling_async.slot"

# Those of httpcore: of a connection, through a proxy or not, and of what it speaks.
_LOCKS = ("_connect_lock", "_request_lock", "_state_lock")


@frozen(eq=False, repr=False)
class Line:
    """An open connection, and where it leads."""

    connection: httpcore.AsyncConnectionInterface
    pool: httpcore.AsyncConnectionPool
    origin: httpcore.Origin

    def leads_to(
        self, pool: httpcore.AsyncConnectionPool, origin: httpcore.Origin
    ) -> bool:
        """Whether a request may go over it."""
        return (
            self.pool is pool
            and self.origin == origin
            and self.connection.is_idle()  # not so if its last exchange was torn
            and not self.connection.has_expired()
        )


async def close_line(line: object) -> None:
    """Close the connection of a slot, if it has one."""
    if isinstance(line, Line):
        with anyio.CancelScope(shield=True):
            await line.connection.aclose()


@frozen(eq=False, repr=False)
class _Lines:
    """Replaces a pool: each request goes over the connection of its slot.

    Attributes:
        pool: Knows how to make one: through which proxy, with which TLS.
    """

    pool: httpcore.AsyncConnectionPool

    async def handle_async_request(
        self, request: httpcore.Request
    ) -> httpcore.Response:
        """Send a request; its connection is made anew if it is closed or too old."""
        slot = request.extensions[SLOT]
        assert isinstance(slot, Slot)  # noqa: S101 (narrows)
        line = slot.claim_connection()
        origin = request.url.origin
        is_known = isinstance(line, Line) and line.leads_to(self.pool, origin)
        if not isinstance(line, Line) or not is_known:
            slot.connection = None
            await close_line(line)
            connection = self.pool.create_connection(origin)
            line = slot.connection = Line(connection, self.pool, origin)
        try:
            response = await line.connection.handle_async_request(request)
        except BaseException:
            slot.connection = None
            await close_line(line)
            raise
        if not is_known:
            _remove_locks(line.connection)
        return response

    async def aclose(self) -> None:
        """Do nothing: the slots have the connections."""


def _remove_locks(connection: object) -> None:
    """Remove the locks of a connection, which the one user that a slot has never needs.

    Each costs a round of the event loop, three in an exchange.
    """
    while connection is not None:
        for name in _LOCKS:
            if hasattr(connection, name):
                setattr(connection, name, nullcontext())
        connection = getattr(connection, "_connection", None)


def open_transport(
    library: HTTPLibrary,
    tls: ssl.SSLContext,
    keepalive_expiry: float,
    proxy: str | None,
) -> httpx.AsyncBaseTransport:
    """Make a library's own transport, whose requests bring the slot they go out on."""
    limits = httpx.Limits(keepalive_expiry=keepalive_expiry)
    transport = library.AsyncHTTPTransport(verify=tls, limits=limits, proxy=proxy)
    lines = cast("httpcore.AsyncConnectionPool", _Lines(transport._pool))  # noqa: SLF001 (the point)  # pyright: ignore[reportPrivateUsage]
    transport._pool = lines  # noqa: SLF001 (likewise)  # pyright: ignore[reportPrivateUsage]
    return transport


@define(eq=False, repr=False)
class Proxies:
    """Finds the proxy for each host, once for all requests.

    It reads what `urllib.request` reads: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``
    and ``NO_PROXY``; where none of them is set, the settings of macOS and Windows.
    """

    _found: dict[tuple[str, bytes], str | None] = field(
        factory=dict[tuple[str, bytes], str | None]
    )
    _lock: anyio.Lock = field(factory=new_lock)

    async def find(self, url: httpx.URL) -> str | None:
        """Give the proxy to a URL's host, if any."""
        site = url.scheme, url.netloc
        if site not in self._found:
            async with self._lock:
                if site not in self._found:
                    self._found[site] = await _proxy_for(url)
        return self._found[site]


async def _proxy_for(url: httpx.URL) -> str | None:
    if url.scheme == "http" and is_loopback(url.host):
        return None  # plain HTTP to this machine must not leave it
    proxies = environment.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or await _is_direct(url, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


async def _is_direct(url: httpx.URL, no_proxy: str) -> bool:
    """Whether a host is an exception; macOS and Windows may ask the DNS for that."""
    if environment.getproxies_environment():
        return is_bypassed(url, no_proxy)
    bypass = environment.proxy_bypass
    return bool(await to_thread.run_sync(bypass, url.host, abandon_on_cancel=True))


def useless_proxy(why: object) -> ConfigurationError:
    """Make the error about a proxy that a library does not take."""
    return ConfigurationError(
        "the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) "
        f"cannot be used: {why}",
    )


@define(eq=False, repr=False)
class ProxyRoutingTransport(httpx.AsyncBaseTransport):
    """Sends each request through the proxy that the environment names for its host."""

    _open: Callable[[str | None], httpx.AsyncBaseTransport]
    _by_proxy: dict[str | None, httpx.AsyncBaseTransport] = field(
        factory=dict[str | None, httpx.AsyncBaseTransport]
    )
    _proxies: Proxies = field(factory=Proxies)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        proxy = await self._proxies.find(request.url)
        if proxy not in self._by_proxy:
            self._by_proxy[proxy] = self._open_way(proxy)
        return await self._by_proxy[proxy].handle_async_request(request)

    def _open_way(self, proxy: str | None) -> httpx.AsyncBaseTransport:
        try:
            return self._open(proxy)
        except errors_named("InvalidURL", ImportError, ValueError) as error:
            raise useless_proxy(error) from error

    async def aclose(self) -> None:
        """Close all ways."""
        with anyio.CancelScope(shield=True):
            for transport in self._by_proxy.values():
                await transport.aclose()
