"""Local media: paths and bytes become data URIs, which the API takes.

Reads off the event loop, and refuses what the server would refuse after a long
upload: files that are not images, too large, too small, or too long and narrow.
"""

from __future__ import annotations

import base64
import mimetypes
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from anyio import to_thread
from attrs import evolve, frozen

from kling_async._checks import AddressPolicy, is_bucket_url
from kling_async._errors import InvalidRequestError, Problem
from kling_async._files.storage import BucketObject, StorageError
from kling_async._requests.catalogue import catalogue_in_use
from kling_async._requests.fields import Field, Medium, is_local
from kling_async._text import short_repr

# Fields that are never media, even for an unknown model.
_TEXTS = frozenset({"prompt", "negative_prompt", "model"})

# What Kling and several resellers document; this vendor's pages name no limit.
_SHORTEST_SIDE = 300

_WIDEST = 2.5

_IMAGES = ("image/jpeg", "image/png")

_SOUNDS = ("audio/mpeg", "audio/wav", "audio/mp4", "audio/aac")

_VIDEOS = ("video/mp4",)

# None for a field unknown to this version: everything that any field takes.
_ALLOWED: Mapping[Medium | None, tuple[str, ...]] = {
    "image": _IMAGES,
    "audio": _SOUNDS,
    "video": _VIDEOS,
    None: _IMAGES + _SOUNDS + _VIDEOS,
}

_IN_WORDS: Mapping[Medium | None, str] = {
    "image": "a JPEG or PNG image",
    "audio": "an MP3, WAV, M4A or AAC sound",
    "video": "an MP4 video",
    None: "a JPEG or PNG image, an MP3, WAV, M4A or AAC sound, or an MP4 video",
}

# Bytes; the limit if none is documented or checked.
LARGEST_FILE = 256 * 1024 * 1024

# Without waiting for a FIFO's other end, and without changing line ends on Windows.
_FOR_READING = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)

# How files begin: offset, bytes, media type. The first match counts.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF8", "image/gif"),
    (0, b"BM", "image/bmp"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (4, b"ftypM4A", "audio/mp4"),
    *((4, b"ftyp" + brand, "image/heic") for brand in (b"heic", b"heix", b"mif1")),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftyp", "video/mp4"),
    (0, b"ID3", "audio/mpeg"),
    *((0, bytes((0xFF, mark)), "audio/aac") for mark in (0xF0, 0xF1, 0xF8, 0xF9)),
    *((0, bytes((0xFF, mark)), "audio/mpeg") for mark in (0xFA, 0xFB, 0xF2, 0xF3)),
    *((0, bytes((0xFF, mark)), "audio/mpeg") for mark in (0xE2, 0xE3)),
    (0, b"%PDF", "application/pdf"),
)


# Bytes; enough to find an object's type, and usually its width and height.
_BEGINNING = 64 * 1024


async def encode_local_files(
    body: Mapping[str, object],
    *,
    check: bool = True,
    reach: AddressPolicy | None = None,
) -> dict[str, object]:
    """Return a body in which every path and all bytes are data URIs.

    Args:
        body: A request's body, by the API's names, however deep.
        check: Whether files are checked against the documented limits.
        reach: Which addresses the server can reach: the URL of an object in a bucket
            becomes a link, or a data URI. None leaves such URLs as they are.

    Raises:
        InvalidRequestError: Everything that is wrong with the files, at once.
    """
    model = body.get("model")
    known = catalogue_in_use().get(model) if isinstance(model, str) else None
    problems: list[Problem] = []
    inlined = {
        name: await _encode_value(
            _FieldPath(name, known.fields.get(name) if known else None, check, reach),
            value,
            problems,
        )
        for name, value in body.items()
    }
    if problems:
        raise InvalidRequestError(problems, model=known.id if known else None)
    return inlined


