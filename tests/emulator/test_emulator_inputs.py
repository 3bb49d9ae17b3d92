"""What the emulator's videos show of their inputs: several pictures, and addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import cast

import av
import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kling_async.emulator import Emulator
from kling_async.emulator._server import Listener

PATH = "/v2/video/generations"
AT_ONCE = 1e9
COLOURS = {"red": 0, "green": 1, "blue": 2}


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers={"Authorization": "Bearer some-key"},
        timeout=30,
    )


def png(colour: str, size: tuple[int, int] = (320, 180)) -> bytes:
    """Draw an image in one colour."""
    file = io.BytesIO()
    shades = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    Image.new("RGB", size, shades[colour]).save(file, "PNG")
    return file.getvalue()


def uri(colour: str, size: tuple[int, int] = (320, 180)) -> str:
    """Draw an image in one colour, as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png(colour, size)).decode()}"


async def filmed(client: httpx.AsyncClient, body: Mapping[str, object]) -> bytes:
    """Create, and return the finished video."""
    created = (await client.post(PATH, json=dict(body))).json()
    query = {"generation_id": created["id"]}
    polled = (await client.get(PATH, params=query)).json()
    return (await client.get(polled["video"]["url"])).content


def frames_of(film: bytes) -> list[Image.Image]:
    """Decode every frame."""
    with av.open(io.BytesIO(film), "r") as mp4:
        return [
            cast("Image.Image", it.to_image())  # type: ignore[no-untyped-call] # PyAV's
            for it in mp4.decode(mp4.streams.video[0])
        ]


