"""The emulator's videos: real, playable, made once, and served like a CDN's."""

from __future__ import annotations

import base64
import gc
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import anyio
import av
import httpx
import pytest
from attrs import frozen
from PIL import Image, ImageColor

from kling_async.emulator import Emulator

PATH = "/v2/video/generations"
AT_ONCE = 1e9
TEXT: Mapping[str, object] = {
    "model": "klingai/video-v3-pro-text-to-video",
    "prompt": "A cat looks out of the window.",
    "duration": 3,
}
FROM_IMAGE = {"model": "klingai/v2-master-image-to-video"}


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers={"Authorization": "Bearer some-key"},
    )


def quick(size: int = 64) -> Emulator:
    """Give an emulator that is done at once, with small videos."""
    return Emulator(speed=AT_ONCE, size=size)


def picture(width: int, height: int, kind: str = "PNG", colour: str = "red") -> str:
    """Draw an image in one colour, as a data URI."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, kind)
    data = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{data}"


async def completed(
    client: httpx.AsyncClient, body: Mapping[str, object] = TEXT
) -> dict[str, object]:
    """Create, and return the video of the completed generation."""
    created = (await client.post(PATH, json=dict(body))).json()
    query = {"generation_id": created["id"]}
    polled = (await client.get(PATH, params=query)).json()
    return cast("dict[str, object]", polled["video"])


async def downloaded(
    client: httpx.AsyncClient, body: Mapping[str, object] = TEXT
) -> bytes:
    """Create, and return the file of the completed generation."""
    video = await completed(client, body)
    return (await client.get(str(video["url"]))).content


def names_in(folder: Path) -> list[str]:
    """Give what lies in a folder."""
    return [path.name for path in folder.iterdir()]


@frozen
class Opened:
    """What a player finds in a file."""

    codec: str
    pixels: str
    size: tuple[int, int]
    seconds: float
    frames: list[Image.Image]


def opened(file: bytes) -> Opened:
    """Open a file as a player does, and decode every frame."""
    with av.open(io.BytesIO(file), "r") as mp4:
        stream = mp4.streams.video[0]
        frames = [
            cast("Image.Image", it.to_image())  # type: ignore[no-untyped-call] # PyAV's
            for it in mp4.decode(stream)
        ]
        return Opened(
            codec=stream.codec_context.name,
            pixels=str(stream.codec_context.pix_fmt),
            size=(stream.width, stream.height),
            seconds=(mp4.duration or 0) / av.time_base,
            frames=frames,
        )


@pytest.mark.parametrize(
    "body, size, shape, seconds",
    [
        (TEXT, 64, (64, 36), 3),
        ({**TEXT, "aspect_ratio": "9:16"}, 64, (36, 64), 3),
        ({**TEXT, "aspect_ratio": "1:1"}, 128, (128, 128), 3),
        ({**TEXT, "duration": "15"}, 64, (64, 36), 15),
        ({**FROM_IMAGE, "image_url": picture(400, 300)}, 64, (64, 48), 5),
        (
            {**FROM_IMAGE, "image_url": picture(301, 603, "JPEG"), "duration": 10},
            128,
            (64, 128),
            10,
        ),
        ({**FROM_IMAGE, "image_url": picture(1, 1)}, 64, (64, 64), 5),
        ({**FROM_IMAGE, "image_url": picture(900, 3)}, 64, (64, 16), 5),
        ({**FROM_IMAGE, "image_url": "https://example.com/mona.jpg"}, 64, (64, 36), 5),
    ],
    ids=[
        "16:9",
        "9:16",
        "1:1",
        "15 seconds",
        "image",
        "tall image, 10 seconds",
        "one pixel",
        "a line",
        "image elsewhere",
    ],
)
async def test_a_video_plays(
    body: Mapping[str, object], size: int, shape: tuple[int, int], seconds: int
) -> None:
    """H.264, as long as asked, in the image's shape or the ratio asked for."""
    async with client_of(quick(size)) as client:
        found = opened(await downloaded(client, body))
    assert (found.codec, found.pixels) == ("h264", "yuv420p")
    assert (found.size, found.seconds) == (shape, seconds)
    assert len(found.frames) == 24 * seconds


