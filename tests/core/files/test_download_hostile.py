"""Videos from hosts that nobody vouches for: what they may not make a client do."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import httpx
import httpx2
import pytest
from films import FTYP, film
from httpx_aiohttp import HttpxAiohttpClient
from raw_server import Peer, RawRequest, RawServer, Script, answer, answering
from socket_clock import without_waiting

from kling_async import (
    AsyncKling,
    ConfigurationError,
    DownloadError,
    RetryPolicy,
    Video,
)

VENDOR = "https://api.aimlapi.com"
HERE = "http://localhost:1"
FILM = film(bytes(100_000))
TAG, OTHER_TAG = '"one"', '"other"'
METADATA = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
# How a resolver reads them is not how a list of addresses does: all are 127.0.0.1.
DISGUISES = ["127.1", "2130706433", "0x7f000001"]


def client(
    base_url: str = HERE,
    *,
    http_client: httpx.AsyncClient | None = None,
    allow_private_downloads: bool = False,
) -> AsyncKling:
    """Give a client that waits for nothing between two attempts."""
    return AsyncKling(
        "some-key",
        base_url=base_url,
        retry=RetryPolicy(attempts=3, initial=0),
        http_client=http_client,
        allow_plain_http=True,
        allow_private_downloads=allow_private_downloads,
    )


def video(server: RawServer, host: str = "127.0.0.1") -> Video:
    """Give the video that a server has, under one of this machine's names."""
    return Video(url=f"{server.base_url.replace('127.0.0.1', host)}/output.mp4")


def whole(content: bytes = FILM, etag: str = TAG, *, sent: int | None = None) -> bytes:
    """Give the answer that brings all, or its beginning with so many bytes of it."""
    head = answer(content, content_type="video/mp4", etag=etag)
    return head[: len(head) - len(content) + (len(content) if sent is None else sent)]


