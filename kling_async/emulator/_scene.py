"""What a video is to show, read from a create's body.

Decodes the images that came along; fetches none itself.
"""

from __future__ import annotations

import base64
import hashlib
import io
import urllib.parse
from collections.abc import Generator, Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import cast

from attrs import frozen
from PIL import Image, ImageOps

from kling_async._errors import Problem
from kling_async._fields import shown
from kling_async.emulator._refusals import Refusal

_DEFAULT_LENGTH = 5
_DEFAULT_ASPECT = "16:9"
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Where pictures are looked for; they are shown one after another in this order.
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
        text: What a title card says, if there is no image.
        source: The name of the file that was not fetched, if any.
        images: The pictures to zoom into, one after another, as JPEG, reduced to
            what is needed.
        aspect: Width and height, in proportion.
        length: How many seconds.
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
    body: Mapping[str, object], size: int, fetched: Mapping[str, Image.Image]
) -> Generator[None, None, Scene]:
    """Read a valid body, image by image, and return what it asks to see.

    Args:
        body: The create's body, as checked against the catalogue.
        size: The video's longer side in pixels; images are reduced to it.
        fetched: The pictures behind addresses, as far as they are known.

    Raises:
        Refusal: An image cannot be decoded.
    """
    decoded: dict[str, Image.Image] = {}
    for where, uri in _data_images(body):
        decoded[where] = _decoded(where, uri)
        yield
    pictured = [
        decoded.get(where) or fetched.get(address) for where, address in _pictures(body)
    ]
    images = [image for image in pictured if image is not None]
    addresses = [address for _, address in _pictures(body)]
    return Scene(
        text=_text_of(body),
        source="" if images or not addresses else _file_name(addresses[0]),
        images=tuple(_reduced(image, size) for image in images),
        aspect=images[0].size if images else _aspect_of(body),
        length=int(str(body.get("duration") or _DEFAULT_LENGTH)),
    )


def addresses_in(body: Mapping[str, object]) -> list[str]:
    """Return the addresses of the pictures and films that a body names."""
    return [text for _, text in _pictures(body) if not _is_data(text)]


def _texts_in(value: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Give every text in a body with its place, such as ``image_list[2]``."""
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


def _decoded(where: str, uri: str) -> Image.Image:
    try:
        return image_in(base64.b64decode(uri.partition(",")[2], validate=True))
    except Exception as error:  # decoders fail in every way on what is no image
        allowed = "an image that can be decoded"
        raise Refusal.over([Problem(where, shown(uri), allowed)]) from error


def image_in(data: bytes) -> Image.Image:
    """Decode an image, upright. What is none is an error of any kind."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    return ImageOps.exif_transpose(image).convert("RGB")


def _reduced(image: Image.Image, size: int) -> bytes:
    small = image.copy()
    small.thumbnail((size, size))  # in place
    file = io.BytesIO()
    small.save(file, "JPEG", quality=92)
    return file.getvalue()


def _aspect_of(body: Mapping[str, object]) -> tuple[int, int]:
    ratio = body.get("aspect_ratio") or body.get("ratio") or _DEFAULT_ASPECT
    width, height = map(int, str(ratio).split(":"))
    return width, height


def _file_name(address: str) -> str:
    path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
    return PurePosixPath(path).name


def _text_of(body: Mapping[str, object]) -> str:
    shots = body.get("multi_prompt")
    told = (text for _, text in _texts_in(shots)) if shots else ()
    said = body.get("prompt") or " / ".join(told) or body.get("effect_scene")
    return str(said or body.get("model") or "")