async def test_the_default_video_has_320_pixels() -> None:
    """Small enough to be made at once, large enough to be looked at."""
    emulator = Emulator(speed=AT_ONCE)
    async with client_of(emulator) as client:
        assert opened(await downloaded(client)).size == (320, 180)


async def test_a_player_can_begin_before_it_has_the_whole_file() -> None:
    """The index comes before the frames."""
    async with client_of(quick()) as client:
        file = await downloaded(client)
    assert 0 < file.index(b"moov") < file.index(b"mdat")


async def test_a_video_zooms_into_the_image() -> None:
    """What was at the edge has left the frame at the end; the middle has stayed."""
    image = Image.new("RGB", (200, 200), "red")
    image.paste("blue", (10, 10, 190, 190))
    file = io.BytesIO()
    image.save(file, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    async with client_of(quick()) as client:
        body = {**FROM_IMAGE, "image_url": uri}
        frames = opened(await downloaded(client, body)).frames
    for frame, corner in ((frames[0], "red"), (frames[-1], "blue")):
        assert nearest_colour(frame, (0, 0)) == corner
        assert nearest_colour(frame, (32, 32)) == "blue"


def nearest_colour(image: Image.Image, at: tuple[int, int]) -> str:
    """Tell red from blue, as far as H.264 leaves them."""
    red, _, blue = cast("tuple[int, int, int]", image.getpixel(at))
    return "red" if red > blue else "blue"


async def test_a_title_card_is_not_blank() -> None:
    """Other words look different."""
    async with client_of(quick()) as client:
        one = opened(await downloaded(client)).frames[0]
        other = opened(await downloaded(client, {**TEXT, "prompt": "A dog"})).frames[0]
    assert len(set(one.convert("L").tobytes())) > 20
    assert one.tobytes() != other.tobytes()


async def test_a_picture_shows_the_camera_upright() -> None:
    """The orientation that a camera noted in the file is followed."""
    file = io.BytesIO()
    image = Image.new("RGB", (400, 200), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, "JPEG", exif=exif)
    uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    async with client_of(quick()) as client:
        body = {**FROM_IMAGE, "image_url": uri}
        assert opened(await downloaded(client, body)).size == (32, 64)


async def test_the_told_size_is_that_of_the_file() -> None:
    """`file_size` can be relied on to check a download."""
    async with client_of(quick()) as client:
        video = await completed(client)
        file = (await client.get(str(video["url"]))).content
    assert video["file_size"] == len(file)


async def test_the_same_input_is_rendered_once() -> None:
    """Two generations of one request have the same bytes, each at its own address."""
    emulator = quick()
    async with client_of(emulator) as client:
        first, second = await completed(client), await completed(client)
        files = [(await client.get(str(it["url"]))).content for it in (first, second)]
        await completed(client, {**TEXT, "prompt": "A dog"})
    assert first["url"] != second["url"]
    assert files[0] == files[1]
    assert emulator.videos_rendered == 2


async def test_two_emulators_render_the_same_bytes() -> None:
    """A video hangs on its input alone."""
    files: list[bytes] = []
    for _ in range(2):
        async with client_of(quick()) as client:
            files.append(await downloaded(client))
    assert files[0] == files[1]


async def test_polls_at_the_same_time_share_one_rendering() -> None:
    """Who asks while it is rendered waits for it."""
    emulator = quick()
    answers: list[dict[str, object]] = []
    async with client_of(emulator) as client:
        created = (await client.post(PATH, json=dict(TEXT))).json()

        async def poll() -> None:
            query = {"generation_id": created["id"]}
            answers.append((await client.get(PATH, params=query)).json())

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(poll)
    assert [it["status"] for it in answers] == ["completed"] * 10
    assert emulator.videos_rendered == 1


@pytest.mark.parametrize("frames", [0, 1, 50])
async def test_a_poll_that_is_given_up_is_no_loss(frames: int) -> None:
    """When the one that renders is cancelled midway, the next one renders anew."""
    emulator = quick()
    async with client_of(emulator) as client:
        created = (await client.post(PATH, json=dict(TEXT))).json()
        query = {"generation_id": created["id"]}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.get(PATH, params=query))
            for _ in range(frames):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        polled = (await client.get(PATH, params=query)).json()
        file = (await client.get(polled["video"]["url"])).content
    assert emulator.videos_rendered == 1
    assert opened(file).seconds == 3


