"""Local images and sounds: what becomes a data URI, within which limits."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Literal

import pytest
from attrs import frozen
from clients import MODEL, PROMPT
from local_media import AVATAR, as_uri, image, refusal_of, sound, uri_of

from kling_async import AsyncKling, InvalidRequestError
from kling_async._files.media import encode_local_files
from kling_async.emulator import Emulator

V3 = "klingai/video-v3-pro-image-to-video"
NEW_MODEL = "klingai/video-v9-from-the-future"


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
    assert await encode_local_files(body) == {
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
    inlined = await encode_local_files({"model": AVATAR, "audio_url": path})
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
    as_file: bool,
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
            await encode_local_files({"model": model, field: given})


async def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """Its size is known without: a film of a terabyte takes no memory."""
    path = tmp_path / "film.png"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "of 1,099,511,627,776 bytes" in (await refusal_of(path)).given


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
    inlined = await encode_local_files(body)
    assert inlined["voice_or_face"] == as_uri(content, media_type)
    for refused in (b"who knows", image(10, 10)):
        with pytest.raises(InvalidRequestError):
            await encode_local_files({"model": NEW_MODEL, "voice_or_face": refused})


async def test_a_local_video_beyond_the_catalogue_is_sent_as_it_is() -> None:
    """In ``extra``, which is not checked; the field itself takes URLs only."""
    film = b"\0\0\0\x18ftypisom" + bytes(20)
    body = {"model": "klingai/video-o1-video-to-video-edit", "video_url": film}
    assert (await encode_local_files(body))["video_url"] == as_uri(film, "video/mp4")


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
