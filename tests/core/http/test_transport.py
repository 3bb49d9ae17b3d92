"""One exchange: what a GET is repeated on, and that nothing foreign comes out."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import anyio
import httpx
import pytest
import respx
from attrs import frozen
from clients import BASE_URL, ID, KEY, ONCE, PATH, QUEUED, client, over
from raw_server import Peer, RawRequest, RawServer, answer, hang_up, reset, stay_silent
from socket_clock import without_waiting

from kling_async import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    Hooks,
    KlingError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestEvent,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    TransportError,
)
from kling_async._http.sender import MAX_ANSWER
from kling_async._http.session import Library
from kling_async._http.transport import translate


@pytest.fixture
def api() -> Iterator[respx.Route]:
    """Stand in for the endpoint that tells of a generation."""
    with respx.mock(base_url=BASE_URL) as router:
        yield router.get(PATH, params={"generation_id": ID})


# --- what a GET is repeated on

FAULTS = (
    httpx.ConnectError,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.ProxyError,
    httpx.RemoteProtocolError,
    httpx.LocalProtocolError,
    httpx.ConnectTimeout,
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.PoolTimeout,
)
HEALING = (408, 429, 500, 502, 503, 504)
UNREADABLE = (
    httpx.Response(200, html="<title>Just a moment...</title>"),
    httpx.Response(200, content=b'{"id": "88a64d31'),
    httpx.Response(200, content=b""),
    httpx.Response(204),
    httpx.Response(200, json=None),
    httpx.Response(200, json=[QUEUED]),
    httpx.Response(200, json="queued"),
    httpx.Response(200, json={}),
    httpx.Response(200, json={"status": None}),
    httpx.Response(200, json={"id": "another", "status": "completed"}),
    httpx.Response(200, content=b"x", headers={"content-encoding": "gzip"}),
)
FINAL: Mapping[int, type[APIStatusError]] = {
    301: APIStatusError,
    302: APIStatusError,
    303: APIStatusError,
    304: APIStatusError,
    307: APIStatusError,
    308: APIStatusError,
    400: BadRequestError,
    401: AuthenticationError,
    402: APIStatusError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: APIStatusError,
    418: APIStatusError,
    422: APIStatusError,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_get_is_repeated_when_the_network_failed(
    api: respx.Route, fault: type[httpx.TransportError]
) -> None:
    """Whatever failed, and each of the time-outs: two attempts, one answer."""
    api.side_effect = [fault("on the way"), httpx.Response(200, json=QUEUED)]
    async with client() as kling:
        assert (await kling.get(ID)).id == ID
    assert api.call_count == 2


@pytest.mark.parametrize("code", HEALING)
async def test_a_get_is_repeated_when_the_server_failed(
    api: respx.Route, code: int
) -> None:
    """408, 429 and the 5xx: two attempts, one answer."""
    api.side_effect = [httpx.Response(code), httpx.Response(200, json=QUEUED)]
    async with client() as kling:
        assert (await kling.get(ID)).id == ID
    assert api.call_count == 2


@pytest.mark.parametrize("first", UNREADABLE, ids=lambda it: repr(it.content[:20]))
async def test_a_get_is_repeated_when_the_answer_is_not_what_is_promised(
    api: respx.Route, first: httpx.Response
) -> None:
    """A web page, half a body, JSON of another shape or of another generation."""
    api.side_effect = [first, httpx.Response(200, json=QUEUED)]
    async with client() as kling:
        assert (await kling.get(ID)).id == ID
    assert api.call_count == 2


@pytest.mark.parametrize("code, expected", FINAL.items())
async def test_a_get_is_not_repeated_when_the_answer_would_be_the_same(
    api: respx.Route, code: int, expected: type[APIStatusError]
) -> None:
    """Redirects and refusals: one attempt, and the error of that status."""
    api.respond(code, json={"message": "no"}, headers={"location": "/elsewhere"})
    async with client() as kling:
        with pytest.raises(expected) as caught:
            await kling.get(ID)
    assert type(caught.value) is expected
    assert caught.value.status_code == code
    assert api.call_count == 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_the_last_error_is_raised_when_the_attempts_are_used_up(
    api: respx.Route, attempts: int
) -> None:
    """As many attempts as the policy says, no more and no fewer."""
    api.side_effect = [httpx.Response(500 + n) for n in range(attempts)]
    async with client(retry=RetryPolicy(attempts=attempts, initial=0)) as kling:
        with pytest.raises(ServerError) as caught:
            await kling.get(ID)
    assert caught.value.status_code == 500 + attempts - 1
    assert api.call_count == attempts


async def test_every_attempt_asks_for_the_same_generation_with_the_key(
    api: respx.Route,
) -> None:
    """``:`` and ``/`` of the id are escaped, and the headers are those documented."""
    api.side_effect = [httpx.Response(503), httpx.Response(200, json=QUEUED)]
    async with client() as kling:
        await kling.get(ID)
    for request, _ in api.calls:
        assert request.url.query == (
            b"generation_id=88a64d31-cce4-41e8-b9d8-5392e8c2a6d4"
            b"%3Akling-video%2Fv2%2Fmaster%2Fimage-to-video"
        )
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["accept"] == "application/json"
        assert request.headers["user-agent"].startswith("kling_async/")


async def test_every_exchange_is_told(api: respx.Route) -> None:
    """With verb, URL, status and error, those that failed too; never with the key."""
    told = list[RequestEvent]()
    api.side_effect = [
        httpx.ReadError("reset"),
        httpx.Response(503),
        httpx.Response(200, json=QUEUED),
    ]
    async with client(hooks=Hooks(on_request=told.append)) as kling:
        await kling.get(ID)
    assert [event.status_code for event in told] == [None, 503, 200]
    assert [type(event.error) for event in told] == [
        ConnectionFailedError,
        type(None),
        type(None),
    ]
    assert {event.method for event in told} == {"GET"}
    assert all("?generation_id=88a64d31" in event.url for event in told)
    assert KEY not in repr(told)


# --- errors of httpx and of what lies below


@frozen(repr=False)
class Failing(httpx.AsyncBaseTransport):
    """Raises, when a request is sent or when its answer is read."""

    error: Exception
    at_once: bool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise, or give an answer that does."""
        await request.aread()
        if self.at_once:
            raise self.error
        return httpx.Response(200, content=self.body())

    async def body(self) -> AsyncIterator[bytes]:
        """Raise after the first bytes."""
        yield b'{"id": '
        raise self.error


