"""The client over httpx2, lent or opened by itself; and what stands in for either."""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import httpx2
import pytest
import respx
from clients import BASE_URL, ID, KEY, ONCE, PATH, QUEUED, SOON, create
from films import film
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
    AsyncKling,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    DownloadError,
    KlingError,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    SubmissionUncertainError,
    TransportError,
    Video,
)

WAYS = ["opened", "lent"]
FILM = film(b"frames")
LINK = "https://cdn.test/film.mp4"


@asynccontextmanager
async def over_httpx2(
    way: str, base_url: str, retry: RetryPolicy = ONCE, timeout: float = 60
) -> AsyncGenerator[AsyncKling]:
    """Give a client that opens httpx2's connections itself, or was lent a client."""
    if way == "opened":
        async with AsyncKling(
            KEY, base_url=base_url, retry=retry, timeout=timeout, transport="httpx2"
        ) as kling:
            yield kling
        return
    async with (
        httpx2.AsyncClient() as mine,
        AsyncKling(
            KEY, base_url=base_url, retry=retry, timeout=timeout, http_client=mine
        ) as kling,
    ):
        yield kling
        assert not mine.is_closed


# --- on sockets


@pytest.mark.parametrize("way", WAYS)
async def test_a_create_a_get_and_a_download_arrive(way: str, tmp_path: Path) -> None:
    """With the key to the API alone, on a connection that is kept."""
    script = answering(answer(QUEUED), answer(QUEUED), answer(FILM))
    async with RawServer(script) as server, over_httpx2(way, server.base_url) as kling:
        assert (await create(kling)).id == ID
        assert (await kling.get(ID)).status == "queued"
        used = server.accepted
        await kling.download(
            Video(url=f"{server.base_url}/f.mp4"), tmp_path / "film.mp4"
        )
    posted, got, fetched = server.requests
    assert used == 1
    assert (posted.method, got.generation_id) == ("POST", ID)
    assert posted.headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in fetched.headers
    assert (tmp_path / "film.mp4").read_bytes() == FILM


async def half_an_answer(_: RawRequest, peer: Peer) -> None:
    """Promise more than is sent, and close."""
    await peer.send(answer(QUEUED)[:-10])
    peer.hang_up()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "script, cls",
    [
        (reset, ConnectionFailedError),
        (hang_up, ConnectionFailedError),
        (half_an_answer, ConnectionFailedError),
        (stay_silent, RequestTimeoutError),
    ],
)
@without_waiting
async def test_a_lost_create_is_sent_once(
    way: str, script: Script, cls: type[KlingError]
) -> None:
    """Its error is ours, by what was met, and it counts as sent."""
    async with RawServer(script) as server:
        async with over_httpx2(way, server.base_url, SOON, 600) as kling:
            with pytest.raises(SubmissionUncertainError) as caught:
                await create(kling)
        assert len(server.requests) == 1
    cause = caught.value.__cause__
    assert isinstance(cause, cls)
    assert isinstance(cause, TransportError)
    assert cause.request_sent


@pytest.mark.parametrize("way", WAYS)
async def test_a_refused_connection_was_never_sent(way: str) -> None:
    """So that a create may go out again."""
    async with RawServer(hang_up) as server:
        nowhere = server.base_url
    async with over_httpx2(way, nowhere) as kling:
        with pytest.raises(ConnectionFailedError) as caught:
            await create(kling)
    assert not caught.value.request_sent


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_is_the_error_of_its_status(way: str) -> None:
    """With the wait that the server asks for."""
    script = answering(answer({"message": "slow"}, "429 Too Many", retry_after="7"))
    async with RawServer(script) as server, over_httpx2(way, server.base_url) as kling:
        with pytest.raises(RateLimitError) as caught:
            await kling.get(ID)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("way", WAYS)
async def test_a_redirect_to_what_is_no_url_is_told(way: str, tmp_path: Path) -> None:
    """Whichever error the library has for it."""
    moved = answer(b"", "302 Found", location="http://e.test:port/")
    async with RawServer(answering(moved)) as server:
        video = Video(url=f"{server.base_url}/film.mp4")
        async with over_httpx2(way, server.base_url) as kling:
            with pytest.raises(DownloadError, match="URL"):
                await kling.download(video, tmp_path / "film.mp4")


# --- what stands in for a network


def reply(library: object, method: str, url: str) -> object:
    """Answer a create, a poll, and whoever asks for the film."""
    response = getattr(library, "Response")  # noqa: B009 (of either library)
    if method == "GET" and url == LINK:
        return response(200, content=FILM)
    return response(200, json=QUEUED)