@frozen(eq=False, repr=False)
class _FieldPath:
    """The path of a field in a body, the field itself, and whether to check it."""

    where: str
    rule: Field | None
    check: bool
    reach: AddressPolicy | None

    def inside(self, name: str) -> _FieldPath:
        rule = self.rule.properties.get(name) if self.rule else None
        return evolve(self, where=f"{self.where}.{name}", rule=rule)

    def at(self, index: int) -> _FieldPath:
        rule = self.rule and (self.rule.items or self.rule)
        return evolve(self, where=f"{self.where}[{index}]", rule=rule)

    @property
    def medium(self) -> Medium | None:
        """Which medium the field takes; None if this version does not know."""
        return self.rule.medium if self.rule else None

    @property
    def limit(self) -> int:
        """The most bytes allowed."""
        documented = self.rule.max_bytes if self.rule and self.check else None
        return documented or LARGEST_FILE

    def refusal(self, given: str, allowed: str, hint: str | None = None) -> Exception:
        return InvalidRequestError([Problem(self.where, given, allowed, hint)])

    def bucket_object(self, value: object) -> BucketObject | None:
        """Return the object that a value names, if the field takes media."""
        is_media = self.rule is None or self.rule.medium is not None
        if self.reach is None or not is_media or self.where in _TEXTS:
            return None
        return BucketObject(str(value), self.reach) if is_bucket_url(value) else None