def instance_of(cls: type[Exception]) -> Exception:
    """Make an exception, whatever its constructor takes."""
    if issubclass(cls, httpx.HTTPStatusError):
        request = httpx.Request("GET", BASE_URL)
        response = httpx.Response(502, request=request)
        return cls("no", request=request, response=response)
    try:
        return cls("no")
    except TypeError:
        return cls()


EVERY_ERROR_OF_HTTPX = [
    value
    for value in vars(httpx).values()
    if isinstance(value, type) and issubclass(value, Exception)
]
FROM_BELOW = [
    OSError,
    ConnectionResetError,
    TimeoutError,
    ssl.SSLError,
    ssl.SSLCertVerificationError,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
    anyio.EndOfStream,
    UnicodeError,
    RuntimeError,
    AttributeError,
]
UNSENT = {
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
}


def test_the_errors_of_httpx_are_all_here() -> None:
    """The walk below is over a tree, and not over nothing."""
    assert len(EVERY_ERROR_OF_HTTPX) >= 24
    assert set(EVERY_ERROR_OF_HTTPX) > UNSENT


@pytest.mark.parametrize("at_once", [True, False], ids=["sending", "reading"])
@pytest.mark.parametrize("cls", [*EVERY_ERROR_OF_HTTPX, *FROM_BELOW])
async def test_nothing_foreign_comes_out(cls: type[Exception], at_once: bool) -> None:
    """An error of ours, with the foreign one as its cause and its words in it."""
    error = instance_of(cls)
    async with httpx.AsyncClient(transport=Failing(error, at_once)) as mine:
        kling = client(http_client=mine, retry=ONCE)
        with pytest.raises(KlingError) as caught:
            await kling.get(ID)
        await kling.aclose()
    if at_once and isinstance(error, httpx.HTTPStatusError):
        assert isinstance(caught.value, ServerError)
    else:
        assert isinstance(caught.value, TransportError | DecodeError)
        assert caught.value.__cause__ is error
        assert str(error) in str(caught.value)
    assert caught.value.generation_id == ID