def without_length(content: bytes) -> bytes:
    """Give an answer that ends where the connection does."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: video/mp4\r\n\r\n" + content


def redirect(to: str) -> bytes:
    """Give an answer that leads elsewhere."""
    return answer(b"", "302 Found", location=to)


def one_each(*answers: bytes) -> Script:
    """Send each answer in its turn, the last one over and over, and hang up."""
    give = answering(*answers)

    async def script(request: RawRequest, peer: Peer) -> None:
        await give(request, peer)
        peer.hang_up()

    return script


def names_in(folder: Path) -> list[str]:
    """List a folder, hidden files too."""
    return sorted(os.listdir(folder))  # noqa: PTH208 (names are enough)


async def refused(kling: AsyncKling, it: Video, folder: Path, match: str) -> None:
    """See a download end in an error, and leave nothing."""
    with pytest.raises(DownloadError, match=match):
        await kling.download(it, folder / "film.mp4")
    assert names_in(folder) == []


# --- where it lies


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", *DISGUISES])
async def test_a_link_to_this_machine_is_not_followed(
    tmp_path: Path, host: str
) -> None:
    """However its address is written: nothing is asked, once and for all."""
    async with RawServer(answering(whole())) as server, client(VENDOR) as kling:
        await refused(kling, video(server, host), tmp_path, "not a public address")
    assert server.requests == []


async def test_a_link_to_a_clouds_credentials_is_not_followed(tmp_path: Path) -> None:
    """Nor does the emulator, on this machine, lead there."""
    for base_url in (VENDOR, HERE):
        async with client(base_url) as kling:
            await refused(kling, Video(url=METADATA), tmp_path, "169.254.169.254")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", *DISGUISES])
async def test_a_redirect_to_this_machine_is_not_followed(
    tmp_path: Path, host: str
) -> None:
    """The first host is allowed, since the API is there; where it leads is not."""
    async with RawServer(answering(whole())) as inside:
        hop = answering(redirect(video(inside, host).url))
        async with RawServer(hop) as server:
            # No name of this machine that is known before it is looked up.
            link = video(server, "127.1")
            async with client(link.url.removesuffix("/output.mp4")) as kling:
                await refused(kling, link, tmp_path, "not a public address")
        assert len(server.requests) == 1
    assert inside.requests == []


async def test_a_name_is_judged_by_the_address_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads to this machine, now or when it is asked again."""
    known = asyncio.get_running_loop().getaddrinfo

    async def resolve(host: bytes, port: int, **hints: int) -> object:
        return await known(
            "127.0.0.1" if host == b"films.example" else host, port, **hints
        )

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with RawServer(answering(whole())) as server:
        link = video(server, "films.example")
        async with client(VENDOR) as kling:
            await refused(kling, link, tmp_path, "leads to 127.0.0.1, which is no")
        assert server.requests == []
        async with client(VENDOR, allow_private_downloads=True) as kling:
            await kling.download(link, tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == FILM


async def test_a_connection_that_was_allowed_is_not_for_those_it_is_not(
    tmp_path: Path,
) -> None:
    """Clients that share connections do not share what they may reach."""
    async with RawServer(answering(whole())) as server, client(VENDOR) as kling:
        link = video(server, "127.1")
        generous = kling.with_options(allow_private_downloads=True)
        await generous.download(link, tmp_path / "film.mp4")
        (tmp_path / "film.mp4").unlink()
        await refused(kling, link, tmp_path, "not a public address")
    assert len(server.requests) == 1


async def test_behind_a_proxy_names_are_its_business_and_addresses_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy itself may be anywhere: the user named it."""
    async with RawServer(answering(whole())) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client(VENDOR) as kling:
            for url in ("http://10.0.0.1/v.mp4", "http://localhost/v.mp4"):
                await refused(kling, Video(url=url), tmp_path, "not a public address")
            link = Video(url="http://films.example/v.mp4")
            await kling.download(link, tmp_path / "film.mp4")
    assert [it.target for it in proxy.requests] == [link.url]


async def test_over_a_transport_that_shows_no_address_names_are_refused(
    tmp_path: Path,
) -> None:
    """A private one could not be ruled out; whoever allows it anyway may."""
    async with RawServer(answering(whole())) as server:
        link = video(server, "127.1")  # a name: no address as addresses are written
        for lent in (HttpxAiohttpClient(), httpx.AsyncClient(transport=Wrapped())):
            async with lent, client(VENDOR, http_client=lent) as kling:
                match = "does not show it.*allow_private_downloads"
                await refused(kling, link, tmp_path, match)
        assert server.requests == []
        lent = httpx.AsyncClient(transport=Wrapped())
        generous = client(VENDOR, http_client=lent, allow_private_downloads=True)
        async with lent, generous:
            await generous.download(link, tmp_path / "film.mp4")
    assert len(server.requests) == 1


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_connection_that_its_owner_made_before_is_not_used(
    tmp_path: Path, library: ModuleType
) -> None:
    """A lent client keeps some open, and nobody saw where they lead."""
    async with RawServer(answering(whole())) as server, library.AsyncClient() as lent:
        link = video(server, "127.1")
        for _ in range(2):
            await lent.get(link.url)
        async with client(VENDOR, http_client=lent) as kling:
            await refused(kling, link, tmp_path, "leads to 127.0.0.1, which is no")
        assert len(server.requests) == 2
        await lent.get(link.url)  # its owner goes on as before


class Wrapped(httpx.AsyncBaseTransport):
    """A transport of the user's own, that tells nothing of its connections."""

    def __init__(self) -> None:
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it on, but for what it would tell."""
        request.extensions.pop("trace", None)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close it."""
        await self._inner.aclose()


@pytest.mark.parametrize("is_lent", [False, True])
async def test_a_store_learns_nothing_of_another_one_or_of_the_user(
    tmp_path: Path, *, is_lent: bool
) -> None:
    """No cookie goes from one download to the next, nor into a redirect."""
    film_ = answer(FILM, set_cookie="track=1; Path=/")
    hop = redirect("/elsewhere").replace(b"\r\n", b"\r\nset-cookie: hop=1\r\n", 1)
    http = httpx.AsyncClient(
        cookies={"mine": "1"},
        headers={"authorization": "Bearer mine", "x-mine": "1"},
        params={"mine": "1"},
    )
    script = one_each(film_, hop, film_)
    kling = client(http_client=http if is_lent else None)
    async with RawServer(script) as server, http, kling:
        for _ in range(2):
            await kling.download(video(server), tmp_path / "film.mp4")
    assert len(server.requests) == 3
    for request in server.requests:
        assert "cookie" not in request.headers
        assert "mine" not in str(request)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://films.example/v.mp4"])
async def test_a_redirect_to_what_is_no_web_is_not_followed(
    tmp_path: Path, to: str
) -> None:
    """Once; nothing on this machine is read in its place."""
    async with RawServer(answering(redirect(to))) as server, client() as kling:
        await refused(kling, video(server), tmp_path, "nothing was written|not an http")
    assert len(server.requests) == 1


async def test_redirects_without_an_end_are_given_up(tmp_path: Path) -> None:
    """After ten of them, whatever their bodies weigh."""
    endless = (
        b"HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 999999999\r\n\r\n"
    )
    async with RawServer(answering(endless)) as server, client() as kling:
        await refused(kling, video(server), tmp_path, "more than 10 redirects")
    assert len(server.requests) == 11


# --- how much it is, and how long it takes


@pytest.mark.parametrize(
    "sent",
    [whole(), whole(sent=0), without_length(FILM)],
    ids=["told", "told alone", "untold"],
)
async def test_a_file_over_the_limit_is_refused(tmp_path: Path, sent: bytes) -> None:
    """By its head where that tells, else as soon as it passes the limit."""
    async with RawServer(one_each(sent)) as server, client() as kling:
        with pytest.raises(DownloadError, match="holds more than 1,000 bytes"):
            await kling.download(video(server), tmp_path / "film.mp4", max_bytes=1000)
        assert names_in(tmp_path) == []
    assert len(server.requests) == 1


async def test_a_file_of_just_the_limit_is_taken(tmp_path: Path) -> None:
    """Told or not."""
    script = one_each(whole(), without_length(FILM))
    async with RawServer(script) as server, client() as kling:
        for name in ("told.mp4", "untold.mp4"):
            await kling.download(video(server), tmp_path / name, max_bytes=len(FILM))
    assert names_in(tmp_path) == ["told.mp4", "untold.mp4"]


async def test_a_file_without_an_end_fills_no_disk(tmp_path: Path) -> None:
    """It is cut off at the limit; a gibibyte by default."""

    async def without_end() -> AsyncIterator[bytes]:
        yield FILM
        while True:
            yield bytes(2**20)

    def endless(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=without_end())

    http = httpx.AsyncClient(transport=httpx.MockTransport(endless))
    async with http, client(http_client=http) as kling:
        link = Video(url="https://films.example/v.mp4")
        with pytest.raises(DownloadError, match="more than 9,000,000 bytes"):
            await kling.download(link, tmp_path / "film.mp4", max_bytes=9_000_000)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1"])
async def test_a_limit_that_is_none_is_told_of(tmp_path: Path, limit: object) -> None:
    """With what is allowed."""
    async with client() as kling:
        with pytest.raises(DownloadError, match=r"max_bytes: given .* allowed: a"):
            await kling.download(  # type: ignore[call-overload]  # the slip
                Video(url=HERE),
                tmp_path / "film.mp4",
                max_bytes=limit,  # pyright: ignore[reportArgumentType]  # as above
            )
        with pytest.raises(ConfigurationError, match="timeout: given -1"):
            await kling.download(Video(url=HERE), tmp_path / "film.mp4", timeout=-1)


@without_waiting
async def test_a_file_that_trickles_for_ever_is_given_up(tmp_path: Path) -> None:
    """It is never silent for long, and it would never end."""

    async def trickle(_: RawRequest, peer: Peer) -> None:
        await peer.send(whole(sent=0))
        for byte in FILM:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.02)

    async with RawServer(trickle) as server, client() as kling:
        with pytest.raises(DownloadError, match=r"longer than 0\.2 s.*timeout="):
            await kling.download(video(server), tmp_path / "film.mp4", timeout=0.2)
    assert names_in(tmp_path) == []
    assert len(server.requests) == 1


