"""A video on its way to a file: whole or not at all, and resumed where it broke."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import os
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import av
import httpx
import pytest
import socket_clock
from attrs import evolve
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
    ClientClosedError,
    DownloadError,
    Generation,
    GenerationError,
    Hooks,
    KlingError,
    RetryEvent,
    RetryPolicy,
    Status,
    TextToVideo,
    Video,
)
from kling_async.emulator import Emulator, Fault

BASE_URL = "http://localhost:1"  # so whatever lies on this machine may be fetched
FILM = film((bytes(range(256)) * 1000)[len(film(b"")) :])
OTHER = film(FILM[: len(film(b"")) - 1 : -1])
SHORT = film(b"short")
WEBM = b"\x1aE\xdf\xa3" + bytes(3000)
TAG, OTHER_TAG = '"one"', '"other"'
ID = "88a64d31-cce4-41e8-b9d8-5392e8c2a6d4:kling-video/v2/master/image-to-video"


def client(
    *, attempts: int = 3, timeout: float = 30, hooks: Hooks | None = None
) -> AsyncKling:
    """Give a client that waits for nothing between two attempts."""
    return AsyncKling(
        "some-key",
        base_url=BASE_URL,
        timeout=timeout,
        retry=RetryPolicy(attempts=attempts, initial=0),
        hooks=hooks,
    )


def video(server: RawServer) -> Video:
    """Give the video that a server has."""
    return Video(url=f"{server.base_url}/output.mp4")


def whole(content: bytes = FILM, etag: str = TAG, *, sent: int | None = None) -> bytes:
    """Give the answer that brings all, or its beginning with so many bytes of it."""
    head = answer(content, content_type="video/mp4", etag=etag)
    return head[: len(head) - len(content) + (len(content) if sent is None else sent)]


def part(begin: int, end: int = len(FILM), content: bytes = FILM) -> bytes:
    """Give the answer that brings a part."""
    return answer(
        content[begin:end],
        "206 Partial Content",
        content_type="video/mp4",
        etag=TAG,
        content_range=f"bytes {begin}-{end - 1}/{len(content)}",
    )


def in_turn(*scripts: Script | bytes) -> Script:
    """Let each request meet the next script; bytes are sent, then it hangs up."""
    left = list(scripts)

    async def script(request: RawRequest, peer: Peer) -> None:
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, bytes):
            await peer.send(now)
            peer.hang_up()
        else:
            await now(request, peer)

    return script


def files_in(folder: Path) -> list[str]:
    """List a folder, hidden files too."""
    return sorted(os.listdir(folder))  # noqa: PTH208 (names are enough)


async def until_empty(folder: Path) -> None:
    """Wait until no file is left."""
    with anyio.fail_after(300):
        while files_in(folder):  # noqa: ASYNC110 (nobody tells of a file's end)
            await asyncio.sleep(0.01)


# --- the whole way


async def test_a_generated_video_is_there_and_plays(tmp_path: Path) -> None:
    """From the emulator over a socket: a Generation or a Video, a str or a Path."""
    async with (
        Emulator(speed=1e6, size=128) as emulator,
        AsyncKling("some-key", base_url=emulator.base_url) as kling,
    ):
        generation = await kling.generate(TextToVideo(prompt="A sunset."))
        assert generation.video is not None
        target = tmp_path / "sunset.mp4"
        assert await kling.download(generation, target) == target
        again = await kling.download(generation.video, str(tmp_path / "again.mp4"))
    assert again == tmp_path / "again.mp4"
    assert target.read_bytes() == (tmp_path / "again.mp4").read_bytes()
    assert len(target.read_bytes()) == generation.video.file_size
    with av.open(io.BytesIO(target.read_bytes()), "r") as film:
        assert film.duration == 5 * av.time_base
    assert files_in(tmp_path) == ["again.mp4", "sunset.mp4"]


async def test_a_broken_link_to_the_emulator_is_resumed(tmp_path: Path) -> None:
    """The fault is the emulator's own, the bytes are all there."""
    told: list[RetryEvent] = []
    async with (
        Emulator(speed=1e6, size=128) as emulator,
        client(hooks=Hooks(on_retry=told.append)) as kling,
    ):
        api = kling.with_options(base_url=emulator.base_url)
        generation = await api.generate(TextToVideo(prompt="A sunset."))
        assert generation.video is not None
        emulator.faults.add(Fault("cut", path="files", times=1))
        path = await kling.download(generation, tmp_path / "film.mp4")
    assert path.stat().st_size == generation.video.file_size
    assert len(told) == 1
    with av.open(path, "r") as film:
        assert film.duration == 5 * av.time_base


