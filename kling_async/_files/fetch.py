"""One GET of a file from a host that nobody vouches for, without the key.

Follows redirects itself, and says nothing to an address that is not allowed. What
counts is the address that is connected to: a name that leads elsewhere when it is
looked up again (DNS rebinding) gains nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast

import httpx

from kling_async._addresses import Reach
from kling_async._errors import DownloadError
from kling_async._http.sender import phase_limits

_MOST_HOPS = 10

_SCHEMES = {"http": 80, "https": 443}

Trace = Callable[[str, Mapping[str, object]], Awaitable[None]]


class _Stream(Protocol):
    """What httpcore tells of a connection that it has just made."""

    def get_extra_info(self, info: str) -> object: ...

    async def aclose(self) -> None: ...


async def get(
    http: httpx.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    *,
    reach: Reach,
    limit: float,
) -> httpx.Response:
    """Ask for a file; give the answer as soon as its headers are there.

    Args:
        http: Brings it.
        url: Where it lies.
        headers: What else to say.
        reach: Which addresses are allowed.
        limit: The longest silence of the server, in seconds.

    Raises:
        DownloadError: The link is none, leads to no end, or where it must not.
    """
    request = _request(http, url, headers, limit)
    for _ in range(_MOST_HOPS + 1):
        response = await _send(http, request, reach)
        if response.next_request is None:
            return response
        await response.aclose()  # unread, however long it is
        request = response.next_request
    raise DownloadError(f"{url} leads on and on: more than {_MOST_HOPS} redirects")


def _request(
    http: httpx.AsyncClient, url: str, headers: Mapping[str, str], limit: float
) -> httpx.Request:
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url!r} is not an http or https URL")
    try:
        return http.build_request(
            "GET", url, headers=headers, timeout=phase_limits(limit)
        )
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise DownloadError(f"{url!r} is no URL: {error}") from error


async def _send(
    http: httpx.AsyncClient, request: httpx.Request, reach: Reach
) -> httpx.Response:
    url = request.url
    if url.scheme not in _SCHEMES:
        raise DownloadError(f"a redirect to {url}, which is not an http or https URL")
    host, port = url.raw_host.decode("ascii"), url.port or _SCHEMES[url.scheme]
    if reach.refuses_host(host, port):
        raise _refused(url, host)

    if not reach.refuses(host, port, "127.0.0.1"):
        # It may be private: no client that is held more strictly takes it over.
        request.headers["connection"] = "close"

    def check(address: str) -> None:
        if reach.refuses(host, port, address):
            raise _refused(url, address)

    request.extensions["trace"] = _trace(host, check)
    return await http.send(request, stream=True, auth=None, follow_redirects=False)


def _trace(host: str, check: Callable[[str], None]) -> Trace:
    """Check each new connection before a byte goes through it.

    One to a proxy is not to the host: where that goes is the proxy's business.
    """
    connecting_to: object = None

    async def trace(event: str, info: Mapping[str, object]) -> None:
        nonlocal connecting_to
        if event == "connection.connect_tcp.started":
            connecting_to = info.get("host")
        elif event == "connection.connect_tcp.complete" and connecting_to == host:
            stream = cast("_Stream", info["return_value"])
            try:
                check(_address_of(stream))
            except DownloadError:
                await stream.aclose()
                raise

    return trace


def _address_of(stream: _Stream) -> str:
    peer = stream.get_extra_info("server_addr")
    return str(cast("tuple[object, ...]", peer)[0]) if isinstance(peer, tuple) else ""


def _refused(url: httpx.URL, address: str) -> DownloadError:
    return DownloadError(
        f"{url} leads to {address or 'an unknown address'}, which is no public "
        "address: nothing was asked of it",
    ).with_hint("allow_private_downloads")
