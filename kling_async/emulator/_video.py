"""Real videos: the scene that a create describes, drawn, encoded and cached.

Decodes the images in the request; fetches none.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import shutil
import tempfile
import textwrap
import urllib.parse
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self, TypeVar, cast

import anyio
import av
from anyio import from_thread, lowlevel, to_thread
from attrs import define, field, frozen
from PIL import Image, ImageDraw, ImageFont, ImageOps

from kling_async._errors import Problem
from kling_async._text import short_repr
from kling_async.emulator._protocol import Refusal

_DEFAULT_LENGTH = 5

_DEFAULT_ASPECT = "16:9"

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# The fields that may contain pictures; they are shown one after another in this order.
_PICTURES = (
    "image_url",
    "video_url",
    "image_list",
    "elements",
    "tail_image_url",
    "last_image_url",
)


@frozen(kw_only=True)
class Scene:
    """What one video shows.

    Attributes:
        text: The text of the title card, if there is no image.
        source: The name of the file that was not fetched, if any.
        images: The pictures to zoom into, one after another, as JPEG, reduced to
            the size needed.
        aspect: The ratio of width and height.
        length: Its length, in seconds.
    """

    text: str
    source: str
    images: tuple[bytes, ...]
    aspect: tuple[int, int]
    length: int

    @cached_property
    def key(self) -> str:
        """The same for scenes that look the same."""
        images = [hashlib.sha256(image).hexdigest() for image in self.images]
        seen = (self.text, self.source, images, self.aspect, self.length)
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:32]


def scene_of(
    body: Mapping[str, object], size: int, fetched: Mapping[str, Picture]
) -> Generator[None, None, Scene]:
    """Read a valid body, image by image, and return its scene.

    Args:
        body: The create's body, checked against the catalogue.
        size: The video's longer side in pixels; images are reduced to it.
        fetched: The pictures already fetched, by URL.

    Raises:
        Refusal: An image cannot be decoded.
    """
    decoded: dict[str, Picture] = {}
    for where, uri in _data_images(body):
        decoded[where] = _decode(where, uri, size)
        yield
    pictured = [
        decoded.get(where) or fetched.get(address) for where, address in _pictures(body)
    ]
    images = [image for image in pictured if image is not None]
    addresses = [address for _, address in _pictures(body)]
    return Scene(
        text=_text_of(body),
        source="" if images or not addresses else _file_name(addresses[0]),
        images=tuple(image.jpeg for image in images),
        aspect=images[0].aspect if images else _aspect_of(body),
        length=int(str(body.get("duration") or _DEFAULT_LENGTH)),
    )


def addresses_in(body: Mapping[str, object]) -> list[str]:
    """Return the URLs of the pictures and videos that a body names."""
    return [text for _, text in _pictures(body) if not _is_data(text)]


def _texts_in(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a body with its path, such as ``image_list[2]``."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            yield from _texts_in(inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[object]", value)):
            yield from _texts_in(inner, f"{where}[{index}]")


def _data_images(body: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for where, text in _texts_in(dict(body)):
        if _is_data(text):
            yield where, text


def _is_data(text: str) -> bool:
    return text[:11].lower() == "data:image/"


def _pictures(body: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name in _PICTURES:
        yield from _texts_in(body.get(name), name)


def _decode(where: str, uri: str, size: int) -> Picture:
    try:
        data = base64.b64decode(uri.partition(",")[2], validate=True)
        return decode_image(data, size)
    except Exception as error:  # decoders fail in every way on what is no image
        allowed = "an image that can be decoded"
        raise Refusal.over([Problem(where, short_repr(uri), allowed)]) from error


# A header may claim any size: a PNG of 10 kB can unpack to gigabytes.
_MOST_PIXELS = 40_000_000

_TURNED = {5, 6, 7, 8}  # orientations on the side (Exif 2.32, tag 0x0112)


def require_size(width: int, height: int) -> None:
    """Refuse a picture that would take too much memory, before it is decoded."""
    if width * height > _MOST_PIXELS:
        raise ValueError(f"{width} x {height} are more than {_MOST_PIXELS:,} pixels")


@frozen
class Picture:
    """A picture as a video needs it.

    Attributes:
        jpeg: The picture, reduced to the size needed.
        aspect: Width and height of the original.
    """

    jpeg: bytes
    aspect: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image, size: int) -> Self:
        """Reduce a picture and turn it upright, so that few are kept at full size."""
        is_turned = image.getexif().get(0x0112) in _TURNED
        width, height = image.size
        aspect = (height, width) if is_turned else (width, height)
        image.draft("RGB", (size, size))
        if image.mode in {"1", "P"}:
            image = image.convert("RGB")
        image.thumbnail((size, size))
        file = io.BytesIO()
        upright = ImageOps.exif_transpose(image).convert("RGB")
        upright.save(file, "JPEG", quality=92)
        return cls(file.getvalue(), aspect)


def decode_image(data: bytes, size: int) -> Picture:
    """Decode an image; if it is not one, any exception may be raised."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    require_size(*image.size)
    return Picture.of(image, size)


def _aspect_of(body: Mapping[str, object]) -> tuple[int, int]:
    ratio = body.get("aspect_ratio") or body.get("ratio") or _DEFAULT_ASPECT
    width, height = map(int, str(ratio).split(":"))
    return width, height


def _file_name(address: str) -> str:
    path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    return PurePosixPath(path).name


