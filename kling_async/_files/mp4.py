"""Whether a file is an MP4 that a player can open: its boxes, walked to the end.

Reads as much of ISO/IEC 14496-12 as that takes, in constant memory; decodes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

from attrs import frozen

HEAD = 8  # bytes: a box's length and its type (section 4.2)

_LONG_HEAD = 16

# Types of a first box: a modern file begins with ftyp, an older one may not.
_FIRST = frozenset(b"ftyp moov mdat free skip wide styp uuid pnot".split())

_MOST_BOXES = 10_000  # a video has tens; a hostile file has millions


def begins_like_mp4(head: bytes) -> bool:
    """Whether the first 8 bytes are those of a box that an MP4 begins with."""
    return head[4:HEAD] in _FIRST


def flaw_in(file: IO[bytes]) -> str | None:
    """Return what keeps a player from opening a file; None if nothing does.

    Raises:
        OSError: It cannot be read.
    """
    try:
        return _flaw_in(file, file.seek(0, os.SEEK_END))
    except _BrokenError as error:
        return str(error)


class _BrokenError(Exception):
    """The boxes do not fit into each other."""


@frozen(eq=False, repr=False)
class _Box:
    """A part of the file: its type, and where its content begins and ends."""

    kind: bytes
    begin: int
    end: int


def _flaw_in(file: IO[bytes], size: int) -> str | None:
    found = {box.kind: box for box in _boxes(file, 0, size)}
    movie = found.get(b"moov")
    if movie is None:
        return "it has no box moov, which says what is in it"
    if b"mdat" not in found:
        return "it has no box mdat, which holds the film"
    inside = {box.kind for box in _boxes(file, movie.begin, movie.end)}
    missing = {b"mvhd", b"trak"} - inside
    return f"its box moov has no {min(missing).decode()}" if missing else None


def _boxes(file: IO[bytes], begin: int, end: int) -> Iterator[_Box]:
    """Walk boxes side by side; trailing bytes too short for a header are ignored."""
    count = 0
    while end - begin >= HEAD:
        count += 1
        if count > _MOST_BOXES:
            raise _BrokenError(f"it has more than {_MOST_BOXES:,} boxes")
        file.seek(begin)
        head = file.read(_LONG_HEAD)
        length, kind, start = int.from_bytes(head[:4]), head[4:HEAD], HEAD
        if length == 1:  # the real length follows
            length, start = int.from_bytes(head[HEAD:]), _LONG_HEAD
        elif length == 0:  # up to the end
            length = end - begin
        if length < start:
            raise _BrokenError(f"its box at byte {begin:,} is shorter than its head")
        if begin + length > end:
            raise _BrokenError(f"it ends inside the box that begins at byte {begin:,}")
        yield _Box(kind, begin + start, begin + length)
        begin += length