# --- what it is


async def test_what_does_not_begin_as_an_mp4_is_not_fetched(tmp_path: Path) -> None:
    """Its first bytes tell; no type that the server calls it counts."""
    picture = answer(b"\x89PNG\r\n\x1a\n" * 1000, content_type="video/mp4")
    async with RawServer(answering(picture)) as server, client() as kling:
        await refused(kling, video(server), tmp_path, "is not an MP4 that opens")
    assert len(server.requests) == 1


async def test_a_film_that_was_cut_without_a_word_is_fetched_again(
    tmp_path: Path,
) -> None:
    """Where no length is told, the film itself tells that its end is missing."""
    script = one_each(without_length(FILM[:-9]), without_length(FILM))
    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    assert len(server.requests) == 2


async def test_a_film_that_stays_broken_is_told_of(tmp_path: Path) -> None:
    """After as many attempts as the policy has, each from the beginning."""
    async with RawServer(one_each(whole(FTYP))) as server, client() as kling:
        match = r"no box moov.*nothing was written.*check_mp4=False"
        await refused(kling, video(server), tmp_path, match)
    assert [it.headers.get("range") for it in server.requests] == [None] * 3


@pytest.mark.parametrize(
    "content", [FTYP, b"GIF89a" * 99, b"x"], ids=["head", "picture", "byte"]
)
async def test_whoever_wants_it_as_it_is_gets_it(
    tmp_path: Path, content: bytes
) -> None:
    """No paid video is lost to a check."""
    async with RawServer(one_each(whole(content))) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film", check_mp4=False)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "total, etag",
    [(len(FILM), OTHER_TAG), (len(FILM) + 1, TAG), (len(FILM), 'W/"one"')],
    ids=["other tag", "other length", "weak tag"],
)
async def test_the_rest_of_another_file_is_not_put_to_this_one(
    tmp_path: Path, total: int, etag: str
) -> None:
    """Also when the server does not keep to If-Range: it is begun anew."""
    rest = answer(
        bytes(50_000) + FILM[50_000:],
        "206 Partial Content",
        etag=etag,
        content_range=f"bytes 50000-{total - 1}/{total}",
    )
    script = one_each(whole(sent=50_000), rest, whole())
    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    ranges = [it.headers.get("range") for it in server.requests]
    assert ranges == [None, "bytes=50000-", None]


