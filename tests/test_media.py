"""Local images and sounds: what becomes a data URI, and what is refused, and why."""

from __future__ import annotations

import base64
import io
import os
import socket
import struct
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from attrs import frozen
from clients import MODEL, PROMPT
from PIL import Image

from kling_async import AsyncKling, InvalidRequestError, Problem
from kling_async._media import inline_media
from kling_async.emulator import Emulator

V3 = "klingai/video-v3-pro-image-to-video"
AVATAR = "klingai/avatar-pro"
NEW_MODEL = "klingai/video-v9-from-the-future"


def image(
    width: int = 400,
    height: int = 300,
    kind: Literal["PNG", "JPEG", "GIF", "WEBP", "BMP"] = "PNG",
    **options: object,
) -> bytes:
    """Draw an image and give the bytes of its file."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, kind, **options)
    return file.getvalue()


def sound() -> bytes:
    """Give the bytes of a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 8000, 0, "NONE", ""))
        wav.writeframes(b"\0\0" * 80)
    return file.getvalue()


def as_uri(content: bytes, media_type: str) -> str:
    """Give what is to be sent."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


async def uri_of(value: object, *, check: bool = True) -> object:
    """Put a value where an image belongs, and give what would be sent."""
    body = {"model": MODEL, "image_url": value, "prompt": PROMPT}
    inlined = await inline_media(body, check=check)
    assert {k: v for k, v in inlined.items() if k != "image_url"} == {
        k: v for k, v in body.items() if k != "image_url"
    }
    return inlined["image_url"]


async def refusal_of(value: object, field: str = "image_url") -> Problem:
    """Put a value where it is refused, and give the one problem with it."""
    model = AVATAR if field == "audio_url" else MODEL
    with pytest.raises(InvalidRequestError) as caught:
        await inline_media({"model": model, field: value})
    (problem,) = caught.value.problems
    assert caught.value.model == model
    assert problem.field == field
    return problem


# --- what is sent


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
async def test_an_image_is_sent_as_a_data_uri(
    tmp_path: Path, kind: Literal["PNG", "JPEG"]
) -> None:
    """A path and bytes of every sort: the very bytes, with the type that they are."""
    content = image(kind=kind)
    path = tmp_path / "no suffix"
    path.write_bytes(content)
    expected = as_uri(content, f"image/{kind.lower()}")
    for given in (path, content, bytearray(content), memoryview(content)):
        assert await uri_of(given) == expected


async def test_the_content_tells_the_type_and_not_the_name(tmp_path: Path) -> None:
    """A PNG that is called JPEG is sent as the PNG that it is."""
    path = tmp_path / "mona.jpg"
    path.write_bytes(image(kind="PNG"))
    assert str(await uri_of(path)).startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "value",
    ["https://example.com/mona.jpg", "data:image/png;base64,AAAA", None, 5, 0.5, True],
)
async def test_what_is_no_local_file_goes_as_it_is(value: object) -> None:
    """URLs, data URIs, numbers: nothing is opened."""
    assert await uri_of(value) == value


async def test_a_path_like_object_of_bytes_is_one_too(tmp_path: Path) -> None:
    """As `os.scandir` gives them for a directory named in bytes."""
    (tmp_path / "mona.png").write_bytes(image())
    with os.scandir(os.fsencode(tmp_path)) as entries:
        assert await uri_of(next(entries)) == as_uri(image(), "image/png")


async def test_images_are_found_however_deep_they_are(tmp_path: Path) -> None:
    """In lists and in objects, of which nothing else is changed."""
    path = tmp_path / "mona.png"
    path.write_bytes(image())
    uri = as_uri(image(), "image/png")
    body: dict[str, object] = {
        "model": V3,
        "elements": [
            {"frontal_image_url": path, "reference_image_urls": [path, "https://x/y"]},
            {"video_url": "https://example.com/v.mp4"},
        ],
        "dynamic_masks": [{"mask": image(), "trajectories": [{"x": 1, "y": 2}]}],
        "image_list": (image(), path),
        "camera_control": {"type": "simple", "config": {"zoom": 3}},
    }
    assert await inline_media(body) == {
        "model": V3,
        "elements": [
            {"frontal_image_url": uri, "reference_image_urls": [uri, "https://x/y"]},
            {"video_url": "https://example.com/v.mp4"},
        ],
        "dynamic_masks": [{"mask": uri, "trajectories": [{"x": 1, "y": 2}]}],
        "image_list": [uri, uri],
        "camera_control": {"type": "simple", "config": {"zoom": 3}},
    }
    assert body["image_list"] == (image(), path)  # the caller's own is left alone


@pytest.mark.parametrize(
    "content, name, media_type",
    [
        (sound(), "x", "audio/wav"),
        (b"ID3\x04\x00" + bytes(99), "x", "audio/mpeg"),
        *((bytes((0xFF, it)) + bytes(99), "x", "audio/mpeg") for it in (0xFB, 0xFA)),
        *((bytes((0xFF, it)) + bytes(99), "x", "audio/mpeg") for it in (0xF3, 0xE3)),
        *((bytes((0xFF, it)) + bytes(99), "x", "audio/aac") for it in (0xF1, 0xF9)),
        (b"\0\0\0\x20ftypM4A " + bytes(99), "x", "audio/mp4"),
        (b"\0\0\0\x18ftypmp42" + bytes(99), "voice.M4A", "audio/mp4"),
    ],
    ids=lambda it: repr(it)[:24],
)
async def test_a_sound_is_sent_as_a_data_uri(
    tmp_path: Path, content: bytes, name: str, media_type: str
) -> None:
    """MP3, WAV, M4A and AAC, by their first bytes."""
    path = tmp_path / name
    path.write_bytes(content)
    inlined = await inline_media({"model": AVATAR, "audio_url": path})
    assert inlined["audio_url"] == as_uri(content, media_type)


async def test_files_are_read_in_another_thread(tmp_path: Path) -> None:
    """The event loop is not held up by a slow disk."""

    @frozen
    class Watched(os.PathLike[str]):
        path: Path

        def __fspath__(self) -> str:
            threads.append(threading.get_ident())
            return os.fspath(self.path)

    threads = list[int]()
    path = tmp_path / "mona.png"
    path.write_bytes(image())
    assert await uri_of(Watched(path)) == as_uri(image(), "image/png")
    assert threads
    assert threading.get_ident() not in threads


# --- limits


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "size, allowed",
    [
        ((300, 300), None),
        ((299, 300), "each side at least 300 pixels"),
        ((300, 299), "each side at least 300 pixels"),
        ((1, 1), "each side at least 300 pixels"),
        ((750, 300), None),
        ((300, 750), None),
        ((751, 300), "an aspect ratio from 2:5 to 5:2"),
        ((300, 751), "an aspect ratio from 2:5 to 5:2"),
    ],
    ids=str,
)
async def test_an_image_has_a_least_size_and_a_shape(
    kind: Literal["PNG", "JPEG"], size: tuple[int, int], allowed: str | None
) -> None:
    """300 pixels and 2:5 to 5:2, the bounds included; its size is told."""
    content = image(*size, kind=kind)
    if allowed is None:
        assert await uri_of(content) == as_uri(content, f"image/{kind.lower()}")
    else:
        problem = await refusal_of(content)
        assert problem.allowed == allowed
        assert f"of {size[0]} x {size[1]} pixels" in problem.given


@pytest.mark.parametrize("options", [{"progressive": True}, {"exif": bytes(60_000)}])
async def test_the_size_of_every_jpeg_is_found(options: dict[str, object]) -> None:
    """Progressive ones, and those with a lot before the frame."""
    problem = await refusal_of(image(299, 301, "JPEG", **options))
    assert "of 299 x 301 pixels" in problem.given


@pytest.mark.parametrize(
    "before",
    [
        b"\xff",
        b"\xff\xff",
        b"\xff\x01",
        b"\xff\xc4\x00\x09\x00\x01\x02\x03\x04\x05\x06",
    ],
    ids=["fill-byte", "fill-bytes", "bare-marker", "huffman-table"],
)
async def test_what_may_stand_before_the_frame_of_a_jpeg_is_skipped(
    before: bytes,
) -> None:
    """Fill bytes, markers without a length, tables (ITU-T T.81, section B.1.1)."""
    content = image(299, 301, "JPEG")
    padded = content[:2] + before + content[2:]
    assert "of 299 x 301 pixels" in (await refusal_of(padded)).given


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "bytes"])
@pytest.mark.parametrize(
    "field, start, limit",
    [("image_url", image(), 10_000_000), ("audio_url", sound(), 5_000_000)],
    ids=["image", "sound"],
)
async def test_a_file_has_a_greatest_size(
    tmp_path: Path,
    field: str,
    start: bytes,
    limit: int,
    as_file: bool,  # noqa: FBT001 (a table's column)
) -> None:
    """10 MB for an image, 5 MB for a sound, to the byte."""
    model = AVATAR if field == "audio_url" else MODEL
    for over in (0, 1):
        content = start + bytes(limit - len(start) + over)
        path = tmp_path / f"{over}"
        path.write_bytes(content)
        given: object = path if as_file else content
        if over:
            problem = await refusal_of(given, field)
            assert problem.allowed == f"at most {limit:,} bytes"
            assert f"of {limit + 1:,} bytes" in problem.given
        else:
            await inline_media({"model": model, field: given})


async def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """Its size is known without: a film of a terabyte takes no memory."""
    path = tmp_path / "film.png"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "of 1,099,511,627,776 bytes" in (await refusal_of(path)).given


# --- what is refused


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP"])
async def test_another_kind_of_image_is_refused(
    tmp_path: Path, kind: Literal["GIF", "WEBP", "BMP"]
) -> None:
    """By its name in words, with the way to send it all the same."""
    path = tmp_path / "mona.png"
    path.write_bytes(image(kind=kind))
    problem = await refusal_of(path)
    assert problem.given == f"{path} (image/{kind.lower()})"
    assert problem.allowed == "a JPEG or PNG image"
    assert "check_media=False" in str(problem.hint)


@pytest.mark.parametrize(
    "content, told",
    [
        (b"#!/bin/sh\necho no image\n", r"begins with b'#!/bin/sh\nec'"),
        (b"%PDF-1.7", "application/pdf"),
        (b"\0\0\0\x18ftypisom", "video/mp4"),
        (sound(), "audio/wav"),
        (b"x", "begins with b'x'"),
    ],
    ids=["text", "pdf", "mp4", "wav", "one-byte"],
)
async def test_what_is_no_image_is_refused_with_what_it_is(
    tmp_path: Path, content: bytes, told: str
) -> None:
    """Known kinds by name, others by how they begin."""
    path = tmp_path / "mona.png"
    path.write_bytes(content)
    assert (await refusal_of(path)).given == f"{path} ({told})"
    assert (await refusal_of(content)).given == f"<{len(content)} bytes> ({told})"


async def test_what_is_no_sound_is_refused() -> None:
    """An image where a voice belongs."""
    problem = await refusal_of(image(), "audio_url")
    assert problem.allowed == "an MP3, WAV, M4A or AAC sound"
    assert "image/png" in problem.given


@pytest.mark.parametrize(
    "content",
    [
        image()[:8],
        image()[:20],
        image()[:12] + b"JUNK" + image()[16:],
        image()[:16] + struct.pack(">II", 0, 300) + image()[24:],
        image(kind="JPEG")[:3],
        image(kind="JPEG")[:40],
        image(kind="JPEG")[:20] + bytes(2_000),
        b"\xff\xd8\xff" + b"\xff" * 50,
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x00\x01\x2c" + bytes(20),
    ],
    ids=[
        "png-magic",
        "png-cut",
        "png-no-header",
        "png-no-width",
        "jpeg-magic",
        "jpeg-cut",
        "jpeg-junk",
        "jpeg-fill",
        "jpeg-no-height",
    ],
)
async def test_an_image_with_a_broken_header_is_refused(content: bytes) -> None:
    """Cut, overwritten, or without a size."""
    problem = await refusal_of(content)
    assert problem.allowed == "a JPEG or PNG image"
    assert problem.hint == "Its header is broken."


def missing(folder: Path) -> Path:
    """Name a file that is not there."""
    return folder / "mona.png"


def empty(folder: Path) -> Path:
    """Make an empty file."""
    (folder / "mona.png").touch()
    return folder / "mona.png"


def fifo(folder: Path) -> Path:
    """Make a pipe that nobody writes to: reading it would wait for ever."""
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def local_socket(folder: Path) -> Path:
    """Make a socket."""
    with socket.socket(socket.AF_UNIX) as it:
        it.bind(str(folder / "socket"))
    return folder / "socket"


def link_to_itself(folder: Path) -> Path:
    """Make a link that leads nowhere."""
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def below_a_file(folder: Path) -> Path:
    """Name a file in what is no directory."""
    return empty(folder) / "mona.png"


@pytest.mark.parametrize(
    "make, told, allowed",
    [
        (missing, "which is missing", "a file"),
        (lambda folder: folder, "a directory", "the path of a file"),
        (empty, "which is empty", "a JPEG or PNG image"),
        (fifo, "no regular file", "the path of a file"),
        (local_socket, "no regular file", "the path of a file"),
        (lambda _: Path(os.devnull), "no regular file", "the path of a file"),
        (link_to_itself, "symbolic links", "a file that can be read"),
        (below_a_file, "Not a directory", "a file that can be read"),
        (lambda folder: folder / ("x" * 300), "name too long", "a file that can"),
        (lambda folder: folder / "a\0b", "null byte", "the path of a file"),
    ],
    ids="missing directory empty fifo socket device loop below long nul".split(),
)
async def test_a_path_without_a_file_to_read_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], told: str, allowed: str
) -> None:
    """At once and by name, never with an OSError, never by waiting."""
    path = make(tmp_path)
    problem = await refusal_of(path)
    assert told in problem.given
    assert problem.allowed.startswith(allowed)
    assert str(path.parent) in problem.given


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
async def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    """With the words of the operating system."""
    path = tmp_path / "mona.png"
    path.write_bytes(image())
    path.chmod(0)
    assert "Permission denied" in (await refusal_of(path)).given


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="a file that fails when it is read"
)
async def test_a_file_that_fails_while_it_is_read_is_refused() -> None:
    """Regular and there, and still an error of the disk."""
    problem = await refusal_of(Path("/proc/self/mem"))
    assert problem.allowed == "a file that can be read"
    assert "/proc/self/mem: " in problem.given


async def test_a_missing_file_is_told_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path by the working directory; ``~`` by what it takes."""
    monkeypatch.chdir(tmp_path)
    relative = await refusal_of(Path("mona.png"))
    assert relative.hint == f"The working directory is {tmp_path}."
    assert "expanduser()" in str((await refusal_of(Path("~/mona.png"))).hint)
    assert (await refusal_of(tmp_path / "mona.png")).hint is None


