"""Buckets as the place where videos go and images come from, on a real S3 server."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import cast

import anyio
import pytest
from buckets import Bucket
from films import film
from local_media import image
from raw_server import Peer, RawRequest, RawServer, Script, answer, answering, reset

from kling_async import (
    AsyncKling,
    DownloadError,
    InvalidRequestError,
    RetryPolicy,
    Video,
)
from kling_async._checks import AddressPolicy
from kling_async._files.storage import BucketObject, StorageError

HERE = "http://localhost:1"  # so whatever lies on this machine may be fetched
FILM = film(bytes(range(256)) * 400)
JPEG, PNG = image(400, 500, "JPEG"), image(400, 500)
NARROW = image(100, 500, "JPEG")
LARGE = film(os.urandom(20_000_000))  # three parts of an upload


def client(base_url: str = HERE) -> AsyncKling:
    """Give a client that waits for nothing between two attempts."""
    retry = RetryPolicy(attempts=3, initial=0)
    return AsyncKling("some-key", base_url=base_url, retry=retry)


def video(server: RawServer) -> Video:
    """Give the video that a server has."""
    return Video(url=f"{server.base_url}/output.mp4")


def parts_here() -> set[str]:
    """List the hidden files of downloads that are on their way to a bucket."""
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    return {it.name for it in folder.glob(".kling-*.part")}


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test see its own hidden files alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


# --- videos go into one


@pytest.mark.parametrize(
    "key", ["scene.mp4", "a/b/scene 1.mp4", "ü #1?.mp4", "50%20off+.mp4"]
)
async def test_a_video_goes_to_the_object_of_just_that_name(
    bucket: Bucket, key: str
) -> None:
    """Whatever is in the name; where it is comes back as it was given."""
    async with RawServer(answering(answer(FILM))) as server, client() as kling:
        where = await kling.download(video(server), f"{bucket.url}/{key}")
    assert where == f"{bucket.url}/{key}"
    assert bucket.keys() == [key]
    assert bucket.read(key) == FILM
    assert parts_here() == set()


async def test_a_large_one_goes_in_parts_and_is_resumed_on_its_way(
    bucket: Bucket,
) -> None:
    """Each byte is fetched once, though the link drops in the middle."""
    half = len(LARGE) // 2

    async def script(request: RawRequest, peer: Peer) -> None:
        begin = int(request.headers.get("range", "bytes=0-")[6:-1])
        told = f"bytes {begin}-{len(LARGE) - 1}/{len(LARGE)}"
        status = "206 Partial Content" if begin else "200 OK"
        rest = answer(LARGE[begin:], status, etag='"1"', content_range=told)
        await peer.send(rest if begin else rest[:-half])
        peer.hang_up()

    async with RawServer(script) as server, client() as kling:
        await kling.download(video(server), f"{bucket.url}/large.mp4")
    assert bucket.read("large.mp4") == LARGE
    assert bucket.uploads() == 0
    ranges = [it.headers.get("range") for it in server.requests]
    assert ranges == [None, f"bytes={len(LARGE) - half}-"]


@pytest.mark.parametrize(
    "script",
    [
        answering(answer(b"", "404 Not Found")),
        answering(answer(b"GIF89a" * 99)),
        answering(answer(FILM[:-9])),
        reset,
    ],
    ids=["gone", "picture", "cut", "reset"],
)
async def test_what_is_not_whole_is_not_put_there(
    bucket: Bucket, script: Script
) -> None:
    """It is checked as a file is; what was there before still is."""
    bucket.put("scene.mp4", b"old")
    async with RawServer(script) as server, client() as kling:
        with pytest.raises(DownloadError):
            await kling.download(video(server), f"{bucket.url}/scene.mp4")
    assert bucket.read("scene.mp4") == b"old"
    assert bucket.uploads() == 0
    assert parts_here() == set()


@pytest.mark.usefixtures("bucket")
async def test_a_bucket_that_is_not_there_is_told_of() -> None:
    """By its name, in a line."""
    async with RawServer(answering(answer(FILM))) as server, client() as kling:
        with pytest.raises(DownloadError, match="NoSuchBucket") as caught:
            await kling.download(video(server), "s3://not-there/scene.mp4")
    assert str(caught.value).startswith("cannot write s3://not-there/scene.mp4: there")
    assert "\n" not in str(caught.value)
    assert parts_here() == set()


@pytest.mark.parametrize(
    "url, told",
    [
        ("ftp://host/scene.mp4", "ftp://host"),
        ("s3://bucket", "no object name"),
        ("s3://bucket/", "no object name"),
        ("s3://bucket/a//b.mp4", "s3://bucket"),
        ("s3://bucket/../b.mp4", "s3://bucket"),
        ("s3://bucket/\ud800.mp4", "s3://bucket"),
        (f"s3://bucket/{'ä' * 600}.mp4", "longer than 1,024 bytes"),
    ],
)
async def test_what_names_no_object_is_told_of_before_a_byte_is_fetched(
    bucket: Bucket, url: str, told: str
) -> None:
    """With what was given."""
    async with RawServer(answering(answer(FILM))) as server, client() as kling:
        with pytest.raises(DownloadError, match="cannot write") as caught:
            await kling.download(video(server), url)
    assert told in str(caught.value)
    assert server.requests == []
    str(caught.value).encode()
    assert bucket.keys() == []


async def test_without_the_extra_it_is_named(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it, before a byte is fetched or sent."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    async with RawServer(answering(answer(FILM))) as server, client() as kling:
        with pytest.raises(ModuleNotFoundError, match=r"kling_async\[storage\]"):
            await kling.download(video(server), f"{bucket.url}/scene.mp4")
        with pytest.raises(ModuleNotFoundError, match=r"kling_async\[storage\]"):
            await kling.create(
                model="klingai/v2-master-image-to-video",
                image_url=f"{bucket.url}/mona.jpg",
                prompt="She smiles.",
            )
    assert server.requests == []


# --- a store that fails


def refusal(code: str, status: str) -> bytes:
    """Give a store's answer that means no."""
    return answer(
        f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode(),
        status,
        content_type="application/xml",
    )