async def test_many_videos_come_at_once(tmp_path: Path) -> None:
    """Each to its own file, with what belongs in it."""

    async def script(request: RawRequest, peer: Peer) -> None:
        await peer.send(answer(film(request.target.encode() * 10_000)))

    async with RawServer(script) as server, client() as kling:

        async def one(number: int) -> None:
            url = f"{server.base_url}/{number}"
            path = await kling.download(Video(url=url), tmp_path / f"{number}.mp4")
            assert path.read_bytes() == film(f"/{number}".encode() * 10_000)

        await asyncio.gather(*(one(number) for number in range(50)))
    assert len(files_in(tmp_path)) == 50


async def test_a_file_that_is_there_is_replaced_at_the_end(tmp_path: Path) -> None:
    """Until then it is what it was, and after a failure it still is."""
    target = tmp_path / "film.mp4"
    target.write_bytes(b"old")
    seen: list[bytes] = []

    async def script(_: RawRequest, peer: Peer) -> None:
        await peer.send(whole(sent=1000))
        seen.append(target.read_bytes())
        await peer.send(FILM[1000:])

    gone = answering(answer(status="404 Not Found"))
    async with RawServer(gone) as server, client() as kling:
        with pytest.raises(DownloadError):
            await kling.download(video(server), target)
    assert target.read_bytes() == b"old"
    async with RawServer(script) as server, client() as kling:
        await kling.download(video(server), target)
    assert seen == [b"old"]
    assert target.read_bytes() == FILM
    assert files_in(tmp_path) == ["film.mp4"]


async def test_two_downloads_to_one_file_leave_one_of_them_whole(
    tmp_path: Path,
) -> None:
    """They do not write into each other."""
    target = tmp_path / "film.mp4"
    async with (
        RawServer(answering(whole())) as server,
        RawServer(answering(whole(OTHER))) as other,
        client() as kling,
    ):
        await asyncio.gather(
            kling.download(video(server), target), kling.download(video(other), target)
        )
    assert target.read_bytes() in (FILM, OTHER)
    assert files_in(tmp_path) == ["film.mp4"]


# --- what heals


