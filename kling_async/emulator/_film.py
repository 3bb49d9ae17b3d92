"""Draws a scene and encodes it: H.264 in MP4, slow zooms, frame by frame.

Pure work without clock, thread or cache; a step is one frame.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont, ImageOps

from kling_async.emulator._scene import Scene

FRAMES_PER_SECOND = 24
_FADE_FRAMES = 12
_ZOOM = 0.15  # the share of the picture that has left the frame at the end
_SMALLEST_SIDE = 16
# One thread, so that the same scene is always the same bytes.
_X264 = {"preset": "superfast", "crf": "26", "threads": "1"}
# Brightness and two colours. Zoomed as they are, they need no conversion a frame.
Planes = Sequence[Image.Image]


def film_to(path: Path, scene: Scene, size: int) -> Generator[None]:
    """Encode a scene into an MP4 file: a step to draw it, then one for each frame.

    Args:
        path: Where to write it; nothing whole is there before the last step.
        scene: What to show.
        size: The longer side, in pixels.
    """
    width, height = frame_size(scene.aspect, size)
    # So that a player can begin before it has the whole file.
    options = {"movflags": "+faststart"}
    with av.open(path, "w", format="mp4", options=options) as mp4:
        stream = mp4.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        pictures = _pictures_of(scene, width, height)
        yield
        for picture in _played(pictures, scene.length * FRAMES_PER_SECOND):
            mp4.mux(stream.encode(_frame_of(picture)))
            yield
        mp4.mux(stream.encode(None))


def frame_size(aspect: tuple[int, int], size: int) -> tuple[int, int]:
    """Return width and height in pixels: even, as H.264's 4:2:0 colours ask."""
    scale = size / max(aspect)
    width, height = (max(_SMALLEST_SIDE, round(it * scale / 2) * 2) for it in aspect)
    return width, height


def _played(pictures: Sequence[Planes], frames: int) -> Iterator[Planes]:
    """Give the frames: each picture for the same time, the next one fading in."""
    count = len(pictures)
    fade = min(_FADE_FRAMES, frames // count)
    for frame in range(frames):
        number = frame * count // frames
        first = -(-number * frames // count)
        share = (frame - first) / (frames / count)
        picture = _zoomed(pictures[number], share)
        if number and frame - first < fade:
            last = _zoomed(pictures[number - 1], 1.0)
            done = (frame - first + 1) / (fade + 1)
            picture = [
                Image.blend(*pair, done) for pair in zip(last, picture, strict=True)
            ]
        yield picture


def _zoomed(picture: Planes, share: float) -> Planes:
    """Return what is seen of a picture after a share of its time."""
    return [
        plane.resize(plane.size, Image.Resampling.BILINEAR, _seen(plane.size, share))
        for plane in picture
    ]


def _seen(size: tuple[int, int], share: float) -> tuple[float, float, float, float]:
    width, height = size
    left, top = (side * _ZOOM / 2 * share for side in size)
    return left, top, width - left, height - top


def _pictures_of(scene: Scene, width: int, height: int) -> list[Planes]:
    if not scene.images:
        return [_planes_of(_title_card(scene, width, height))]
    images = (Image.open(io.BytesIO(image)) for image in scene.images)
    return [_planes_of(ImageOps.fit(image, (width, height))) for image in images]


def _planes_of(image: Image.Image) -> Planes:
    """Split a picture as H.264 takes it: half as many colours, in video's range."""
    light, *colours = image.convert("YCbCr").split()
    half = (image.width // 2, image.height // 2)
    return [
        light.point([round(16 + it * 219 / 255) for it in range(256)]),
        *(
            plane.resize(half).point(
                [round(128 + (it - 128) * 224 / 255) for it in range(256)]
            )
            for plane in colours
        ),
    ]


def _frame_of(picture: Planes) -> av.VideoFrame:
    frame = av.VideoFrame(picture[0].width, picture[0].height, "yuv420p")
    for plane, part in zip(frame.planes, picture, strict=True):
        plane.update(part.tobytes("raw", "L", plane.line_size, 1))
    return frame


def _title_card(scene: Scene, width: int, height: int) -> Image.Image:
    """Draw the prompt over a colour that the scene's key picks."""
    hue = int(scene.key[:4], 16) % 360
    shade = Image.linear_gradient("L").resize((width, height))
    card = ImageOps.colorize(shade, f"hsl({hue}, 45%, 38%)", f"hsl({hue}, 55%, 12%)")
    draw = ImageDraw.Draw(card)
    letters = max(8, min(width, height) // 10)
    font, small = ImageFont.load_default(letters), ImageFont.load_default(letters // 2)
    lines = textwrap.wrap(
        scene.text,
        max(4, int(0.8 * width / font.getlength("n"))),
        max_lines=max(1, int(0.6 * height / letters / 1.4)),
        placeholder="…",
    )
    middle = (width / 2, height / 2)
    draw.multiline_text(middle, "\n".join(lines), "white", font, "mm", align="center")
    draw.text((width / 2, 0.87 * height), scene.source[-40:], "#ccc", small, "mm")
    return card