@pytest.mark.parametrize("etag", ['"a" b"', '"\xe4"', "bare"])
async def test_a_tag_that_is_none_is_not_sent_back(tmp_path: Path, etag: str) -> None:
    """Without one the file is begun anew."""
    head = whole().replace(TAG.encode(), etag.encode("latin-1"))
    script = one_each(head[:-9], head)
    async with RawServer(script) as server, client() as kling:
        await kling.download(video(server), tmp_path / "film.mp4")
    assert "if-range" not in server.requests[1].headers


# --- where it goes


async def test_no_name_that_the_server_gives_is_used(tmp_path: Path) -> None:
    """Neither the video's, nor the link's, nor that of a header."""
    (tmp_path / "videos").mkdir()
    named = whole().replace(
        b"\r\n", b'\r\ncontent-disposition: attachment; filename="../evil.mp4"\r\n', 1
    )
    async with RawServer(one_each(named)) as server, client() as kling:
        link = Video(
            url=f"{server.base_url}/../%2e%2e/evil.mp4", file_name="../evil.mp4"
        )
        await kling.download(link, tmp_path / "videos" / "film.mp4")
    assert names_in(tmp_path) == ["videos"]
    assert names_in(tmp_path / "videos") == ["film.mp4"]


@pytest.mark.parametrize("leads_to", ["precious.txt", "missing.txt"])
async def test_a_link_is_replaced_and_not_followed(
    tmp_path: Path, leads_to: str
) -> None:
    """What it leads to stays what it is."""
    precious, target = tmp_path / "precious.txt", tmp_path / "film.mp4"
    precious.write_text("precious")
    target.symlink_to(tmp_path / leads_to)
    async with RawServer(one_each(whole())) as server, client() as kling:
        await kling.download(video(server), target)
    assert not target.is_symlink()
    assert target.read_bytes() == FILM
    assert precious.read_text() == "precious"
    assert names_in(tmp_path) == ["film.mp4", "precious.txt"]


async def test_a_link_in_the_way_of_the_hidden_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever guessed its name has nothing written through their link."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / ".kling-guessed.part").symlink_to(precious)
    async with RawServer(one_each(whole())) as server, client() as kling:
        with pytest.raises(DownloadError, match="File exists"):
            await kling.download(video(server), tmp_path / "film.mp4")
    assert precious.read_text() == "precious"
    assert server.requests == []
