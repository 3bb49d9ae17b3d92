"""Creates that a server reads and drops: one POST, whatever transport carries them.

Each transport and each hook is one that somebody may have in use; the server is real.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import anyio
import httpx
import httpx2
import httpx_aiohttp
import pyqwest
import pytest
from clients import SOON, client, create
from pyqwest.httpx import AsyncPyqwestTransport
from pyreqwest.compatibility.httpx import HttpxTransport
from raw_server import (
    Peer,
    RawRequest,
    RawServer,
    Script,
    answer,
    hang_up,
    reset,
)

from kling_async import (
    AsyncKling,
    ConnectionFailedError,
    KlingError,
    SubmissionUncertainError,
)
from kling_async._http.session import Library

NOBODY = "http://127.0.0.1:9"

Make = Callable[[], httpx.AsyncClient | httpx2.AsyncClient]


class LibraryError(Exception):
    """What a library of somebody else's raises."""


class Foreign(httpx.AsyncBaseTransport):
    """Calls each lost connection one that was never made, as some libraries do."""

    def __init__(self, *, has_cause: bool) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._cause = LibraryError("client error (SendRequest)") if has_cause else None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        try:
            return await self._inner.handle_async_request(request)
        except httpx.TransportError:
            raise httpx.ConnectError("no answer", request=request) from self._cause


class Chatty(httpx.AsyncHTTPTransport):
    """Pushes a metric after each request, to a collector that is down."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and tell of it."""
        try:
            return await super().handle_async_request(request)
        except httpx.TransportError:
            metric = httpx.Request("POST", NOBODY)
            return await super().handle_async_request(metric)


HONEST: Mapping[str, Make] = {
    "httpx": httpx.AsyncClient,
    "httpx, retries": lambda: httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(retries=2)
    ),
    "httpx2": httpx2.AsyncClient,
    "httpx2, retries": lambda: httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(retries=2)
    ),
    "httpx-aiohttp": lambda: httpx.AsyncClient(
        transport=httpx_aiohttp.AiohttpTransport()
    ),
}

TRANSPORTS: Mapping[str, Make] = {
    **HONEST,
    "pyqwest": lambda: httpx.AsyncClient(
        transport=AsyncPyqwestTransport(pyqwest.HTTPTransport())
    ),
    "pyreqwest": lambda: httpx.AsyncClient(transport=HttpxTransport()),
    "foreign": lambda: httpx.AsyncClient(transport=Foreign(has_cause=True)),
    "foreign, no cause": lambda: httpx.AsyncClient(transport=Foreign(has_cause=False)),
    "chatty": lambda: httpx.AsyncClient(transport=Chatty()),
}