async def test_a_drop_is_resumed_where_it_broke(tmp_path: Path) -> None:
    """With Range and If-Range, each byte once; every drop is told of."""
    told: list[RetryEvent] = []
    script = in_turn(whole(sent=100_000), part(100_000)[:-50_000], part(206_000))
    hooks = Hooks(on_retry=told.append)
    async with RawServer(script) as server, client(hooks=hooks) as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    ranges = [it.headers.get("range") for it in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=206000-"]
    conditions = [it.headers.get("if-range") for it in server.requests]
    assert conditions == [None, TAG, TAG]
    assert [it.attempt for it in told] == [1, 2]


async def test_attempts_count_only_where_nothing_new_comes(tmp_path: Path) -> None:
    """A link that drops every eighth brings it all, in 8 requests of 3 attempts."""
    step = len(FILM) // 8 + 1

    async def script(request: RawRequest, peer: Peer) -> None:
        begin = int(request.headers.get("range", "bytes=0-")[6:-1])
        rest = whole(FILM) if begin == 0 else part(begin)
        await peer.send(rest[: len(rest) - (len(FILM) - begin) + step])
        peer.hang_up()

    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    assert len(server.requests) == 8


async def test_bytes_that_came_before_are_no_progress(tmp_path: Path) -> None:
    """A server that breaks off at the same place for ever is given up."""
    script = in_turn(whole(etag="", sent=1000))
    async with RawServer(script) as server, client() as kling:
        with pytest.raises(DownloadError, match="nothing was written"):
            await kling.download(video(server), tmp_path / "film.mp4")
    assert len(server.requests) == 4  # the first one was progress


@pytest.mark.parametrize("status", ["429 Busy", "503 Busy"])
def test_a_busy_store_is_left_alone_for_as_long_as_it_asks(
    tmp_path: Path, status: str
) -> None:
    """As the API is."""
    waits: list[float] = []
    hooks = Hooks(on_retry=lambda event: waits.append(event.delay))
    busy = answer(b"", status, retry_after="6")

    async def fetch() -> None:
        script = in_turn(busy, busy, whole())
        async with RawServer(script) as server, client(hooks=hooks) as kling:
            await kling.download(video(server), tmp_path / "film.mp4")

    socket_clock.run(fetch)
    assert waits == [6, 6]


async def test_another_file_under_the_same_link_is_begun_anew(tmp_path: Path) -> None:
    """The server answers with the whole of it, since the ETag does not fit."""
    script = in_turn(whole(sent=100_000), whole(OTHER, OTHER_TAG))
    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == OTHER


async def test_a_shorter_file_leaves_nothing_of_the_longer_one(tmp_path: Path) -> None:
    """What was written before is cut off."""
    script = in_turn(whole(sent=100_000), whole(SHORT, OTHER_TAG))
    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == SHORT


@pytest.mark.parametrize("etag", ['W/"weak"', ""])
async def test_without_a_strong_etag_it_is_begun_anew(
    tmp_path: Path, etag: str
) -> None:
    """Nobody could tell whether the rest belongs to the same bytes."""
    script = in_turn(whole(etag=etag, sent=100_000), whole(etag=etag))
    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    assert [it.headers.get("range") for it in server.requests] == [None, None]


@pytest.mark.parametrize(
    "second",
    [
        answer(b"", "416 Range Not Satisfiable"),
        part(50_000),
        answer(FILM[100_000:], "206 Partial Content"),
        answer(FILM, "206 Partial Content", content_range="bytes what"),
    ],
    ids=["416", "elsewhere", "untold", "odd"],
)
async def test_a_range_that_does_not_fit_is_given_up(
    tmp_path: Path, second: bytes
) -> None:
    """It is begun anew, without a range."""
    script = in_turn(whole(sent=100_000), second, whole())
    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    ranges = [it.headers.get("range") for it in server.requests]
    assert ranges == [None, "bytes=100000-", None]


async def test_a_server_that_sends_all_as_a_part_is_understood(tmp_path: Path) -> None:
    """It is the whole from its beginning, whatever was asked for."""
    script = in_turn(whole(sent=100_000), part(0))
    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM


async def test_a_server_that_sends_little_at_a_time_is_asked_on(tmp_path: Path) -> None:
    """A part that ends before the whole does is not taken for the whole."""
    script = in_turn(whole(sent=100_000), part(100_000, 150_000), part(150_000))
    async with RawServer(script) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM


@pytest.mark.parametrize(
    "first",
    [
        *(answer(b"", f"{code} Odd") for code in (408, 425, 429, 500, 501, 503, 520)),
        hang_up,
        reset,
        whole(sent=0),
        whole()[:20],
        b"what?\r\n\r\n",
    ],
)
async def test_a_hiccup_heals(tmp_path: Path, first: Script | bytes) -> None:
    """What failed in passing is asked for again."""
    async with RawServer(in_turn(first, whole())) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    assert len(server.requests) == 2


@pytest.mark.parametrize("sent", [0, 1000])
@without_waiting
async def test_a_silence_is_a_drop(tmp_path: Path, sent: int) -> None:
    """No byte for longer than the client's time-out, before or in the middle."""

    async def fall_silent(request: RawRequest, peer: Peer) -> None:
        await peer.send(whole(sent=sent) if sent else b"")
        await stay_silent(request, peer)

    script = in_turn(fall_silent, part(sent) if sent else whole())
    async with RawServer(script) as server, client(timeout=0.2) as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM


async def test_no_length_is_no_reason_to_doubt(tmp_path: Path) -> None:
    """Chunks tell their own end; when it is missing the download is made again."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(SHORT), SHORT)
    async with RawServer(in_turn(chunked[:-5], chunked)) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == SHORT
    assert len(server.requests) == 2


async def test_a_redirect_is_followed_and_the_key_stays_here(tmp_path: Path) -> None:
    """Videos lie on other hosts: none of them sees it."""
    async with RawServer(answering(whole())) as store:
        elsewhere = answer(b"", "302 Found", location=video(store).url)
        async with RawServer(answering(elsewhere)) as server, client() as kling:
            path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    for request in (*server.requests, *store.requests):
        assert "authorization" not in request.headers
        assert "some-key" not in str(request)
        assert request.headers["accept-encoding"] == "identity"


# --- what does not


@pytest.mark.parametrize("script", [hang_up, answering(answer(b"", "503 Odd"))])
async def test_what_does_not_heal_ends_as_an_error(
    tmp_path: Path, script: Script
) -> None:
    """After as many attempts as the policy has, with the cause, and no file."""
    async with RawServer(script) as server, client() as kling:
        with pytest.raises(DownloadError, match="nothing was written") as caught:
            await kling.download(video(server), tmp_path / "film.mp4")
    assert isinstance(caught.value.__cause__, KlingError)
    assert "/output.mp4" in str(caught.value)
    assert len(server.requests) == 3
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
async def test_a_link_that_leads_nowhere_is_told_of(tmp_path: Path, code: int) -> None:
    """With what to do about it, after it was asked for a few times more."""
    script = answering(answer(b"", f"{code} No"))
    async with RawServer(script) as server, client() as kling:
        with pytest.raises(DownloadError, match="link may have expired") as caught:
            await kling.download(video(server), tmp_path / "film.mp4")
    assert caught.value.hint == "get_a_fresh_link"
    assert str(code) in str(caught.value)
    assert len(server.requests) == 3
    assert files_in(tmp_path) == []


async def test_a_back_off_beyond_all_numbers_is_the_longest_one(
    tmp_path: Path,
) -> None:
    """A policy may grow so fast that its wait is too large for a number."""
    policy = RetryPolicy(attempts=4, initial=0, factor=1e300, maximum=0)
    gone = answering(answer(b"", "404 Not Found"))
    kling = AsyncKling("some-key", base_url=BASE_URL, retry=policy)
    async with RawServer(gone) as server, kling:
        with pytest.raises(DownloadError, match="answered 404"):
            await kling.download(video(server), tmp_path / "film.mp4")
    assert len(server.requests) == policy.attempts


@pytest.mark.parametrize("code", [403, 404])
async def test_a_video_that_is_not_there_yet_is_asked_for_again(
    tmp_path: Path, code: int
) -> None:
    """Just after its generation completed a store may not have it, or not show it."""
    gone = answer(b"<Error>NoSuchKey</Error>", f"{code} No")
    async with RawServer(in_turn(gone, gone, whole())) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM


def test_a_store_gets_the_time_that_it_needs(tmp_path: Path) -> None:
    """By default 15 seconds after the first 404: no chance makes them fewer."""
    waits: list[float] = []
    hooks = Hooks(on_retry=lambda event: waits.append(event.delay))
    gone = answering(answer(b"", "404 Not Found"))

    async def fetch() -> None:
        kling = AsyncKling("some-key", base_url=BASE_URL, hooks=hooks)
        async with RawServer(gone) as server, kling:
            with pytest.raises(DownloadError):
                await kling.download(video(server), tmp_path / "film.mp4")

    socket_clock.run(fetch)
    assert waits == [1, 2, 4, 8]


async def test_an_expired_link_is_fetched_anew(tmp_path: Path) -> None:
    """A generation is asked for its link of today, at once, and once."""

    async def script(request: RawRequest, peer: Peer) -> None:
        if request.target.startswith("/v2"):
            fresh = {"url": f"{server.base_url}/fresh.mp4"}
            await peer.send(answer({"id": ID, "status": "completed", "video": fresh}))
        elif request.target == "/fresh.mp4":
            await peer.send(whole())
        else:
            await peer.send(answer(b"", "403 Expired"))

    old = Generation(id=ID, status=Status.COMPLETED, video=Video(url="http://x"))
    async with RawServer(script) as server, client() as kling:
        old = evolve(old, video=video(server))
        api = kling.with_options(base_url=server.base_url)
        path = await api.download(old, tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    asked = [it.target.partition("?")[0] for it in server.requests]
    assert asked == ["/output.mp4", "/v2/video/generations", "/fresh.mp4"]


@pytest.mark.parametrize("code", [204, 304, 400, 418])
async def test_any_other_answer_is_told_of(tmp_path: Path, code: int) -> None:
    """Once, with its status."""
    script = answering(answer(b"", f"{code} Odd"))
    async with RawServer(script) as server, client() as kling:
        with pytest.raises(DownloadError, match=f"answered {code}$"):
            await kling.download(video(server), tmp_path / "film.mp4")
    assert len(server.requests) == 1
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "kind", ["text/html; charset=utf-8", "Text/Plain", "application/json"]
)
@pytest.mark.parametrize("check", [True, False])
async def test_a_page_in_place_of_a_video_is_refused(
    tmp_path: Path, kind: str, *, check: bool
) -> None:
    """A login page with status 200 becomes no video, checked or not."""
    page = answer(b"<title>Sign in</title>", content_type=kind)
    async with RawServer(answering(page)) as server, client() as kling:
        with pytest.raises(DownloadError, match="not with a video"):
            await kling.download(video(server), tmp_path / "film.mp4", check_mp4=check)
    assert len(server.requests) == 1
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "text/html"])
async def test_the_bytes_decide_and_not_the_type(tmp_path: Path, kind: str) -> None:
    """What a store calls a film by mistake is a film."""
    script = answering(answer(FILM, content_type=kind))
    async with RawServer(script) as server, client() as kling:
        await kling.download(video(server), tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == FILM


CODINGS = ["aws-chunked", "Identity", "utf-8", "binary", "", "none, aws-chunked", "br"]


@pytest.mark.parametrize("coding", [*CODINGS, "gzip", "deflate"])
@pytest.mark.parametrize("content", [FILM, WEBM], ids=["mp4", "webm"])
async def test_the_bytes_decide_and_not_what_they_are_said_to_be_packed_with(
    tmp_path: Path, coding: str, content: bytes
) -> None:
    """Stores give back what an uploader said, or make words up."""
    plain = answer(content, content_encoding=coding)
    async with RawServer(answering(plain)) as server, client() as kling:
        path = await kling.download(
            video(server), tmp_path / "film", check_mp4=content is FILM
        )
    assert path.read_bytes() == content


PACKED = {
    "gzip": gzip.compress(FILM),
    "": gzip.compress(FILM),
    "GZip": gzip.compress(FILM[:5]) + gzip.compress(FILM[5:]) + bytes(9),
    "deflate": zlib.compress(FILM),
    "Deflate": zlib.compress(FILM, wbits=-zlib.MAX_WBITS),
}


@pytest.mark.parametrize("coding, packed", PACKED.items(), ids=PACKED)
async def test_what_is_really_packed_is_unpacked(
    tmp_path: Path, coding: str, packed: bytes
) -> None:
    """Also when it breaks off in the middle: then it is begun anew."""
    sent = answer(packed, content_encoding=coding, etag=TAG)
    async with RawServer(in_turn(sent[:-50], sent)) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM
    assert [it.headers.get("range") for it in server.requests] == [None, None]


async def test_a_few_packed_bytes_fill_no_disk(tmp_path: Path) -> None:
    """The limit holds for what is unpacked."""
    bomb = answer(gzip.compress(film(bytes(10_000_000))))
    async with RawServer(answering(bomb)) as server, client() as kling:
        with pytest.raises(DownloadError, match="more than 1,000,000 bytes"):
            await kling.download(video(server), tmp_path / "f", max_bytes=1_000_000)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "coding, packed", [("br", b"\x8b\x02\x80packed"), ("", b"\x28\xb5\x2f\xfd" * 9)]
)
async def test_what_cannot_be_unpacked_is_never_saved_packed(
    tmp_path: Path, coding: str, packed: bytes, *, check: bool
) -> None:
    """Nobody asked for it, and nobody could play it."""
    sent = answer(packed, content_encoding=coding)
    async with RawServer(answering(sent)) as server, client() as kling:
        with pytest.raises(DownloadError, match=r"packed with (br|zstd)"):
            await kling.download(video(server), tmp_path / "f", check_mp4=check)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "binary/odd"])
async def test_what_may_be_a_video_is_taken(tmp_path: Path, kind: str) -> None:
    """Stores are careless with types."""
    film = answer(FILM, content_type=kind) if kind else answer(FILM)
    async with RawServer(answering(film)) as server, client() as kling:
        path = await kling.download(video(server), tmp_path / "film.mp4")
    assert path.read_bytes() == FILM


async def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """It is no video, whatever it says."""
    empty = answer(b"", content_type="video/mp4")
    async with RawServer(answering(empty)) as server, client() as kling:
        with pytest.raises(DownloadError, match="empty file"):
            await kling.download(video(server), tmp_path / "film.mp4")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "output.mp4",
        "ftp://example.com/v.mp4",
        "file:///etc/passwd",
        "http://x:y/v.mp4",
    ],
)
async def test_what_is_no_link_is_told_of(tmp_path: Path, url: str) -> None:
    """Nothing on this machine is ever read in its place."""
    async with client() as kling:
        with pytest.raises(DownloadError, match=r"is not an http|is not a URL"):
            await kling.download(Video(url=url), tmp_path / "film.mp4")
    assert files_in(tmp_path) == []


async def test_no_error_of_a_users_own_client_comes_through(tmp_path: Path) -> None:
    """Whatever its hooks raise."""

    async def raise_odd(_: object) -> None:
        raise ZeroDivisionError("odd")

    http = httpx.AsyncClient(event_hooks={"response": [raise_odd]})
    kling = AsyncKling(
        "some-key", base_url=BASE_URL, http_client=http, retry=RetryPolicy(attempts=1)
    )
    async with RawServer(answering(whole())) as server, http, kling:
        with pytest.raises(DownloadError, match="ZeroDivisionError: odd"):
            await kling.download(video(server), tmp_path / "film.mp4")
    assert files_in(tmp_path) == []


async def test_the_users_own_credentials_are_not_for_the_store(tmp_path: Path) -> None:
    """Those of an httpx client that was given are for the API, if for anybody."""
    http = httpx.AsyncClient(auth=("user", "password"))
    kling = AsyncKling("some-key", base_url=BASE_URL, http_client=http)
    async with RawServer(answering(whole())) as server, http, kling:
        await kling.download(video(server), tmp_path / "film.mp4")
    assert "authorization" not in server.requests[0].headers


async def test_a_body_that_is_shorter_than_its_head_said_is_not_taken(
    tmp_path: Path,
) -> None:
    """Whatever lies between this client and the server."""

    async def half() -> AsyncIterator[bytes]:
        yield b"half"

    def lie(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-length": "8"}, content=half())

    http = httpx.AsyncClient(transport=httpx.MockTransport(lie))
    kling = AsyncKling(
        "some-key", base_url=BASE_URL, http_client=http, retry=RetryPolicy(attempts=1)
    )
    async with http, kling:
        with pytest.raises(DownloadError, match="sent 4 of 8 bytes"):
            await kling.download(Video(url=BASE_URL), tmp_path / "film.mp4")
    assert files_in(tmp_path) == []


async def test_an_answer_that_is_not_read_gives_its_connection_back(
    tmp_path: Path,
) -> None:
    """Else the next download would wait for it for ever."""
    kling = AsyncKling("some-key", base_url=BASE_URL, max_connections=1, timeout=5)
    page = answer(b"<title>Sign in</title>" * 1000, content_type="text/html")
    async with RawServer(answering(page, whole())) as server, kling:
        with pytest.raises(DownloadError):
            await kling.download(video(server), tmp_path / "film.mp4")
        await kling.download(video(server), tmp_path / "film.mp4")
    assert files_in(tmp_path) == ["film.mp4"]


# --- the target


async def refused(target: object, match: str) -> None:
    """See a target refused before anything is asked for."""
    async with RawServer(answering(whole())) as server, client() as kling:
        with pytest.raises(DownloadError, match=match):
            await kling.download(video(server), target)  # type: ignore[call-overload]  # some are none
    assert server.requests == []


async def test_a_directory_is_no_target(tmp_path: Path) -> None:
    """The error names a file that would be one."""
    await refused(
        tmp_path, r"it is a directory; give a file name, such as .*video\.mp4"
    )
    await refused("", "it is a directory")


async def test_a_missing_directory_is_not_made(tmp_path: Path) -> None:
    """A slip of the pen makes no tree of folders."""
    target = tmp_path / "missing" / "film.mp4"
    await refused(target, "there is no directory .*missing; make it first")
    assert files_in(tmp_path) == []


async def test_below_a_file_there_is_no_directory(tmp_path: Path) -> None:
    """Also for root, who may write everywhere else."""
    (tmp_path / "file").write_bytes(b"")
    await refused(tmp_path / "file" / "film.mp4", "there is no directory")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="Linux has it")
async def test_where_nobody_may_write_nothing_is_asked_for() -> None:
    """Not even root writes there."""
    await refused("/proc/self/film.mp4", "cannot write /proc/self/film.mp4: ")


@pytest.mark.parametrize("target", [None, 7, b"film.mp4", "film\0.mp4"])
async def test_what_is_no_path_is_told_of(target: object) -> None:
    """Which was given, and what is allowed."""
    await refused(target, "path: given .* a str or a Path")


@pytest.mark.parametrize("name", ["\ud800.mp4", f"{'ä' * 126}.mp4"])
async def test_a_name_that_no_file_can_have_is_told_of(
    tmp_path: Path, name: str
) -> None:
    """Half of a character, or more than 255 bytes; before anything is fetched."""
    await refused(tmp_path / name, "path: given|cannot write")
    assert files_in(tmp_path) == []


async def test_a_name_as_long_as_names_can_be_is_no_problem(tmp_path: Path) -> None:
    """The hidden file beside it has a short one."""
    target = tmp_path / ("x" * 251 + ".mp4")
    async with RawServer(answering(whole())) as server, client() as kling:
        assert await kling.download(video(server), target) == target
    assert target.read_bytes() == FILM


FULL_DISK = """
import sys
sys.dont_write_bytecode = True  # under the limit only half of it would be kept
import asyncio, resource
from kling_async import AsyncKling, DownloadError, Video

async def main():
    async with AsyncKling("some-key", base_url="http://localhost:1") as kling:
        if "--limit" in sys.argv:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            await kling.download(Video(url=sys.argv[1]), sys.argv[2])
        except DownloadError as error:
            print(error)

asyncio.run(main())
"""
# A file system of our own, of one page more than the part that is to fit.
SMALL_DISK = (
    'mount -t tmpfs -o size=128k none "$2" && echo -n old > "$2/film.mp4" '
    '&& "$0" -c "$1" "$3" "$2/film.mp4"; cat "$2/film.mp4"; ls -A "$2"'
)


def can_mount() -> bool:
    """Whether a process may have file systems of its own here."""
    program = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(program, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits there")
async def test_a_file_that_may_not_grow_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files is met; the error says what the system said."""
    target = tmp_path / "film.mp4"
    target.write_bytes(b"old")
    async with RawServer(answering(whole())) as server:
        program = [sys.executable, "-c", FULL_DISK, video(server).url, str(target)]
        done = await anyio.run_process([*program, "--limit"], stderr=subprocess.STDOUT)
    told = f"cannot write {target}: File too large; no part of it is left"
    assert done.stdout.decode().strip() == told
    assert target.read_bytes() == b"old"
    assert files_in(tmp_path) == ["film.mp4"]


@pytest.mark.skipif(not can_mount(), reason="needs a file system of its own")
async def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    """A real one, of 128 kB: the error says so, the old file is what it was."""
    async with RawServer(answering(whole())) as server:
        program = [sys.executable, FULL_DISK, str(tmp_path), video(server).url]
        done = await anyio.run_process(
            ["unshare", "-Urm", "sh", "-c", SMALL_DISK, *program],
            stderr=subprocess.STDOUT,
        )
    told, left = done.stdout.decode().splitlines()
    assert told.endswith("film.mp4: No space left on device; no part of it is left")
    assert left == "oldfilm.mp4"


# --- how it is left


@pytest.mark.parametrize("sent", [0, 1000])
async def test_whoever_is_cancelled_leaves_at_once_and_no_part_stays(
    tmp_path: Path, sent: int
) -> None:
    """The exchange ends by itself: it is not torn, and not made again."""
    has_begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def script(_: RawRequest, peer: Peer) -> None:
        await peer.send(whole(sent=sent) if sent else b"")
        has_begun.set()
        await may_go_on.wait()
        await peer.send(whole()[-len(FILM) + sent :] if sent else whole())

    async with RawServer(script) as server, client() as kling:
        download = asyncio.create_task(
            kling.download(video(server), tmp_path / "film.mp4")
        )
        await has_begun.wait()
        download.cancel()
        await asyncio.wait([download], timeout=300)
        assert download.cancelled()
        may_go_on.set()
        await until_empty(tmp_path)
    assert len(server.requests) == 1


async def test_whoever_is_cancelled_before_a_retry_is_not_served(
    tmp_path: Path,
) -> None:
    """The next attempt is not made."""
    failed = asyncio.Event()
    hooks = Hooks(on_retry=lambda _: failed.set())
    retry = RetryPolicy(initial=0.2)
    kling = AsyncKling("some-key", base_url=BASE_URL, retry=retry, hooks=hooks)
    async with RawServer(in_turn(hang_up, whole())) as server, kling:
        download = asyncio.create_task(
            kling.download(video(server), tmp_path / "film.mp4")
        )
        await failed.wait()
        download.cancel()
        await until_empty(tmp_path)
    assert len(server.requests) == 1


async def test_closing_the_client_ends_a_download(tmp_path: Path) -> None:
    """At once, with the id, and nothing stays: no file, open or not."""
    has_begun = asyncio.Event()

    async def script(request: RawRequest, peer: Peer) -> None:
        await peer.send(whole(sent=100_000))
        has_begun.set()
        await stay_silent(request, peer)

    async with RawServer(script) as server:
        kling = client()
        generation = Generation(
            id=ID, status=Status.COMPLETED, video=Video(url=video(server).url)
        )
        download = asyncio.create_task(
            kling.download(generation, tmp_path / "film.mp4")
        )
        await has_begun.wait()
        await kling.aclose()
        with pytest.raises(ClientClosedError) as caught:
            await download
    gc.collect()  # a file that was left open would warn now
    assert caught.value.generation_id == ID
    assert files_in(tmp_path) == []


# --- what is given


@pytest.mark.parametrize(
    "status, error, told",
    [
        (Status.GENERATING, None, "no video to download yet: wait for it first"),
        (Status.COMPLETED, None, "no video to download yet: wait for it first"),
        (
            Status.ERROR,
            GenerationError(message="Unsafe"),
            "the generation failed: Unsafe",
        ),
        (Status.ERROR, None, "the generation failed: the server gave no reason"),
    ],
)
async def test_a_generation_without_a_video_is_told_of(
    tmp_path: Path, status: Status, error: GenerationError | None, told: str
) -> None:
    """Whether there will be one, and the id to wait for it."""
    generation = Generation(id=ID, status=status, error=error)
    async with client() as kling:
        with pytest.raises(DownloadError, match=told) as caught:
            await kling.download(generation, tmp_path / "film.mp4")
    assert caught.value.generation is generation
    running = "may still be running" in str(caught.value)
    assert running == (status != Status.ERROR)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("given", [ID, "https://example.com/v.mp4", None, {}])
async def test_what_is_no_generation_is_told_of(tmp_path: Path, given: object) -> None:
    """An id, say: what to give instead is in the error."""
    async with client() as kling:
        with pytest.raises(DownloadError, match="give a Generation or a Video"):
            await kling.download(given, tmp_path / "film.mp4")  # type: ignore[call-overload]  # the slip


async def test_every_error_of_a_download_knows_its_generation(tmp_path: Path) -> None:
    """A fresh link is one `get` away, also when the client has been closed."""
    kling = client()
    generation = Generation(
        id=ID, status=Status.COMPLETED, video=Video(url="http://127.0.0.1:9/v.mp4")
    )
    for error in (DownloadError, ClientClosedError):
        with pytest.raises(error) as caught:
            await kling.download(generation, tmp_path / "film.mp4")
        assert caught.value.generation_id == ID
        assert "may still be running" not in str(caught.value)
        await kling.aclose()