async def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Each file by its place in the body; one error for all."""
    with pytest.raises(InvalidRequestError) as caught:
        await inline_media(
            {
                "model": V3,
                "image_url": tmp_path,
                "tail_image_url": image(10, 10),
                "elements": [
                    {"frontal_image_url": image()},
                    {"reference_image_urls": [image(), b"no image", tmp_path / "x"]},
                ],
                "dynamic_masks": [{"mask": b""}],
            }
        )
    assert [problem.field for problem in caught.value.problems] == [
        "image_url",
        "tail_image_url",
        "elements[1].reference_image_urls[1]",
        "elements[1].reference_image_urls[2]",
        "dynamic_masks[0].mask",
    ]
    assert caught.value.problems[2].allowed == "a JPEG or PNG image"
    assert "5 problems, nothing was sent" in str(caught.value)


# --- unchecked, and unknown


@pytest.mark.parametrize(
    "content, media_type",
    [
        (image(10, 10), "image/png"),
        (image(900, 300, "JPEG"), "image/jpeg"),
        (image(kind="WEBP"), "image/webp"),
        (b"", "application/octet-stream"),
        (b"who knows", "application/octet-stream"),
        (image() + bytes(10_000_000), "image/png"),
    ],
    ids=["small", "long", "webp", "empty", "unknown", "large"],
)
async def test_who_knows_better_can_switch_the_checks_off(
    content: bytes, media_type: str
) -> None:
    """``check_media=False`` sends whatever it is."""
    assert await uri_of(content, check=False) == as_uri(content, media_type)


async def test_unchecked_a_name_tells_the_type_where_the_content_does_not(
    tmp_path: Path,
) -> None:
    """Such as a vector image."""
    path = tmp_path / "mona.svg"
    path.write_bytes(b"<svg/>")
    assert await uri_of(path, check=False) == as_uri(b"<svg/>", "image/svg+xml")


async def test_unchecked_a_file_still_has_to_be_there(tmp_path: Path) -> None:
    """What cannot be read cannot be sent."""
    with pytest.raises(InvalidRequestError, match="missing"):
        await uri_of(tmp_path / "mona.png", check=False)


@pytest.mark.parametrize(
    "content, media_type",
    [
        (image(), "image/png"),
        (sound(), "audio/wav"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "video/mp4"),
    ],
)
async def test_a_field_that_is_unknown_takes_whatever_is_taken_anywhere(
    content: bytes, media_type: str
) -> None:
    """A model of tomorrow may want a voice; but nothing that no model wants."""
    body: dict[str, object] = {"model": NEW_MODEL, "voice_or_face": content}
    inlined = await inline_media(body)
    assert inlined["voice_or_face"] == as_uri(content, media_type)
    for refused in (b"who knows", image(10, 10)):
        with pytest.raises(InvalidRequestError):
            await inline_media({"model": NEW_MODEL, "voice_or_face": refused})


async def test_a_local_video_beyond_the_catalogue_is_sent_as_it_is() -> None:
    """In ``extra``, which is not checked; the field itself takes URLs only."""
    film = b"\0\0\0\x18ftypisom" + bytes(20)
    body = {"model": "klingai/video-o1-video-to-video-edit", "video_url": film}
    assert (await inline_media(body))["video_url"] == as_uri(film, "video/mp4")


# --- the whole


async def test_the_server_gets_the_image_that_was_given(tmp_path: Path) -> None:
    """From a path and from bytes, through the client and over a socket."""
    path = tmp_path / "mona.png"
    path.write_bytes(image())
    async with (
        Emulator(size=64) as emulator,
        AsyncKling("key", base_url=emulator.base_url) as kling,
    ):
        for given in (path, image(kind="JPEG")):
            await kling.create(model=MODEL, image_url=given, prompt=PROMPT)
        assert len(emulator.creates) == 2


async def test_a_refused_file_is_never_uploaded(tmp_path: Path) -> None:
    """The request ends here; `check_media=False` sends it, and the server decides."""
    async with (
        Emulator(size=64) as emulator,
        AsyncKling("key", base_url=emulator.base_url) as kling,
    ):
        with pytest.raises(InvalidRequestError, match="each side at least 300"):
            await kling.create(model=MODEL, image_url=image(10, 10), prompt=PROMPT)
        with pytest.raises(InvalidRequestError, match="is missing"):
            await kling.create(
                model=MODEL, image_url=tmp_path / "mona.png", prompt=PROMPT
            )
        assert list(emulator.requests) == []
        unchecked = kling.with_options(check_media=False)
        await unchecked.create(model=MODEL, image_url=image(64, 64), prompt=PROMPT)
        assert len(emulator.creates) == 1