@pytest.mark.parametrize("cls", [*EVERY_ERROR_OF_HTTPX, *FROM_BELOW])
async def test_only_what_was_certainly_not_sent_is_called_unsent(
    cls: type[Exception],
) -> None:
    """The root of the billing rule: five errors say so, no others."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise instance_of(cls)

    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as mine:
        with pytest.raises(KlingError) as caught:
            await client(http_client=mine, retry=ONCE).get(ID)
    is_unsent = getattr(caught.value, "request_sent", True) is False
    assert is_unsent is (cls in UNSENT)


@pytest.mark.parametrize("cls", EVERY_ERROR_OF_HTTPX)
async def test_a_transport_that_nobody_knows_proves_nothing(
    cls: type[Exception],
) -> None:
    """What it calls a connection that failed may have broken after the request."""
    async with httpx.AsyncClient(
        transport=Failing(instance_of(cls), at_once=True)
    ) as mine:
        with pytest.raises(KlingError) as caught:
            await client(http_client=mine, retry=ONCE).get(ID)
    assert getattr(caught.value, "request_sent", True)


@pytest.mark.parametrize(
    "cls", [httpx.ReadTimeout, httpx.ConnectTimeout, httpx.PoolTimeout, TimeoutError]
)
def test_a_time_out_is_told_from_a_failed_connection(cls: type[Exception]) -> None:
    """`RequestTimeoutError` for what took too long, and its kind in the message."""
    failure = translate(instance_of(cls), "creating")
    assert isinstance(failure, RequestTimeoutError)
    assert str(failure) == f"creating: {cls.__name__}: no"
    assert isinstance(translate(OSError("x"), "creating"), ConnectionFailedError)


@pytest.mark.parametrize("reads_first", [True, False])
async def test_a_hook_that_raises_for_status_hides_no_status(reads_first: bool) -> None:
    """As httpx's own documentation has it for clients that are shared."""

    async def raise_for_status(response: httpx.Response) -> None:
        if reads_first:
            await response.aread()
        response.raise_for_status()

    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"message": "bad key"})

    async with over(refuse) as mine:
        mine.event_hooks = {"response": [raise_for_status]}
        kling = client(http_client=mine)
        with pytest.raises(
            AuthenticationError, match="bad key" if reads_first else "401"
        ):
            await kling.get(ID)


@pytest.mark.parametrize(
    "base_url",
    ["https://xn--a", "https://1.2.3.999", "https://\u2603", "https://[v1.x]"],
)
@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
async def test_a_base_url_that_httpx_does_not_take_is_a_wrong_configuration(
    library: Library, base_url: str
) -> None:
    """`ConfigurationError`, not httpx's InvalidURL or idna's errors."""
    async with client(base_url, transport=library) as kling:
        with pytest.raises(ConfigurationError, match="base_url") as caught:
            await kling.get(ID)
    assert repr(base_url) in str(caught.value)


# --- bounds in size and time


@pytest.mark.parametrize("is_larger", [False, True])
async def test_an_answer_is_bounded_in_size(is_larger: bool) -> None:
    """4 MB are read, a byte more is not."""
    frame = b'{"id": "g-1", "status": "queued", "x": "%s"}'
    padding = b"x" * (MAX_ANSWER - len(frame % b"") + is_larger)

    def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=frame % padding)

    async with over(reply) as mine:
        kling = client(http_client=mine, retry=ONCE)
        if is_larger:
            with pytest.raises(DecodeError, match="larger than 4,194,304 bytes"):
                await kling.get("g-1")
        else:
            assert (await kling.get("g-1")).id == "g-1"


async def endless() -> AsyncIterator[bytes]:
    """Trickle, a byte a second, for good."""
    while True:
        yield b" "
        await asyncio.sleep(1)


