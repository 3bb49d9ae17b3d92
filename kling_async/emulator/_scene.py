"""What a video is to show, read from a create's body.

Decodes the images that came along and fetches none: there is no internet here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import urllib.parse
from collections.abc import Generator, Iterator, Mapping
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
# Where a picture is looked for, in this order: the first is the one to show.
_PICTURES = ("image_url", "image_list", "elements", "video_url")


@frozen(kw_only=True)
class Scene:
    """What one video shows.

    Attributes:
        text: What a title card says, if there is no image.
        source: The name of the file that was not fetched, if any.
        image: The picture to zoom into, as JPEG, reduced to what is needed.
        aspect: Width and height, in proportion.
        length: How many seconds.
    """

    text: str
    source: str
    image: bytes | None
    aspect: tuple[int, int]
    length: int

    @property
    def key(self) -> str:
        """The same for scenes that look the same."""
        image = hashlib.sha256(self.image or b"").hexdigest()
        seen = (self.text, self.source, image, self.aspect, self.length)
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:32]


def scene_of(body: Mapping[str, object], size: int) -> Generator[None, None, Scene]:
    """Read a valid body, image by image, and return what it asks to see.

    Args:
        body: The create's body, as checked against the catalogue.
        size: The video's longer side in pixels; an image is reduced to it.

    Raises:
        Refusal: An image cannot be decoded.
    """
    pictured, address = next(_pictures(body), ("", ""))
    image: Image.Image | None = None
    for where, uri in _data_images(body):
        decoded = _decoded(where, uri)
        if where == pictured:
            image = decoded
        yield
    aspect = image.size if image else _aspect_of(body)
    return Scene(
        text=_text_of(body),
        source="" if image else _file_name(address),
        image=_reduced(image, size) if image else None,
        aspect=aspect,
        length=int(str(body.get("duration") or _DEFAULT_LENGTH)),
    )


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
        if text[:11].lower() == "data:image/":
            yield where, text


def _pictures(body: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name in _PICTURES:
        yield from _texts_in(body.get(name), name)


def _decoded(where: str, uri: str) -> Image.Image:
    try:
        data = base64.b64decode(uri.partition(",")[2], validate=True)
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        upright = ImageOps.exif_transpose(image)
        return upright.convert("RGB")
    except Exception as error:  # decoders fail in every way on what is no image
        allowed = "an image that can be decoded"
        raise Refusal.over([Problem(where, shown(uri), allowed)]) from error


def _reduced(image: Image.Image, size: int) -> bytes:
    image.thumbnail((size, size))  # in place
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
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
