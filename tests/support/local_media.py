"""Images and sounds for tests, and what becomes of them in the body of a create."""

from __future__ import annotations

import base64
import io
import wave
from typing import Literal

import pytest
from clients import MODEL, PROMPT
from PIL import Image

from kling_async import InvalidRequestError, Problem
from kling_async._files.media import encode_local_files

AVATAR = "klingai/avatar-pro"


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
    inlined = await encode_local_files(body, check=check)
    assert {k: v for k, v in inlined.items() if k != "image_url"} == {
        k: v for k, v in body.items() if k != "image_url"
    }
    return inlined["image_url"]


async def refusal_of(value: object, field: str = "image_url") -> Problem:
    """Put a value where it is refused, and give the one problem with it."""
    model = AVATAR if field == "audio_url" else MODEL
    with pytest.raises(InvalidRequestError) as caught:
        await encode_local_files({"model": model, field: value})
    (problem,) = caught.value.problems
    assert caught.value.model == model
    assert problem.field == field
    return problem
