"""The client over aiohttp, on sockets: the same errors, no create sent twice."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import importlib.util
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import get_args

import anyio
import httpx
import pytest
from clients import ID, KEY, MODEL, ONCE, QUEUED, SOON, create
from raw_server import (
    Peer,
    RawRequest,
    RawServer,
    Script,
    answer,
    answering,
    hang_up,
    reset,
    stay_silent,
)
from socket_clock import without_waiting

from kling_async import (
    APIStatusError,
    AsyncKling,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    Hooks,
    KlingError,
    RateLimitError,
    RequestTimeoutError,
    RetryEvent,
    RetryPolicy,
    ServerError,
    SubmissionUncertainError,
    TransportError,
)
from kling_async._http.session import Library

SERVED = answering(answer(QUEUED))
CLIENT: Callable[..., AsyncKling] = AsyncKling  # takes what a caller may give


@asynccontextmanager
async def asking(
    script: Script,
    *,
    timeout: float = 60,
    retry: RetryPolicy = ONCE,
    max_connections: int = 100,
) -> AsyncGenerator[tuple[RawServer, AsyncKling]]:
    """Give a server and a client that asks it over aiohttp."""
    async with (
        RawServer(script) as server,
        AsyncKling(
            KEY,
            base_url=server.base_url,
            timeout=timeout,
            retry=retry,
            max_connections=max_connections,
            transport="aiohttp",
        ) as kling,
    ):
        yield server, kling


async def half_an_answer(_: RawRequest, peer: Peer) -> None:
    """Promise more than is sent, and close."""
    await peer.send(answer(QUEUED)[:-10])
    peer.hang_up()


async def an_answer_that_trickles(_: RawRequest, peer: Peer) -> None:
    """Send a byte at a time, too slowly in all and quickly enough each."""
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while not peer.writer.is_closing():
        await peer.send(b" ")
        await asyncio.sleep(0.01)


LOSSES: list[tuple[Script, type[KlingError]]] = [
    (reset, ConnectionFailedError),
    (hang_up, ConnectionFailedError),
    (half_an_answer, ConnectionFailedError),
    (stay_silent, RequestTimeoutError),
    (an_answer_that_trickles, RequestTimeoutError),
]


async def test_a_call_is_sent_as_over_httpx() -> None:
    """The same path, query, body, key and name of the client; one connection."""
    async with asking(SERVED) as (server, kling):
        assert (await create(kling)).id == ID
        assert (await kling.get(ID)).id == ID
        posted, got = server.requests
        assert server.accepted == 1
    assert posted.method == "POST"
    assert json.loads(posted.body)["prompt"]
    assert posted.headers["content-type"] == "application/json"
    assert got.generation_id == ID
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["user-agent"].startswith("kling_async/")


LIBRARIES: tuple[Library, ...] = get_args(Library)


async def test_the_bytes_of_a_request_are_those_sent_over_httpx() -> None:
    """``:`` and ``/`` of an id, and what a query escapes, go out as they were made."""
    targets = dict[Library, list[str]]()
    log = answer({"data": [], "pagination": {"has_more": False}})
    for library in LIBRARIES:
        script = answering(answer(QUEUED), answer(QUEUED), log)
        async with (
            RawServer(script) as server,
            AsyncKling(
                KEY, base_url=f"{server.base_url}/a%2Fb", transport=library
            ) as k,
        ):
            await create(k)
            await k.get(ID)
            days = [dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2)]
            rows = k.request_log(since=days[0], until=days[1], model=MODEL)
            assert [row async for row in rows] == []
        targets[library] = [it.target for it in server.requests]
        assert targets[library][1].endswith(
            "%3Akling-video%2Fv2%2Fmaster%2Fimage-to-video"
        )
    assert targets["aiohttp"] == targets["httpx"]
    assert all(target.startswith("/a%2Fb/v2/") for target in targets["aiohttp"])


@pytest.mark.parametrize("library", LIBRARIES)
async def test_headers_are_read_alike(library: Library) -> None:
    """Bytes that are no UTF-8 become text that can be printed, over both."""
    served = answer(QUEUED).replace(b"\r\n\r\n", b"\r\nX-Inference-Id: g\xe9\r\n\r\n")
    async with (
        RawServer(answering(served)) as server,
        AsyncKling(KEY, base_url=server.base_url, transport=library) as kling,
    ):
        assert (await kling.get(ID)).inference_id == "g\u00e9"


@pytest.mark.parametrize("script, cause", LOSSES)
@without_waiting
async def test_a_lost_create_is_sent_once(
    script: Script, cause: type[KlingError]
) -> None:
    """However often the policy would try again: it may be billed."""
    posts = 0

    async def count(request: RawRequest, peer: Peer) -> None:
        nonlocal posts
        posts += request.method == "POST"
        await script(request, peer)

    retry = RetryPolicy(initial=0, uncertain="raise")
    async with asking(count, timeout=0.2, retry=retry) as (_, kling):
        with pytest.raises(SubmissionUncertainError) as caught:
            await create(kling)
    assert isinstance(caught.value.__cause__, cause)
    assert posts == 1


@pytest.mark.parametrize("script, expected", LOSSES)
@without_waiting
async def test_a_lost_answer_to_a_get_is_asked_for_again(
    script: Script, expected: type[TransportError]
) -> None:
    """As often as the policy says, and not once more by aiohttp; then an error."""
    retry = RetryPolicy(attempts=2, initial=0)
    async with asking(script, timeout=0.2, retry=retry) as (server, kling):
        with pytest.raises(expected) as caught:
            await kling.get(ID)
    assert len(server.requests) == 2
    assert caught.value.request_sent


async def test_a_refused_connection_was_never_sent() -> None:
    """A create may go again: nothing reached the server."""
    async with RawServer(SERVED) as gone:
        closed = gone.base_url
    told = list[RetryEvent]()
    hooks = Hooks(on_retry=told.append)
    async with AsyncKling(
        KEY, base_url=closed, retry=SOON, hooks=hooks, transport="aiohttp"
    ) as kling:
        with pytest.raises(ConnectionFailedError) as caught:
            await create(kling)
    assert not caught.value.request_sent
    assert len(told) == SOON.attempts - 1


@pytest.mark.parametrize(
    "status, expected",
    [
        ("302 Found", APIStatusError),
        ("401 Unauthorized", AuthenticationError),
        ("429 Too Many Requests", RateLimitError),
        ("503 Service Unavailable", ServerError),
    ],
)
async def test_a_refusal_is_the_error_of_its_status(
    status: str, expected: type[APIStatusError]
) -> None:
    """Redirects are not followed, here either."""
    refusal = answer({"message": "no"}, status, location="/elsewhere")
    async with asking(answering(refusal)) as (server, kling):
        with pytest.raises(expected, match="no"):
            await kling.get(ID)
        assert len(server.requests) == 1


async def test_a_compressed_answer_is_read() -> None:
    """By us, in bounds; aiohttp leaves it as it came."""
    packed = gzip.compress(json.dumps(QUEUED).encode())
    script = answering(answer(packed, content_encoding="gzip"))
    async with asking(script) as (_, kling):
        assert (await kling.get(ID)).id == ID


async def test_callers_who_leave_leave_connections_that_serve() -> None:
    """Deadlines strike at any moment of an exchange; the next calls are answered."""

    async def script(_: RawRequest, peer: Peer) -> None:
        await asyncio.sleep(0.001)
        await peer.send(answer(QUEUED))

    async with asking(script, max_connections=10, retry=SOON) as (_, kling):

        async def calls(number: int) -> None:
            for turn in range(15):
                with anyio.move_on_after(0.0005 * ((number + turn) % 12)):
                    await kling.get(ID)

        await asyncio.gather(*map(calls, range(20)))
        async with asyncio.timeout(20):
            await asyncio.gather(*(kling.get(ID) for _ in range(30)))


async def test_a_caller_who_leaves_a_create_loses_no_id() -> None:
    """The exchange ends in the client's own scope, and closing waits for it."""
    posted, may_answer = asyncio.Event(), asyncio.Event()

    async def script(_: RawRequest, peer: Peer) -> None:
        posted.set()
        await may_answer.wait()
        await peer.send(answer(QUEUED))

    async with asking(script) as (server, kling):
        creating = asyncio.create_task(create(kling))
        await posted.wait()
        creating.cancel()
        await asyncio.wait([creating], timeout=300)
        assert creating.cancelled()
        closing = asyncio.create_task(kling.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        may_answer.set()
        await closing
        await server.until_idle()


async def test_closing_ends_what_waits_and_every_connection() -> None:
    """No socket outlives the client."""
    async with asking(stay_silent) as (server, kling):
        getting = asyncio.create_task(kling.get(ID))
        while not server.requests:  # noqa: ASYNC110 (the server has no event)
            await asyncio.sleep(0.001)
        await kling.aclose()
        with pytest.raises(ClientClosedError):
            await getting
        await server.until_idle()


async def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As over httpx, and not as aiohttp alone would."""
    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with RawServer(SERVED) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
        kling = AsyncKling(
            KEY,
            base_url="http://kling.test",
            transport="aiohttp",
            allow_plain_http=True,
        )
        async with kling:
            assert (await kling.get(ID)).id == ID
    assert proxy.requests[0].target.startswith("http://kling.test/v2/video/")


async def test_a_proxy_that_refuses_a_tunnel_has_seen_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A create may go again; and the key is not shown to a proxy."""
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with RawServer(answering(answer(b"", "502 Bad Gateway"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.base_url)
        async with AsyncKling(
            KEY, base_url="https://kling.test", retry=SOON, transport="aiohttp"
        ) as kling:
            with pytest.raises(ConnectionFailedError, match="502") as caught:
                await create(kling)
    assert not caught.value.request_sent
    assert {it.method for it in proxy.requests} == {"CONNECT"}
    assert len(proxy.requests) == SOON.attempts
    assert KEY not in repr(proxy.requests)


# --- what cannot be


@pytest.mark.parametrize("given", ["requests", "", None, 1])
def test_another_transport_is_refused(given: object) -> None:
    """The message names those that there are."""
    with pytest.raises(ConfigurationError, match="'httpx' or 'httpx2' or 'aiohttp'"):
        CLIENT(KEY, transport=given)


def test_a_client_of_the_user_has_a_transport_already() -> None:
    """One of the two can be given."""
    with pytest.raises(ConfigurationError, match="beside http_client"):
        CLIENT(KEY, transport="aiohttp", http_client=httpx.AsyncClient())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it, when the client is made."""
    monkeypatch.setattr("kling_async._http.session.find_spec", lambda _: None)
    assert importlib.util.find_spec("aiohttp") is not None
    with pytest.raises(ConfigurationError, match=r"kling_async\[aiohttp\]"):
        AsyncKling(KEY, transport="aiohttp")
    AsyncKling(KEY)


def test_trio_is_told_that_aiohttp_needs_asyncio() -> None:
    """Before anything is sent."""

    async def call() -> None:
        with pytest.raises(ConfigurationError, match="asyncio alone"):
            await AsyncKling(KEY, transport="aiohttp").get(ID)

    anyio.run(call, backend="trio")
