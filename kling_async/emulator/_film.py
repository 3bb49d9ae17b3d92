"""Draws a scene and encodes it: H.264 in MP4, a slow zoom, frame by frame.

Pure work without clock, thread or cache; a step is one frame.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Generator, Iterator
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont, ImageOps

from kling_async.emulator._scene import Scene

FRAMES_PER_SECOND = 24
_ZOOM = 0.15  # the share of the picture that has left the frame at the end
_SMALLEST_SIDE = 16
# One thread, so that the same scene is always the same bytes.
_X264 = {"preset": "veryfast", "crf": "26", "threads": "1"}


def film_to(path: Path, scene: Scene, size: int) -> Generator[None]:
    """Encode a scene into an MP4 file, a frame a step.

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
        picture = _picture_of(scene, width, height)
        for image in _zoomed(picture, scene.length * FRAMES_PER_SECOND):
            # PyAV's stub leaves from_image without types.
            frame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            mp4.mux(stream.encode(frame))
            yield
        mp4.mux(stream.encode(None))


def frame_size(aspect: tuple[int, int], size: int) -> tuple[int, int]:
    """Return width and height in pixels: even, as H.264's 4:2:0 colours ask."""
    scale = size / max(aspect)
    width, height = (max(_SMALLEST_SIDE, round(it * scale / 2) * 2) for it in aspect)
    return width, height


def _zoomed(picture: Image.Image, frames: int) -> Iterator[Image.Image]:
    width, height = picture.size
    for frame in range(frames):
        margin = _ZOOM / 2 * frame / frames
        left, top = width * margin, height * margin
        box = (left, top, width - left, height - top)
        yield picture.resize(picture.size, Image.Resampling.BILINEAR, box)


def _picture_of(scene: Scene, width: int, height: int) -> Image.Image:
    if scene.image is None:
        return _title_card(scene, width, height)
    image = Image.open(io.BytesIO(scene.image))
    return ImageOps.fit(image, (width, height))


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