async def _encode_value(
    place: _FieldPath, value: object, problems: list[Problem]
) -> object:
    stored = place.bucket_object(value)
    if stored is not None or is_local(value):
        try:
            if stored is not None:
                return await _from_bucket(place, stored)
            return await to_thread.run_sync(_read_local, place, value)
        except InvalidRequestError as error:
            problems += error.problems
        except StorageError as error:
            allowed = "an object that can be read"
            problems.append(Problem(place.where, str(value), allowed, str(error)))
        return None
    if isinstance(value, Mapping):
        return {
            name: await _encode_value(place.inside(str(name)), inner, problems)
            for name, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [
            await _encode_value(place.at(index), item, problems)
            for index, item in enumerate(value)
        ]
    return value


async def _from_bucket(place: _FieldPath, stored: BucketObject) -> str:
    """Check an object; return a link to it, or its bytes."""
    url, size = stored.url, await stored.size()
    if place.check:
        head = await stored.read(min(size, _BEGINNING)) if size else b""
        _require_sound(place, url, head, size)
    link = await stored.link()
    if link is not None:
        return link
    if place.medium == "video":
        hint = "Its store cannot sign a link, or its address is not public."
        raise place.refusal(url, "a video that the server can fetch by a link", hint)
    _require_room(place, url, size)
    return await to_thread.run_sync(_data_uri, url, await stored.read())


def _read_local(place: _FieldPath, given: object) -> str:
    if isinstance(given, os.PathLike):
        path = Path(os.fsdecode(cast("os.PathLike[str]", given)))
        told, data = str(path), _read(place, path)
    else:
        data = bytes(cast("bytes", given))
        told = short_repr(data)
    if place.check:
        _require_sound(place, told, data, len(data))
    return _data_uri(told, data)


def _data_uri(told: str, data: bytes) -> str:
    media_type = _type_of(told, data) or mimetypes.guess_type(told)[0]
    encoded = base64.b64encode(data).decode("ascii")
    return f"data:{media_type or 'application/octet-stream'};base64,{encoded}"


def _read(place: _FieldPath, path: Path) -> bytes:
    try:
        return read_file(path, place.limit)
    except FileNotFoundError:
        missing = f"{path}, which is missing"
        raise place.refusal(missing, "a file", _where_it_was_looked_for(path)) from None
    except UnfitFileError as error:
        joint = " " if str(error).startswith("of") else ", "
        raise place.refusal(f"{path}{joint}{error}", error.allowed) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise place.refusal(f"{path}: {why}", "a file that can be read") from error
    except ValueError as error:  # a NUL in the path
        raise place.refusal(f"{path!r}: {error}", "the path of a file") from error


class UnfitFileError(OSError):
    """A path does not lead to a readable file: why, and what is allowed."""

    def __init__(self, why: str, allowed: str) -> None:
        super().__init__(why)
        self.allowed = allowed


def read_file(path: Path, limit: int = LARGEST_FILE) -> bytes:
    """Read a regular file: a FIFO would hang, a device never end.

    Raises:
        UnfitFileError: It is not a regular file, or is larger than the limit.
        OSError: It cannot be read.
    """
    _require_fit(path.stat(), limit)
    with os.fdopen(os.open(path, _FOR_READING), "rb") as file:
        # Once more: the path may lead elsewhere by now.
        _require_fit(os.fstat(file.fileno()), limit)
        content = file.read(limit + 1) or b""
    _require_size(len(content), limit)
    return content


def _require_fit(facts: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = "a directory" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise UnfitFileError(kind, "the path of a file")
    _require_size(facts.st_size, limit)


def _require_size(size: int, limit: int) -> None:
    if size > limit:
        raise UnfitFileError(f"of {size:,} bytes", f"at most {limit:,} bytes")


def _where_it_was_looked_for(path: Path) -> str | None:
    if path.parts[:1] == ("~",):
        return "`~` is a directory of that name here: give path.expanduser()."
    return None if path.is_absolute() else f"The working directory is {Path.cwd()}."


def _require_sound(place: _FieldPath, told: str, data: bytes, size: int) -> None:
    """Check a file by its beginning, and by its size in all."""
    media_type = _type_of(told, data)
    allowed, in_words = _ALLOWED[place.medium], _IN_WORDS[place.medium]
    if not data:
        raise place.refusal(f"{told}, which is empty", in_words)
    if media_type not in allowed:
        found = media_type or f"begins with {data[:12]!r}"
        given = f"{told} ({found})"
        problem = Problem(place.where, given, in_words, advice="skip_media_check")
        raise InvalidRequestError([problem])
    _require_room(place, told, size)
    if media_type in _IMAGES:
        _require_shape(place, told, data, is_whole=size == len(data))


def _require_room(place: _FieldPath, told: str, size: int) -> None:
    if size > place.limit:
        most = f"at most {place.limit:,} bytes"
        raise place.refusal(f"{told} of {size:,} bytes", most)


def _require_shape(
    place: _FieldPath, told: str, data: bytes, *, is_whole: bool
) -> None:
    size = _png_size(data) if data[:1] == b"\x89" else _jpeg_size(data)
    if size is None and not is_whole:
        return  # a long colour profile comes first
    if size is None or 0 in size:
        hint = "Its header is broken."
        raise place.refusal(told, _IN_WORDS["image"], hint)
    width, height = size
    given = f"{told} of {width} x {height} pixels"
    if min(size) < _SHORTEST_SIDE:
        raise place.refusal(given, f"each side at least {_SHORTEST_SIDE} pixels")
    if max(size) > _WIDEST * min(size):
        raise place.refusal(given, "an aspect ratio from 2:5 to 5:2")


def _type_of(name: str, data: bytes) -> str | None:
    kind = type_of(data)
    is_sound = kind == "video/mp4" and name.lower().endswith(".m4a")
    return "audio/mp4" if is_sound else kind  # some recorders do not brand it


def type_of(data: bytes) -> str | None:
    """Return the MIME type of a file by how it begins."""
    head = data[:16]
    fits = (kind for at, magic, kind in _MAGIC if head.startswith(magic, at))
    return next(fits, None)


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Read the header chunk (PNG, W3C 2003, section 11.2.2)."""
    if data[12:16] != b"IHDR" or len(data) < 24:  # noqa: PLR2004 (the end of its sizes)
        return None
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


# Markers that begin a frame (ITU-T T.81, table B.1), and markers without a length.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

_BARE = {0x01, *range(0xD0, 0xD8)}


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk the markers to the frame header (ITU-T T.81, section B.2.2)."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:  # noqa: PLR2004 (a marker's mark)
        marker = data[at + 1]
        if marker == 0xFF:  # noqa: PLR2004 (a fill byte)
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _FRAMES:
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(width), int.from_bytes(height)
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
