"""Fetches the pictures that a create names by address, from this machine only.

So an app's own development server is shown, and nothing ever leaves the machine.
What cannot be had is left out.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from typing import cast

import av
import httpx
from PIL import Image

from kling_async.emulator._here import is_loopback
from kling_async.emulator._scene import image_in

_logger = logging.getLogger("kling_async.emulator")
_TIMEOUT_SECONDS = 5
_MOST_BYTES = 50_000_000


async def pictures_at(addresses: Iterable[str]) -> dict[str, Image.Image]:
    """Fetch images, and films of which the first frame is taken.

    Args:
        addresses: Where they are; those on other machines are left out.
    """
    wanted = [it for it in dict.fromkeys(addresses) if _is_here(it)]
    found: dict[str, Image.Image] = {}
    if not wanted:
        return found
    async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_SECONDS) as client:
        for address in wanted:
            try:
                found[address] = _picture_in(await _fetched(client, address))
            except Exception as error:  # noqa: BLE001 (decoders fail in every way)
                _logger.info("%s cannot be shown: %r", address, error)
    return found


async def _fetched(client: httpx.AsyncClient, address: str) -> bytes:
    data = bytearray()
    async with client.stream("GET", address) as answer:
        answer.raise_for_status()
        async for part in answer.aiter_bytes():
            data += part
            if len(data) > _MOST_BYTES:
                raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    return bytes(data)


def _is_here(address: str) -> bool:
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return url.host == "localhost" or is_loopback(url.host)


def _picture_in(data: bytes) -> Image.Image:
    if data[4:8] != b"ftyp":
        return image_in(data)
    with av.open(io.BytesIO(data), "r") as film:
        frame = next(film.decode(film.streams.video[0]))
        # PyAV's stub leaves to_image without types.
        image = frame.to_image()  # type: ignore[no-untyped-call]
        return cast("Image.Image", image)
