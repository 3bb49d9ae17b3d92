"""One GET of a file from an untrusted host, without the key.

Follows redirects itself, and sends nothing to an address that is not allowed. It checks
the address of the connection itself, so a name that resolves differently the second
time (DNS rebinding) does not get through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast

import httpx

from kling_async._checks import PORTS, AddressPolicy, is_public
from kling_async._errors import DownloadError
from kling_async._http.library import errors_named
from kling_async._http.pool import ProxyRoutingTransport
from kling_async._http.sender import phase_limits

_MOST_HOPS = 10

_SAID_TO_ALL = frozenset({"host", "user-agent", "accept", "content-length"})

_LIBRARIES = frozenset({"httpx", "httpx2", "kling_async"})

_TRANSPARENT = frozenset(
    {"AsyncHTTPTransport", "MockTransport", "ASGITransport", "ProxyRoutingTransport"}
)

# Idle connections of a user's client to one host: each is tried once, and closed.
_MOST_KEPT = 100

Trace = Callable[[str, Mapping[str, object]], Awaitable[None]]


class _KeptConnectionError(Exception):
    """A connection was reused, so its address was not checked."""


class _ConnectionInfo(Protocol):
    """What httpcore says about a new connection."""

    def get_extra_info(self, info: str) -> object: ...

    async def aclose(self) -> None: ...


async def get(
    http: httpx.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    *,
    reach: AddressPolicy,
    limit: float,
) -> httpx.Response:
    """Request a file; return the response as soon as its headers are there.

    Args:
        http: The HTTP client.
        url: The link.
        headers: The headers to send.
        reach: Which addresses are allowed.
        limit: The longest silence of the server, in seconds.

    Raises:
        DownloadError: The link is not a URL, has too many redirects, or leads to an
            address that is not allowed.
    """
    at = url
    for _ in range(_MOST_HOPS + 1):
        request = build_request(http, "GET", at, headers, limit)
        response = await send(http, request, reach)
        if not response.has_redirect_location:
            return response
        await response.aclose()  # unread, however long it is
        at = _resolve_redirect(response)
    raise DownloadError(f"{url} has more than {_MOST_HOPS} redirects")


def _resolve_redirect(response: httpx.Response) -> str:
    to = response.headers["location"]
    try:
        return str(response.url.join(to))
    except errors_named("InvalidURL", ValueError) as error:
        raise DownloadError(
            f"a redirect to {to!r}, which is not a URL: {error}"
        ) from error


def build_request(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    headers: Mapping[str, str],
    limit: float,
    content: bytes | None = None,
) -> httpx.Request:
    """Make a request with the given headers, and none that a client adds.

    Raises:
        DownloadError: The URL is invalid.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url!r} is not an http or https URL")
    try:
        request = http.build_request(
            method,
            url,
            headers=headers,
            content=content,
            timeout=phase_limits(limit),
        )
        request.url = type(request.url)(url)  # without parameters of a user's client
    except errors_named("InvalidURL", TypeError, ValueError) as error:
        raise DownloadError(f"{url!r} is not a URL: {error}") from error
    # Default headers of a client are meant for the API: a store gets neither cookies
    # nor credentials, not even those of a user's client.
    for name in list(request.headers):
        if name not in headers and name not in _SAID_TO_ALL:
            del request.headers[name]
    return request


async def send(
    http: httpx.AsyncClient, request: httpx.Request, reach: AddressPolicy
) -> httpx.Response:
    """Send a request without following redirects.

    Raises:
        DownloadError: It leads to an address that is not allowed.
    """
    url = request.url
    host, port = url.raw_host.decode("ascii"), url.port or PORTS[url.scheme]
    if reach.forbids_host(host, port):
        raise _forbidden_address(url, host)

    may_be_private = not reach.forbids(host, port, "127.0.0.1")
    is_judged = not may_be_private and not is_public(host.strip("[]"))
    transport = _transport(http, url)
    # A user's client may have connections to any address.
    must_connect = is_judged and transport is not ProxyRoutingTransport
    if may_be_private:
        # So that no stricter client reuses this connection.
        request.headers["connection"] = "close"
    elif is_judged and not _tells_addresses(transport):
        raise _unseen(url)

    def check(address: str) -> None:
        if reach.forbids(host, port, address):
            raise _forbidden_address(url, address)

    for _ in range(_MOST_KEPT):
        request.extensions["trace"] = _trace(host, check, must_connect=must_connect)
        try:
            return await http.send(
                request, stream=True, auth=None, follow_redirects=False
            )
        except _KeptConnectionError:
            continue
    raise _unseen(url)


def _tells_addresses(transport: type) -> bool:
    """Whether it shows where it connects to, as httpcore does, or does not connect."""
    library = transport.__module__.partition(".")[0]
    return library in _LIBRARIES and transport.__name__ in _TRANSPARENT


def _transport(http: httpx.AsyncClient, url: httpx.URL) -> type:
    find = getattr(http, "_transport_for_url", None)
    return type(find(url)) if find else type(None)


def _trace(host: str, check: Callable[[str], None], *, must_connect: bool) -> Trace:
    """Check each new connection before a byte is sent.

    A connection to a proxy is not checked: the proxy decides where it leads.

    Args:
        host: Where the request goes.
        check: Raises for an address that is not allowed.
        must_connect: Whether the request needs a new connection.
    """
    connecting_to: object = None

    async def trace(event: str, info: Mapping[str, object]) -> None:
        nonlocal connecting_to, must_connect
        if ".connect_" in event:
            must_connect = False
        elif must_connect and event.endswith("send_request_headers.started"):
            raise _KeptConnectionError  # this closes it
        if event == "connection.connect_tcp.started":
            connecting_to = info.get("host")
        elif event == "connection.connect_tcp.complete" and connecting_to == host:
            stream = cast("_ConnectionInfo", info["return_value"])
            try:
                check(_address_of(stream))
            except DownloadError:
                await stream.aclose()
                raise

    return trace


def _address_of(stream: _ConnectionInfo) -> str:
    peer = stream.get_extra_info("server_addr")
    return str(cast("tuple[object, ...]", peer)[0]) if isinstance(peer, tuple) else ""


def _unseen(url: httpx.URL) -> DownloadError:
    return DownloadError(
        f"{url} may lead to an address that is not public: the transport of this "
        "http_client does not show it. Nothing was sent to it",
    ).with_hint("allow_private_downloads")


def _forbidden_address(url: httpx.URL, address: str) -> DownloadError:
    return DownloadError(
        f"{url} leads to {address or 'an unknown address'}, which is not a public "
        "address: nothing was sent to it",
    ).with_hint("allow_private_downloads")