@pytest.mark.parametrize(
    "asked, status, told, start, stop",
    [
        (None, 200, None, 0, None),
        ("bytes=0-99", 206, "bytes 0-99/{size}", 0, 100),
        ("bytes=100-", 206, "bytes 100-{last}/{size}", 100, None),
        ("bytes=-10", 206, "bytes {tail}-{last}/{size}", -10, None),
        ("bytes={size}-", 416, "bytes */{size}", 0, 0),
    ],
)
async def test_a_part_of_a_file(
    asked: str | None, status: int, told: str | None, start: int, stop: int | None
) -> None:
    """A broken download can go on where it was; past the end there is nothing."""
    async with client_of(quick()) as client:
        video = await completed(client)
        url, size = str(video["url"]), int(str(video["file_size"]))
        whole = (await client.get(url)).content
        names = {"size": size, "last": size - 1, "tail": size - 10}
        headers = {"Range": asked.format_map(names)} if asked else {}
        answer = await client.get(url, headers=headers)
    assert answer.status_code == status
    given = answer.headers.get("content-range")
    if given and given.startswith("*"):  # Starlette before 1.0 leaves the unit out
        given = f"bytes {given}"
    assert given == (told and told.format_map(names))
    assert answer.content == whole[start:stop]


@pytest.mark.parametrize("is_same, status", [(True, 206), (False, 200)])
async def test_a_part_only_of_the_file_that_was_begun(
    *, is_same: bool, status: int
) -> None:
    """If-Range with another ETag gets the whole file."""
    async with client_of(quick()) as client:
        url = str((await completed(client))["url"])
        etag = (await client.head(url)).headers["etag"]
        wanted = etag if is_same else '"another"'
        headers = {"Range": "bytes=10-", "If-Range": wanted}
        assert (await client.get(url, headers=headers)).status_code == status


async def test_a_file_needs_no_key() -> None:
    """A content network knows no keys."""
    async with client_of(quick()) as client:
        url = str((await completed(client))["url"])
        answer = await client.get(url, headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize("rate, speed", [(0, 1e-3), (1, AT_ONCE)])
async def test_there_is_no_file_before_or_without_completion(
    rate: float, speed: float
) -> None:
    """Who guesses the address of an unfinished or failed video finds nothing."""
    emulator = Emulator(speed=speed, failure_rate=rate)
    async with client_of(emulator) as client:
        created = (await client.post(PATH, json=dict(TEXT))).json()
        answer = await client.get(f"/files/{created['id']}.mp4")
    assert answer.status_code == 404


def test_it_runs_on_trio_too() -> None:
    """In process it needs no asyncio."""

    async def play() -> bytes:
        async with client_of(quick()) as client:
            return await downloaded(client)

    assert opened(anyio.run(play, backend="trio")).seconds == 3


async def test_a_dropped_app_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was rendered goes with the emulator, without a word."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    emulator = quick()
    async with client_of(emulator) as client:
        await completed(client)
    assert names_in(tmp_path) != []
    del client, emulator
    gc.collect()
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("colour", ["#c86432", "#ffffff", "#000000", "#1e1edc"])
async def test_colours_stay_as_they_are(colour: str) -> None:
    """Light, dark and bright ones come out of the file as they went in."""
    body = {**FROM_IMAGE, "image_url": picture(320, 180, colour=colour)}
    async with client_of(quick()) as client:
        frame = opened(await downloaded(client, body)).frames[0]
    seen = cast("tuple[int, int, int]", frame.getpixel((32, 18)))
    assert seen == pytest.approx(ImageColor.getrgb(colour), abs=6)
