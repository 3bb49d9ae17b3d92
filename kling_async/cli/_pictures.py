"""The pictures that the demo brings to life: drawn here, since it has no network.

Three of them as PNG, a wide, a tall and a square one; the same every time.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence

from attrs import frozen
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

Draw = ImageDraw.ImageDraw

_FINER = 2  # drawn so many times larger, for soft edges

_NIGHT: Sequence[Colour] = ((10, 14, 44), (44, 40, 104), (130, 84, 142))

_DUSK: Sequence[Colour] = ((54, 46, 112), (216, 98, 104), (255, 196, 124))

_DAY: Sequence[Colour] = ((64, 142, 214), (150, 206, 240), (250, 240, 222))


@frozen
class DemoPicture:
    """One of the demo's pictures.

    Attributes:
        name: What it is called.
        prompt: What is to happen in it.
        png: The picture.
    """

    name: str
    prompt: str
    png: bytes


def pictures() -> list[DemoPicture]:
    """Draw all of them."""
    return [
        DemoPicture(
            "mountains",
            "The sun sinks behind the mountains.",
            _png((960, 540), _DUSK, _mountains),
        ),
        DemoPicture(
            "cat",
            "The cat turns its head to the moon.",
            _png((540, 960), _NIGHT, _cat),
        ),
        DemoPicture(
            "boat",
            "A paper boat rides the waves.",
            _png((720, 720), _DAY, _boat),
        ),
    ]


def _png(
    size: tuple[int, int],
    sky: Sequence[Colour],
    scene: Callable[[Image.Image], None],
) -> bytes:
    width, height = size
    image = Image.new("RGB", (width * _FINER, height * _FINER))
    draw = ImageDraw.Draw(image)
    for y in range(image.height):
        colour = _between(sky, y / image.height)
        draw.line([(0, y), (image.width, y)], fill=colour)
    scene(image)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, "PNG")
    return file.getvalue()


def _between(colours: Sequence[Colour], share: float) -> Colour:
    """Return the colour at a share of the way from the first to the last."""
    place = share * (len(colours) - 1)
    index = min(int(place), len(colours) - 2)
    rest = place - index
    red, green, blue = (
        round(a + (b - a) * rest)
        for a, b in zip(colours[index], colours[index + 1], strict=True)
    )
    return red, green, blue


def _disc(
    image: Image.Image, x: float, y: float, radius: float, colour: Colour
) -> None:
    """Draw a sun or a moon, with its glow."""
    for reach, strength in ((2.6, 70), (1.5, 110), (1.0, 255)):
        mask = Image.new("L", image.size)
        around = reach * radius
        box = (x - around, y - around, x + around, y + around)
        ImageDraw.Draw(mask).ellipse(box, fill=strength)
        if reach > 1:
            mask = mask.filter(ImageFilter.GaussianBlur(around / 3))
        image.paste(colour, mask=mask)


def _ridge(
    image: Image.Image,
    base: float,
    swell: float,
    waves: Sequence[tuple[float, float]],
    colour: Colour,
) -> None:
    """Fill all below a line: ``waves`` are how often it rises, and from where."""
    width, height = image.size
    line = [
        (
            x,
            height
            * (
                base
                - swell
                * sum(
                    math.sin(math.tau * (often * x / width + start)) / often
                    for often, start in waves
                )
            ),
        )
        for x in range(0, width + 8, 8)
    ]
    below = [(width, height), (0, height)]
    ImageDraw.Draw(image).polygon([*line, *below], fill=colour)


def _mountains(image: Image.Image) -> None:
    width, height = image.size
    _disc(image, width * 0.64, height * 0.52, height * 0.1, (255, 236, 190))
    far, near = (150, 84, 120), (38, 26, 66)
    for index in range(4):
        share = index / 3
        waves = [(1.3, 0.1 + share), (2.9, share * 2.3), (7.1, share), (17, share * 5)]
        colour = _between((far, near), share)
        _ridge(image, 0.6 + 0.11 * index, 0.08, waves, colour)


def _cat(image: Image.Image) -> None:
    width, height = image.size
    draw = ImageDraw.Draw(image)
    chance = random.Random(7)  # noqa: S311 (stars, no secrets)
    for _ in range(90):
        x, y, r = (
            chance.random() * width,
            chance.random() * height * 0.7,
            chance.random(),
        )
        draw.ellipse((x, y, x + 6 * r, y + 6 * r), fill=(236, 232, 255))
    _disc(image, width * 0.5, height * 0.42, width * 0.3, (250, 244, 220))
    _ridge(image, 0.8, 0.02, [(0.7, 0.2), (2.3, 0.6)], (20, 16, 40))
    _sitting_cat(draw, width * 0.5, height * 0.8, width * 0.34)


def _sitting_cat(draw: Draw, x: float, y: float, size: float) -> None:
    """Draw a cat from behind, its feet at a point."""
    black = (20, 16, 40)

    def oval(left: float, top: float, right: float, bottom: float) -> None:
        draw.ellipse(
            (x + size * left, y + size * top, x + size * right, y + size * bottom),
            fill=black,
        )

    oval(-0.42, -1.12, 0.42, 0.12)
    oval(-0.31, -1.5, 0.31, -0.92)
    for side in (-1, 1):
        ear = [(0.3, -1.2), (0.27, -1.66), (0.0, -1.46)]
        draw.polygon([(x + side * size * a, y + size * b) for a, b in ear], fill=black)
    tail = (x + size * 0.1, y - size * 0.42, x + size * 0.86, y + size * 0.1)
    draw.arc(tail, -50, 150, fill=black, width=round(size * 0.11))


def _boat(image: Image.Image) -> None:
    width, height = image.size
    _disc(image, width * 0.24, height * 0.2, width * 0.07, (255, 248, 214))
    back, front = (86, 158, 198), (24, 74, 122)
    draw = ImageDraw.Draw(image)
    for index in range(5):
        share = index / 4
        if index == 3:  # noqa: PLR2004 (between the third wave and the fourth)
            _paper_boat(draw, width * 0.54, height * 0.82, width * 0.2)
        waves = [(2.0 + share, share * 1.7), (5.3, share * 3.1)]
        _ridge(image, 0.6 + 0.09 * index, 0.03, waves, _between((back, front), share))


def _paper_boat(draw: Draw, x: float, y: float, size: float) -> None:
    """Draw a boat of folded paper, its middle at a point."""

    def fold(colour: Colour, *corners: tuple[float, float]) -> None:
        draw.polygon([(x + size * a, y + size * b) for a, b in corners], fill=colour)

    fold((236, 226, 210), (-0.55, -0.12), (0.02, -1.0), (0.1, 0.0))
    fold((252, 246, 236), (0.62, -0.12), (0.02, -1.0), (0.1, 0.0))
    fold((226, 88, 84), (-1.0, -0.3), (0.1, 0.0), (0.1, 0.42), (-0.62, 0.36))
    fold((246, 116, 104), (1.0, -0.3), (0.1, 0.0), (0.1, 0.42), (0.66, 0.36))