def mocking(library: object) -> object:
    """Give a client of a library whose network is a function."""
    kinds: dict[str, Callable[..., object]] = vars(library)

    def handle(request: httpx.Request) -> object:
        return reply(library, request.method, str(request.url))

    return kinds["AsyncClient"](transport=kinds["MockTransport"](handle))


async def use(kling: AsyncKling, folder: Path) -> None:
    """Create, get and download, and see that each was answered."""
    assert (await create(kling)).id == ID
    assert (await kling.get(ID)).status == "queued"
    await kling.download(Video(url=LINK), folder / "film.mp4")
    assert (folder / "film.mp4").read_bytes() == FILM


CLIENT: Callable[..., AsyncKling] = AsyncKling  # takes what a caller may give


async def test_a_download_may_be_read_and_unpacked_by_a_hook(tmp_path: Path) -> None:
    """What was said of the packed file says nothing of what is there now."""

    async def read(response: httpx2.Response) -> None:
        await response.aread()

    packed = answer(gzip.compress(FILM), content_encoding="gzip")
    hooks = {"response": [read]}
    async with (
        RawServer(answering(packed)) as server,
        httpx2.AsyncClient(event_hooks=hooks) as mine,
        AsyncKling(KEY, base_url=server.base_url, http_client=mine) as kling,
    ):
        video = Video(url=f"{server.base_url}/film.mp4")
        await kling.download(video, tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == FILM


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_a_mock_transport_serves_all_calls(
    library: object, tmp_path: Path
) -> None:
    """Downloads too, though a function has no address."""
    kling = CLIENT(KEY, base_url=BASE_URL, http_client=mocking(library))
    async with kling:
        await use(kling, tmp_path)


def route(router: respx.Router) -> None:
    """Let a router answer as `reply` does."""
    router.route(url__startswith=BASE_URL + PATH).respond(json=QUEUED)
    router.get(LINK).respond(content=FILM)


async def test_respx_stands_in_for_our_own_connections(
    respx_mock: respx.Router, tmp_path: Path
) -> None:
    """And nothing else is asked, not even for a name."""
    route(respx_mock)
    async with AsyncKling(KEY, base_url=BASE_URL) as kling:
        await use(kling, tmp_path)


@pytest.mark.parametrize("way", WAYS)
async def test_pytest_httpx2_stands_in_for_httpx2(
    httpx2_mock: respx.Router, way: str, tmp_path: Path
) -> None:
    """In a client that was lent, and in one that opens its own connections."""
    route(httpx2_mock)
    async with over_httpx2(way, BASE_URL) as kling:
        await use(kling, tmp_path)


# --- its errors


EVERY_ERROR = [
    value
    for value in vars(httpx2).values()
    if isinstance(value, type) and issubclass(value, Exception)
]
UNSENT = {
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
}


def instance_of(cls: type[Exception]) -> Exception:
    """Make an error of a class, whatever that takes."""
    if issubclass(cls, httpx2.HTTPStatusError):
        request = httpx2.Request("GET", BASE_URL)
        return cls("no", request=request, response=httpx2.Response(503))
    try:
        return cls("no")
    except TypeError:
        return cls()


@pytest.mark.parametrize("cls", EVERY_ERROR)
async def test_every_error_is_ours_and_five_prove_that_nothing_was_sent(
    cls: type[Exception],
) -> None:
    """The table of httpx holds for httpx2."""

    def fail(_: httpx2.Request) -> httpx2.Response:
        raise instance_of(cls)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(fail)) as mine:
        kling = AsyncKling(KEY, base_url=BASE_URL, http_client=mine, retry=ONCE)
        with pytest.raises(KlingError) as caught:
            await kling.get(ID)
    assert isinstance(caught.value, TransportError | DecodeError | ServerError)
    assert (getattr(caught.value, "request_sent", True) is False) is (cls in UNSENT)
    is_timeout = issubclass(cls, httpx2.TimeoutException)
    assert isinstance(caught.value, RequestTimeoutError) is is_timeout


def test_a_client_that_cannot_be_awaited_is_refused() -> None:
    """It would send a create, and only then fail."""
    with (
        httpx2.Client() as mine,
        pytest.raises(ConfigurationError, match=r"or an httpx2\.AsyncClient"),
    ):
        CLIENT(KEY, http_client=mine)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the client is made, and not with the first create."""
    monkeypatch.setattr("kling_async._http.session.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"kling_async\[httpx2\]"):
        AsyncKling(KEY, transport="httpx2")