async def never(_: httpx.Request) -> httpx.Response:
    """Answer nothing, whatever time-outs httpx would keep."""
    await anyio.sleep_forever()
    raise AssertionError


def trickle(_: httpx.Request) -> httpx.Response:
    """Answer with a body that never ends."""
    return httpx.Response(200, content=endless())


@pytest.mark.looptime
@pytest.mark.parametrize("handler", [never, trickle])
async def test_an_exchange_is_bounded_in_time(
    handler: Callable[[httpx.Request], object],
) -> None:
    """Also where no single read is slow: the whole takes its time-out and no more."""
    async with over(handler) as mine:
        kling = client(http_client=mine, retry=ONCE, timeout=20)
        started = anyio.current_time()
        with pytest.raises(RequestTimeoutError):
            await kling.get(ID)
    assert 20 <= anyio.current_time() - started <= 22


@pytest.mark.looptime
async def test_no_time_out_is_no_bound() -> None:
    """`math.inf` waits for as long as it takes."""

    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(100_000)
        return httpx.Response(200, json=QUEUED)

    async with over(slow) as mine:
        kling = client(http_client=mine, timeout=float("inf"))
        assert (await kling.get(ID)).id == ID


# --- the same on a socket


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


async def no_http(_: RawRequest, peer: Peer) -> None:
    """Answer in another protocol."""
    await peer.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    peer.hang_up()


@pytest.mark.parametrize(
    "script, expected",
    [
        (hang_up, ConnectionFailedError),
        (reset, ConnectionFailedError),
        (half_an_answer, ConnectionFailedError),
        (no_http, ConnectionFailedError),
        (stay_silent, RequestTimeoutError),
        (an_answer_that_trickles, RequestTimeoutError),
    ],
)
@without_waiting
async def test_what_a_connection_can_suffer_is_tried_again(
    script: Callable[[RawRequest, Peer], object], expected: type[TransportError]
) -> None:
    """Twice in a row on a real socket; the second failure is raised."""

    async def suffer(request: RawRequest, peer: Peer) -> None:
        await script(request, peer)  # type: ignore[misc]  # each is a coroutine function

    async with RawServer(suffer) as server:
        address = server.base_url.removeprefix("http://")
        policy = RetryPolicy(attempts=2, initial=0)
        async with client(server.base_url, retry=policy, timeout=0.1) as kling:
            with pytest.raises(expected) as caught:
                await kling.get("g-1")
        assert len(server.requests) == 2
    assert type(caught.value) is expected
    assert caught.value.request_sent
    assert f"GET {address}/v2/video/generations" in str(caught.value)


async def test_a_server_that_is_not_there_saw_nothing() -> None:
    """A refused connection says so, and what was asked."""
    async with RawServer(hang_up) as server:
        base_url = server.base_url
    async with client(base_url) as kling:
        with pytest.raises(ConnectionFailedError, match=r"Connect\w*Error: ") as caught:
            await kling.get("g-1")
    assert not caught.value.request_sent


# --- not torn by its caller


async def test_a_cancelled_get_is_torn_and_costs_its_connection() -> None:
    """Nothing of it goes on, and the next call is served by a new connection."""

    async def script(_: RawRequest, peer: Peer) -> None:
        if len(server.requests) > 1:
            await peer.send(answer())
        else:
            asked.set()
            await peer.gone()
            gone.set()

    asked, gone = asyncio.Event(), asyncio.Event()
    async with RawServer(script) as server, client(server.base_url) as kling:
        caller = asyncio.create_task(kling.get("g-1"))
        await asked.wait()
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        async with asyncio.timeout(60):
            await gone.wait()
        assert (await kling.get("g-1")).id == "g-1"
        assert (len(server.requests), server.accepted) == (2, 2)


async def test_a_rate_limit_is_an_error_of_its_own(api: respx.Route) -> None:
    """429 to the end is a `RateLimitError` with what the server asked for."""
    api.respond(429, headers={"retry-after": "0"}, json={"message": "slow down"})
    async with client() as kling:
        with pytest.raises(RateLimitError, match="slow down") as caught:
            await kling.get(ID)
    assert caught.value.retry_after == 0
    assert api.call_count == 5