def _text_of(body: Mapping[str, object]) -> str:
    shots = body.get("multi_prompt")
    scripts = (text for _, text in _texts_in(shots)) if shots else ()
    text = body.get("prompt") or " / ".join(scripts) or body.get("effect_scene")
    return str(text or body.get("model") or "")


FRAMES_PER_SECOND = 24

_FADE_FRAMES = 12

_ZOOM = 0.15  # the share of the picture that has left the frame at the end

_SMALLEST_SIDE = 16

# One thread, so that a scene always has the same bytes.
_X264 = {"preset": "superfast", "crf": "26", "threads": "1"}

# Brightness and two colours. Zoomed separately, they need no conversion per frame.
Planes = Sequence[Image.Image]


def film_to(path: Path, scene: Scene, size: int) -> Generator[None]:
    """Encode a scene into an MP4 file: a step to draw it, then one for each frame.

    Args:
        path: The file; it is complete only after the last step.
        scene: The scene.
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
        for picture in _frames(pictures, scene.length * FRAMES_PER_SECOND):
            mp4.mux(stream.encode(_frame_of(picture)))
            yield
        mp4.mux(stream.encode(None))


def frame_size(aspect: tuple[int, int], size: int) -> tuple[int, int]:
    """Return width and height in pixels: even, as H.264's 4:2:0 colours require."""
    scale = size / max(aspect)
    width, height = (max(_SMALLEST_SIDE, round(it * scale / 2) * 2) for it in aspect)
    return width, height


def _frames(pictures: Sequence[Planes], frames: int) -> Iterator[Planes]:
    """Yield the frames: each picture for the same time, the next one fading in."""
    count = len(pictures)
    fade = min(_FADE_FRAMES, frames // count)
    for frame in range(frames):
        number = frame * count // frames
        first = -(-number * frames // count)
        share = (frame - first) / (frames / count)
        picture = _zoom(pictures[number], share)
        if number and frame - first < fade:
            last = _zoom(pictures[number - 1], 1.0)
            done = (frame - first + 1) / (fade + 1)
            picture = [
                Image.blend(*pair, done) for pair in zip(last, picture, strict=True)
            ]
        yield picture


def _zoom(picture: Planes, share: float) -> Planes:
    """Return the visible part of a picture after a share of its time."""
    return [
        plane.resize(
            plane.size, Image.Resampling.BILINEAR, _visible_box(plane.size, share)
        )
        for plane in picture
    ]


def _visible_box(
    size: tuple[int, int], share: float
) -> tuple[float, float, float, float]:
    width, height = size
    left, top = (side * _ZOOM / 2 * share for side in size)
    return left, top, width - left, height - top


def _pictures_of(scene: Scene, width: int, height: int) -> list[Planes]:
    if not scene.images:
        return [_planes_of(_title_card(scene, width, height))]
    images = (Image.open(io.BytesIO(image)) for image in scene.images)
    return [_planes_of(ImageOps.fit(image, (width, height))) for image in images]


def _planes_of(image: Image.Image) -> Planes:
    """Split a picture for H.264: colours at half the size, in the range of video."""
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
    """Draw the prompt over a colour chosen by the scene's key."""
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


T = TypeVar("T")


@define(eq=False)
class VideoCache:
    """The finished videos of one emulator, in their own folder.

    Attributes:
        size: The videos' longer side, in pixels.
        in_threads: Whether work is done in worker threads.
        rendered: How many videos were rendered.
    """

    size: int
    in_threads: bool = False
    rendered: int = field(default=0, init=False)
    _files: dict[str, Path] = field(factory=dict[str, Path], init=False)
    _turns: dict[str, anyio.Lock] = field(factory=dict[str, anyio.Lock], init=False)
    _remove_folder: Callable[[], object] | None = field(default=None, init=False)
    _folder: Path | None = field(default=None, init=False)

    async def get(self, scene: Scene) -> Path:
        """Return a scene's video; concurrent calls wait for the same one."""
        key = scene.key
        async with self._turns.setdefault(key, anyio.Lock()):
            if key not in self._files:
                part = self._make_folder() / f"{key}.part"
                await self.finish(film_to(part, scene, self.size))
                path = part.rename(part.with_suffix(".mp4"))
                self._files[key] = path
                self.rendered += 1
        return self._files[key]

    async def finish(self, work: Generator[None, None, T]) -> T:
        """Run some work to its end; if cancelled, stop between two steps."""
        if self.in_threads:
            return await to_thread.run_sync(_finish_in_thread, work)
        # A thread's work takes no time on a virtual clock, which would run on
        # to the next timeout meanwhile. A busy event loop holds it.
        with contextlib.closing(work):
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    result: T = end.value
                    return result
                await lowlevel.checkpoint()

    def clear(self) -> None:
        """Remove all files; they are rendered again when needed."""
        self._files.clear()
        self._folder = None
        if self._remove_folder is not None:
            self._remove_folder()

    def _make_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="kling-emulator-"))
            # Also if an app is used without a server, and is garbage-collected.
            self._remove_folder = weakref.finalize(
                self, shutil.rmtree, self._folder, ignore_errors=True
            )
        return self._folder


def _finish_in_thread(work: Generator[None, None, T]) -> T:
    # Closed here: a cancelled task may leave its thread behind.
    with contextlib.closing(work):
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            from_thread.check_cancelled()
