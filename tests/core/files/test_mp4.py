"""Which files are MP4s that open, told by their boxes."""

from __future__ import annotations

import io
import random

import pytest
from films import FTYP, MOOV, box, film

from kling_async._files.mp4 import begins_like_mp4, flaw_in

MDAT = box(b"mdat", b"film")


def flaw_of(content: bytes) -> str | None:
    """Have it looked at as a file."""
    return flaw_in(io.BytesIO(content))


def with_long_length(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    """Give a box whose length takes 64 bits."""
    told = 16 + len(content) if length is None else length
    return (1).to_bytes(4) + kind + told.to_bytes(8) + content


SOUND = {
    "usual": FTYP + MOOV + MDAT,
    "film first": FTYP + MDAT + MOOV,
    "without a type": MDAT + MOOV,
    "free space": FTYP + box(b"free", bytes(9)) + MOOV + MDAT,
    "long length": FTYP + MOOV + with_long_length(b"mdat", b"film"),
    "up to the end": FTYP + MOOV + bytes(4) + b"mdat" + b"film" * 99,
    "fragments": FTYP + MOOV + (box(b"moof") + MDAT) * 3,
    "crumbs at the end": FTYP + MOOV + MDAT + bytes(7),
    "zeros at the end": FTYP + MOOV + MDAT + bytes(999),
}
BROKEN = {
    "nothing": (b"", "no box moov"),
    "a page": (b"<html><title>Sign in</title></html>", "ends inside the box"),
    "no head": (FTYP + MDAT, "no box moov"),
    "no film": (FTYP + MOOV, "no box mdat"),
    "no track": (FTYP + box(b"moov", box(b"mvhd")) + MDAT, "moov has no trak"),
    "no header": (FTYP + box(b"moov", box(b"trak")) + MDAT, "moov has no mvhd"),
    "cut": (film(b"film")[:-1], "ends inside the box that begins at byte"),
    "too short": (FTYP + (7).to_bytes(4) + b"moov" + MDAT, "shorter than its head"),
    "too short at length": (
        FTYP + with_long_length(b"moov", b"", 15) + MDAT,
        "shorter than its head",
    ),
    "overflow": (FTYP + with_long_length(b"moov", b"", 2**64 - 1), "ends inside"),
    "inner overflow": (
        FTYP + box(b"moov", box(b"mvhd"), (99).to_bytes(4) + b"trak") + MDAT,
        "ends inside",
    ),
    "a million boxes": (FTYP + box(b"free") * 10_000 + MOOV, "more than 10,000 boxes"),
}


@pytest.mark.parametrize("content", SOUND.values(), ids=SOUND)
def test_a_sound_file_is_taken(content: bytes) -> None:
    """However its boxes are put together."""
    assert flaw_of(content) is None
    assert begins_like_mp4(content[:8])


@pytest.mark.parametrize("content, words", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_told_with_what_is_wrong(content: bytes, words: str) -> None:
    """In words; nothing is raised."""
    assert words in str(flaw_of(content))


def test_a_file_that_was_cut_anywhere_is_broken() -> None:
    """At whichever byte of a film that is all there."""
    whole = film(bytes(200))
    for length in range(len(whole)):
        assert flaw_of(whole[:length]) is not None


def test_whatever_bytes_come_nothing_is_raised() -> None:
    """A film with any bytes of it changed is sound or broken, and no more."""
    chance = random.Random(0)
    for _ in range(300):
        content = bytearray(film(bytes(50)))
        for _ in range(chance.randrange(1, 9)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        assert isinstance(flaw_of(bytes(content)), str | None)


@pytest.mark.parametrize(
    "head", [b"", b"\0\0\0\x08", b"<!DOCTYP", b"\x89PNG\r\n\x1a\n"]
)
def test_other_files_begin_otherwise(head: bytes) -> None:
    """A page, a picture, or nothing yet."""
    assert not begins_like_mp4(head)
