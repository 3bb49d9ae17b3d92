"""API calls over aiohttp, for `transport="aiohttp"`: its client, used directly.

httpx-aiohttp would escape targets again, silently send a lost GET twice, and report a
lost connection as one that was never made. Here the target is sent as given, each
request once, and aiohttp's own errors are raised.
"""

from __future__ import annotations

import math
import ssl
from functools import lru_cache, partial

import aiohttp
import httpx
from attrs import define, field
from yarl import URL

from kling_async._http.pool import Proxies, useless_proxy
from kling_async._http.sender import (
    JSON,
    Call,
    StreamedResponse,
    no_url,
    phase_limits,
    read_headers,
)
from kling_async._runtime.limiter import Slot

_PROXIES = ("http", "https")

_LONGEST_HEADER, _MOST_HEADERS = 100 * 1024, 10_000


@define(eq=False, repr=False)
class _Lost(Exception):  # noqa: N818 (never leaves this module)
    """Hides a lost connection from aiohttp, which would send a GET again."""

    error: Exception


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Lost(error) from error


@define(eq=False, repr=False)
class AiohttpSender:
    """Sends over one session of aiohttp, made for the running event loop."""

    _session: aiohttp.ClientSession
    _routes: dict[str, URL | None] = field(factory=dict[str, "URL | None"], init=False)
    _proxies: Proxies = field(factory=Proxies, init=False)

    async def send(self, call: Call, slot: Slot) -> StreamedResponse:  # noqa: ARG002 (a pool of its own)
        """Send a request, once, its target as it is."""
        if call.base_url not in self._routes:
            self._routes[call.base_url] = await _route(call, self._proxies)
        try:
            answer = await self._session.request(
                call.method,
                URL(call.url, encoded=True),
                # Not in a local: the frame may end up in a traceback.
                headers={
                    **call.headers,
                    "authorization": f"Bearer {call.key.reveal()}",
                },
                data=call.content,
                timeout=_limits_of(call.limit),
                allow_redirects=False,
                proxy=self._routes[call.base_url],
            )
        except _Lost as lost:
            lost.__cause__ = lost.__context__ = None  # else each is the other's cause
            raise lost.error from None
        return StreamedResponse(
            answer.status,
            read_headers(answer.raw_headers),
            answer.content.iter_any(),
            partial(_close, answer),
        )

    async def aclose(self) -> None:
        """Close the session."""
        await self._session.close()


async def _close(answer: aiohttp.ClientResponse) -> None:
    answer.release()


@lru_cache(maxsize=64)
def _limits_of(limit: float) -> aiohttp.ClientTimeout:
    # The exchange's own time limit ends a silence, which saves a timer for each read.
    return aiohttp.ClientTimeout(
        total=None, sock_connect=phase_limits(limit)[0], ceil_threshold=math.inf
    )


async def _route(call: Call, proxies: Proxies) -> URL | None:
    """Return the proxy for a base URL; httpx has to accept both, too."""
    try:
        proxy = await proxies.find(httpx.Request(call.method, call.base_url).url)
    except (httpx.InvalidURL, ValueError) as error:
        raise no_url(call, error) from error
    if proxy is None:
        return None
    try:
        scheme = httpx.Proxy(proxy).url.scheme
    except (httpx.InvalidURL, ValueError) as error:
        raise useless_proxy(error) from error
    if scheme not in _PROXIES:
        raise useless_proxy(f"aiohttp takes http and https, not {scheme}")
    return URL(proxy)


def open_sender(
    user_agent: str, limits: httpx.Limits, tls: ssl.SSLContext
) -> AiohttpSender:
    """Make a sender for the running event loop; opens no connection yet.

    Args:
        user_agent: The ``User-Agent``.
        limits: How many connections there may be, and how long idle ones are kept.
        tls: How servers are trusted.
    """
    connector = aiohttp.TCPConnector(
        limit=limits.max_connections or 0,
        keepalive_timeout=limits.keepalive_expiry,
        ssl=tls,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        headers={"user-agent": user_agent, **JSON},
        auto_decompress=False,
        # As over httpx, whose bound of 100 kB is on all headers together.
        max_line_size=_LONGEST_HEADER,
        max_field_size=_LONGEST_HEADER,
        max_headers=_MOST_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(_send_once,),
    )
    return AiohttpSender(session)