def colours_in(film: bytes, frames: int) -> list[str]:
    """Name the colour of so many frames, from the first to the last."""
    images = frames_of(film)
    chosen = [images[n * (len(images) - 1) // (frames - 1)] for n in range(frames)]
    return [colour_of(image) for image in chosen]


def colour_of(image: Image.Image) -> str:
    """Name the colour in the middle, as far as H.264 leaves it."""
    middle = (image.width // 2, image.height // 2)
    shade = cast("tuple[int, int, int]", image.getpixel(middle))
    return max(COLOURS, key=lambda name: shade[COLOURS[name]])


SEVERAL: Mapping[str, tuple[Mapping[str, object], list[str]]] = {
    "a list": (
        {
            "model": "kling-video/v1.6/standard/multi-image-to-video",
            "image_list": [uri("red"), uri("green"), uri("blue")],
        },
        ["red", "green", "blue"],
    ),
    "first and last": (
        {
            "model": "kling-video/v1.6/pro/image-to-video",
            "image_url": uri("blue"),
            "tail_image_url": uri("red"),
        },
        ["blue", "red"],
    ),
    "first and last, o1": (
        {
            "model": "klingai/video-o1-image-to-video",
            "prompt": "A cat",
            "image_url": uri("green"),
            "last_image_url": uri("blue"),
        },
        ["green", "blue"],
    ),
    "elements": (
        {
            "model": "klingai/video-o1-reference-to-video",
            "prompt": "A cat",
            "elements": [
                {
                    "reference_image_urls": [uri("green")],
                    "frontal_image_url": uri("red"),
                }
            ],
        },
        ["green", "red"],
    ),
    "a mask is not shown": (
        {
            "model": "kling-video/v1.6/pro/image-to-video",
            "image_url": uri("green"),
            "static_mask": uri("red"),
        },
        ["green", "green"],
    ),
}


@pytest.mark.parametrize("body, colours", SEVERAL.values(), ids=SEVERAL)
async def test_several_pictures_follow_each_other(
    body: Mapping[str, object], colours: list[str]
) -> None:
    """In the order in which the request names them, the last frame last."""
    async with client_of(Emulator(speed=AT_ONCE, size=64)) as client:
        film = await filmed(client, body)
    assert colours_in(film, len(colours)) == colours


async def test_a_picture_fades_into_the_next() -> None:
    """In the middle there are frames of both."""
    body, _ = SEVERAL["first and last"]
    async with client_of(Emulator(speed=AT_ONCE, size=64)) as client:
        frames = frames_of(await filmed(client, body))
    mixed = 0
    for frame in frames:
        red, _, blue = cast("tuple[int, int, int]", frame.getpixel((32, 18)))
        mixed += red > 60 and blue > 60
    assert 5 <= mixed <= 12


async def test_the_first_picture_gives_the_shape() -> None:
    """The others are cut to it."""
    body = {
        "model": "kling-video/v1.6/standard/multi-image-to-video",
        "image_list": [uri("red", (300, 600)), uri("blue", (600, 300))],
    }
    async with client_of(Emulator(speed=AT_ONCE, size=64)) as client:
        film = await filmed(client, body)
    with av.open(io.BytesIO(film), "r") as mp4:
        stream = mp4.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (32, 64, 120)


async def pictures(request: Request) -> Response:
    """Serve what an app's own development server would."""
    name = request.path_params["name"]
    if name not in COLOURS:
        return Response("<html>", 200 if name == "page" else 404)
    return Response(png(name), media_type="image/png")


@pytest.mark.parametrize(
    "name, shown", [("red", "red"), ("page", None), ("gone", None)]
)
async def test_a_picture_on_this_machine_is_fetched(
    name: str, shown: str | None
) -> None:
    """What is none, or is not there, becomes a title card."""
    app = Starlette(routes=[Route("/{name}", pictures)])
    server = await Listener.open(app, host="127.0.0.1", port=0, hang_up=lambda: None)
    body = {
        "model": "klingai/v2-master-image-to-video",
        "image_url": f"{server.url}/{name}",
        "prompt": "A cat",
    }
    card = {**body, "image_url": f"https://example.com/{name}"}
    try:
        async with client_of(Emulator(speed=AT_ONCE, size=64)) as client:
            film = await filmed(client, body)
            as_card = film == await filmed(client, card)
    finally:
        await server.aclose()
    assert as_card is (shown is None)
    if shown:
        assert colours_in(film, 2) == [shown, shown]


async def test_a_film_of_its_own_can_be_edited() -> None:
    """An earlier result, given by its link, is what the next one begins with."""
    async with (
        Emulator(speed=AT_ONCE, size=64) as emulator,
        httpx.AsyncClient(
            base_url=emulator.base_url,
            headers={"Authorization": "Bearer some-key"},
            trust_env=False,
            timeout=30,
        ) as client,
    ):
        body = {"model": "klingai/v2-master-image-to-video", "image_url": uri("blue")}
        created = (await client.post(PATH, json=body)).json()
        query = {"generation_id": created["id"]}
        first = (await client.get(PATH, params=query)).json()["video"]["url"]
        edit = {
            "model": "klingai/video-o1-video-to-video-edit",
            "prompt": "Make it rain",
            "video_url": first,
        }
        assert colours_in(await filmed(client, edit), 2) == ["blue", "blue"]


async def test_nothing_is_fetched_for_other_machines() -> None:
    """A stranger cannot look at what is served here."""
    emulator = Emulator(speed=AT_ONCE, size=64)
    app = Starlette(routes=[Route("/{name}", pictures)])
    server = await Listener.open(app, host="127.0.0.1", port=0, hang_up=lambda: None)
    body = {
        "model": "klingai/v2-master-image-to-video",
        "image_url": f"{server.url}/red",
    }
    transport = httpx.ASGITransport(app=emulator.app, client=("10.0.0.1", 1))
    try:
        async with httpx.AsyncClient(
            transport=transport,
            base_url="https://kling.test",
            headers={"Authorization": "Bearer some-key"},
        ) as client:
            film = await filmed(client, {**body, "prompt": "A cat"})
    finally:
        await server.aclose()
    async with client_of(emulator) as client:
        elsewhere = {**body, "image_url": "https://example.com/red"}
        assert film == await filmed(client, {**elsewhere, "prompt": "A cat"})