@pytest.mark.parametrize(
    "code, status, told",
    [
        ("AccessDenied", "403 Forbidden", "does not allow it"),
        ("ExpiredToken", "400 Bad Request", "credentials have expired"),
        ("InvalidAccessKeyId", "403 Forbidden", "does not allow it"),
    ],
)
@pytest.mark.parametrize("content", [FILM, LARGE], ids=["small", "large"])
async def test_a_store_that_refuses_is_told_of(
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    code: str,
    status: str,
    told: str,
) -> None:
    """At the first request, or in the middle, when credentials expire."""

    async def store(request: RawRequest, peer: Peer) -> None:
        if request.method == "POST" and "uploads" in request.target:
            begun = b"<a><UploadId>1</UploadId></a>"
            await peer.send(answer(begun, content_type="application/xml"))
        elif request.method == "DELETE":
            await peer.send(answer(b"", "204 No Content"))
        else:
            await peer.send(refusal(code, status))

    async with (
        RawServer(store) as refusing,
        RawServer(answering(answer(content))) as server,
        client() as kling,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", refusing.base_url)
        with pytest.raises(DownloadError, match=told) as caught:
            await kling.download(video(server), f"{bucket.url}/scene.mp4")
    assert code in str(caught.value)
    assert "testing" not in str(caught.value)
    if content is LARGE:
        assert "DELETE" in [it.method for it in refusing.requests]  # called off


@pytest.mark.parametrize("content", [FILM, LARGE], ids=["small", "large"])
async def test_a_store_that_drops_every_request_once_gets_it_all(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Each part is sent again by itself."""
    dropped: set[tuple[str, str]] = set()

    async def flaky(request: RawRequest, peer: Peer) -> None:
        mark = (request.method, request.target)
        if mark not in dropped:
            dropped.add(mark)
            peer.reset()
            return
        await relay(request, peer, bucket.endpoint)

    async with (
        RawServer(flaky) as between,
        RawServer(answering(answer(content))) as server,
        client() as kling,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.base_url)
        await kling.download(video(server), f"{bucket.url}/scene.mp4")
    assert bucket.read("scene.mp4") == content
    assert len(dropped) == (1 if content is FILM else 6)


@pytest.mark.parametrize(
    "before", [None, LARGE[:-1], LARGE], ids=["new", "old", "same"]
)
async def test_an_upload_whose_last_answer_is_lost_is_there(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    """The store, asked to end it once more, no longer knows of the upload."""
    if before is not None:
        bucket.put("scene.mp4", before)
    lost: list[RawRequest] = []

    async def losing(request: RawRequest, peer: Peer) -> None:
        if request.method == "POST" and "uploadId=" in request.target and not lost:
            lost.append(request)
            await relay(request, cast("Peer", Deaf()), bucket.endpoint)
            peer.reset()
            return
        await relay(request, peer, bucket.endpoint)

    async with (
        RawServer(losing) as between,
        RawServer(answering(answer(LARGE))) as server,
        client() as kling,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.base_url)
        await kling.download(video(server), f"{bucket.url}/scene.mp4")
    assert bucket.read("scene.mp4") == LARGE
    assert lost


class Deaf:
    """Whoever is sent an answer and does not hear it."""

    async def send(self, data: bytes) -> None:
        """Lose it."""

    def hang_up(self) -> None:
        """Do nothing."""


async def relay(request: RawRequest, peer: Peer, endpoint: str) -> None:
    """Pass a request on to another server, and its answer back."""
    host, port = endpoint.removeprefix("http://").split(":")
    head = f"{request.method} {request.target} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n"
        for name, value in request.headers.items()
        if name != "connection"
    )
    async with await anyio.connect_tcp(host, int(port)) as there:
        await there.send(f"{head}connection: close\r\n\r\n".encode() + request.body)
        async for chunk in there:
            await peer.send(chunk)
    peer.hang_up()


# --- images come out of one


async def created(server: RawServer, **params: object) -> dict[str, object]:
    """Ask for a video, and give the body that went over the wire."""
    import json

    async with client(server.base_url) as kling:
        await kling.create(**{"prompt": "She smiles.", **params})  # type: ignore[arg-type]  # by name
    body = json.loads(server.requests[-1].body)
    assert isinstance(body, dict)
    return body


IMAGE_MODEL = "klingai/v2-master-image-to-video"


async def test_an_image_in_a_bucket_is_signed_for_the_server(bucket: Bucket) -> None:
    """The link works without credentials, for a day."""
    bucket.put("mona.jpg", JPEG)
    async with RawServer(answering(answer())) as server:
        body = await created(
            server, model=IMAGE_MODEL, image_url=f"{bucket.url}/mona.jpg"
        )
    link = str(body["image_url"])
    assert link.startswith(f"{bucket.endpoint}/{bucket.name}/mona.jpg?X-Amz-")
    assert "X-Amz-Expires=86400" in link
    assert "testing" not in link.replace("Credential=testing", "")


async def test_images_in_lists_are_signed_too(bucket: Bucket) -> None:
    """And a prompt that looks like one is a prompt."""
    bucket.put("mona.png", PNG)
    url = f"{bucket.url}/mona.png"
    async with RawServer(answering(answer())) as server:
        body = await created(
            server,
            model="klingai/v1.6-standart-multi-image-to-video",
            image_list=[url, "https://example.com/b.png"],
            prompt=url,
        )
        unknown = await created(server, model="klingai/new", any_url=url, prompt=url)
    images = body["image_list"]
    assert isinstance(images, list)
    assert str(images[0]).startswith(bucket.endpoint)
    assert images[1] == "https://example.com/b.png"
    assert str(unknown["any_url"]).startswith(bucket.endpoint)
    assert body["prompt"] == unknown["prompt"] == url


async def test_where_the_server_could_not_reach_the_store_bytes_are_sent(
    bucket: Bucket,
) -> None:
    """A link to a private address would be of no use to it."""
    bucket.put("mona.png", PNG)
    source = BucketObject(
        f"{bucket.url}/mona.png", AddressPolicy("https://api.aimlapi.com")
    )
    assert await source.link() is None
    assert await BucketObject(source.url).link() is not None
    from kling_async._files.media import encode_local_files

    body = {"model": IMAGE_MODEL, "image_url": source.url}
    inlined = await encode_local_files(body, reach=source.reach)
    sent = str(inlined["image_url"])
    assert base64.b64decode(sent.removeprefix("data:image/png;base64,")) == PNG


async def test_an_object_too_large_to_be_sent_is_not_read(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where media are not checked: all of it would be in memory."""
    from kling_async._files import media

    bucket.put("mona.png", PNG)
    monkeypatch.setattr(media, "LARGEST_FILE", len(PNG) - 1)
    body = {"model": IMAGE_MODEL, "image_url": f"{bucket.url}/mona.png"}
    reach = AddressPolicy("https://api.aimlapi.com")
    with pytest.raises(InvalidRequestError, match=f"at most {len(PNG) - 1:,} bytes"):
        await media.encode_local_files(body, check=False, reach=reach)


async def test_a_sound_that_begins_like_a_video_is_one_by_its_name(
    bucket: Bucket,
) -> None:
    """As a file of that name is: an M4A need not be branded as one."""
    bucket.put("song.m4a", b"\0\0\0\x18ftypisom" + bytes(100))
    sound = f"{bucket.url}/song.m4a"
    async with RawServer(answering(answer())) as server:
        body = await created(
            server,
            model="klingai/avatar-standard",
            image_url="https://example.com/mona.jpg",
            audio_url=sound,
        )
    assert str(body["audio_url"]).startswith(
        f"{bucket.endpoint}/{bucket.name}/song.m4a"
    )


@pytest.mark.parametrize(
    "content, told",
    [
        (None, "no such bucket or object"),
        (b"", "which is empty"),
        (b"%PDF-1.7", "application/pdf"),
        (NARROW, "at least 300 pixels"),
        (JPEG + bytes(11_000_000), "at most 10"),
    ],
    ids=["missing", "empty", "pdf", "narrow", "large"],
)
async def test_a_bad_image_is_told_of_before_anything_is_sent(
    bucket: Bucket, content: bytes | None, told: str
) -> None:
    """As a bad file is."""
    if content is not None:
        bucket.put("mona.jpg", content)
    async with RawServer(answering(answer())) as server:
        with pytest.raises(InvalidRequestError, match=told):
            await created(server, model=IMAGE_MODEL, image_url=f"{bucket.url}/mona.jpg")
    assert server.requests == []


async def test_an_image_that_nobody_may_see_is_told_of(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent."""
    denied = answering(answer(b"", "403 Forbidden"))
    async with RawServer(denied) as store, RawServer(answering(answer())) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.base_url)
        with pytest.raises(InvalidRequestError, match="does not allow it"):
            await created(server, model=IMAGE_MODEL, image_url=f"{bucket.url}/a.jpg")
    assert server.requests == []


async def test_an_upload_that_nobody_waits_for_leaves_nothing(
    bucket: Bucket, tmp_path: Path
) -> None:
    """It is called off between two parts."""
    source = tmp_path / "large.mp4"
    source.write_bytes(LARGE * 2)
    asked = iter([False, False, True])
    with pytest.raises(StorageError, match="cancelled"):
        await BucketObject(f"{bucket.url}/large.mp4").upload(
            source, "video/mp4", is_abandoned=lambda: next(asked)
        )
    assert bucket.keys() == []
    assert bucket.uploads() == 0