@pytest.mark.parametrize("script", [hang_up, reset], ids=["close", "reset"])
@pytest.mark.parametrize("make", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_a_create_that_was_read_is_sent_once_over_any_transport(
    make: Make, script: Script
) -> None:
    """And told as uncertain, whatever the transport calls it."""
    async with RawServer(script) as server, make() as mine:
        kling = client(server.base_url, http_client=mine)
        with pytest.raises(SubmissionUncertainError):
            await create(kling)
        await kling.aclose()
        assert len(server.requests) == 1


@pytest.mark.parametrize("library", ["httpx", "httpx2", "aiohttp"])
@pytest.mark.parametrize("script", [hang_up, reset], ids=["close", "reset"])
async def test_our_own_transports_send_it_once_too(
    library: Library, script: Script
) -> None:
    """Each of the libraries that a client may open connections with."""
    async with RawServer(script) as server:
        make: Callable[..., AsyncKling] = AsyncKling
        async with make(
            "any-key", base_url=server.base_url, transport=library, retry=SOON
        ) as kling:
            with pytest.raises(SubmissionUncertainError):
                await create(kling)
        assert len(server.requests) == 1


async def push(_: httpx.Response) -> None:
    """Send a metric to a collector that is down."""
    async with httpx.AsyncClient(trust_env=False) as other:
        await other.post(NOBODY)


async def mirror(response: httpx.Response) -> None:
    """Send the same request to another server, which is down."""
    response.request.url = httpx.URL(NOBODY)
    async with httpx.AsyncClient(trust_env=False) as other:
        await other.send(response.request)


def _swap(
    post: Callable[[str], Awaitable[object]], _: httpx.Response
) -> Awaitable[object]:
    """Give what httpx awaits in its own frame, with none of ours in between."""
    return post(NOBODY)


async def lie(response: httpx.Response) -> None:
    """Say that no connection was made."""
    await anyio.lowlevel.checkpoint()
    raise httpx.ConnectError("down", request=response.request)


@pytest.mark.parametrize("hook", [push, mirror, lie, None])
@pytest.mark.parametrize("is_mock", [True, False], ids=["mock", "socket"])
async def test_a_response_hook_that_fails_sends_no_create_again(
    hook: Callable[[httpx.Response], Awaitable[None]] | None,
    is_mock: bool,
) -> None:
    """Its error is about a request of its own: ours was accepted."""
    posts = list[httpx.Request]()

    def accept(request: httpx.Request) -> httpx.Response:
        posts.append(request)
        return httpx.Response(200, json={"id": "g-1", "status": "queued"})

    async def script(_: RawRequest, peer: Peer) -> None:
        await peer.send(answer())

    async with (
        RawServer(script) as server,
        httpx.AsyncClient(trust_env=False) as other,
    ):
        told = hook or partial(_swap, other.post)
        mine = httpx.AsyncClient(
            transport=httpx.MockTransport(accept) if is_mock else None,
            event_hooks={"response": [told]},
        )
        async with mine:
            with pytest.raises(SubmissionUncertainError):
                await create(client(server.base_url, http_client=mine))
        assert len(posts) + len(server.requests) == 1


async def lie2(response: httpx2.Response) -> None:
    """Say in a hook of httpx2 that no connection was made."""
    await anyio.lowlevel.checkpoint()
    raise httpx2.ConnectError("down", request=response.request)


async def test_a_hook_of_httpx2_that_fails_sends_no_create_again() -> None:
    """Its error is one of httpx2's own, and no connection was ever refused."""

    async def script(_: RawRequest, peer: Peer) -> None:
        await peer.send(answer())

    async with (
        RawServer(script) as server,
        httpx2.AsyncClient(event_hooks={"response": [lie2]}) as mine,
    ):
        with pytest.raises(SubmissionUncertainError):
            await create(client(server.base_url, http_client=mine))
        assert len(server.requests) == 1


@pytest.mark.parametrize("make", HONEST.values(), ids=HONEST)
async def test_a_connection_that_is_refused_is_tried_again(make: Make) -> None:
    """Over a library that tells the truth it is certain that nothing was sent."""
    async with make() as mine:
        with pytest.raises(ConnectionFailedError) as caught:
            await create(client(NOBODY, http_client=mine))
    assert not caught.value.request_sent


async def test_a_proxy_that_breaks_off_after_connect_has_read_no_create() -> None:
    """The tunnel ends before TLS is set up, so that nothing of ours was in it."""
    hosts = list[str]()

    async def connect(request: RawRequest, peer: Peer) -> None:
        hosts.append(request.target)
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.hang_up()

    async with (
        RawServer(connect) as proxy,
        httpx.AsyncClient(proxy=proxy.base_url, trust_env=False) as mine,
    ):
        with pytest.raises(KlingError) as caught:
            await create(client("https://kling.test", http_client=mine))
    assert isinstance(caught.value, ConnectionFailedError)
    assert hosts == ["kling.test:443"] * 5


async def test_a_proxy_that_breaks_off_after_the_create_sends_it_once() -> None:
    """Unencrypted, it has read what was in the request."""
    async with (
        RawServer(hang_up) as proxy,
        httpx.AsyncClient(proxy=proxy.base_url, trust_env=False) as mine,
    ):
        kling = client("http://kling.test", http_client=mine, allow_plain_http=True)
        with pytest.raises(SubmissionUncertainError):
            await create(kling)
        assert [it.method for it in proxy.requests] == ["POST"]
