"""Local images and sounds that are refused, and why."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from local_media import image, refusal_of, sound

from kling_async import InvalidRequestError
from kling_async._files.media import encode_local_files

V3 = "klingai/video-v3-pro-image-to-video"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP"])
async def test_another_kind_of_image_is_refused(
    tmp_path: Path, kind: Literal["GIF", "WEBP", "BMP"]
) -> None:
    """By its name in words, with the way to send it all the same."""
    path = tmp_path / "mona.png"
    path.write_bytes(image(kind=kind))
    problem = await refusal_of(path)
    assert problem.given == f"{path} (image/{kind.lower()})"
    assert problem.allowed == "a JPEG or PNG image"
    assert problem.advice == "skip_media_check"
    assert "check_media=False" in str(problem)


@pytest.mark.parametrize(
    "content, told",
    [
        (b"#!/bin/sh\necho no image\n", r"begins with b'#!/bin/sh\nec'"),
        (b"%PDF-1.7", "application/pdf"),
        (b"\0\0\0\x18ftypisom", "video/mp4"),
        (sound(), "audio/wav"),
        (b"x", "begins with b'x'"),
    ],
    ids=["text", "pdf", "mp4", "wav", "one-byte"],
)
async def test_what_is_no_image_is_refused_with_what_it_is(
    tmp_path: Path, content: bytes, told: str
) -> None:
    """Known kinds by name, others by how they begin."""
    path = tmp_path / "mona.png"
    path.write_bytes(content)
    assert (await refusal_of(path)).given == f"{path} ({told})"
    assert (await refusal_of(content)).given == f"<{len(content)} bytes> ({told})"


async def test_what_is_no_sound_is_refused() -> None:
    """An image where a voice belongs."""
    problem = await refusal_of(image(), "audio_url")
    assert problem.allowed == "an MP3, WAV, M4A or AAC sound"
    assert "image/png" in problem.given


@pytest.mark.parametrize(
    "content",
    [
        image()[:8],
        image()[:20],
        image()[:12] + b"JUNK" + image()[16:],
        image()[:16] + struct.pack(">II", 0, 300) + image()[24:],
        image(kind="JPEG")[:3],
        image(kind="JPEG")[:40],
        image(kind="JPEG")[:20] + bytes(2_000),
        b"\xff\xd8\xff" + b"\xff" * 50,
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x00\x01\x2c" + bytes(20),
    ],
    ids=[
        "png-magic",
        "png-cut",
        "png-no-header",
        "png-no-width",
        "jpeg-magic",
        "jpeg-cut",
        "jpeg-junk",
        "jpeg-fill",
        "jpeg-no-height",
    ],
)
async def test_an_image_with_a_broken_header_is_refused(content: bytes) -> None:
    """Cut, overwritten, or without a size."""
    problem = await refusal_of(content)
    assert problem.allowed == "a JPEG or PNG image"
    assert problem.hint == "Its header is broken."


def missing(folder: Path) -> Path:
    """Name a file that is not there."""
    return folder / "mona.png"


def empty(folder: Path) -> Path:
    """Make an empty file."""
    (folder / "mona.png").touch()
    return folder / "mona.png"


def fifo(folder: Path) -> Path:
    """Make a pipe that nobody writes to: reading it would wait for ever."""
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def local_socket(folder: Path) -> Path:
    """Make a socket; its name as it is bound has 107 bytes at most."""
    with socket.socket(socket.AF_UNIX) as it, contextlib.chdir(folder):
        it.bind("socket")
    return folder / "socket"


def link_to_itself(folder: Path) -> Path:
    """Make a link that leads nowhere."""
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def below_a_file(folder: Path) -> Path:
    """Name a file in what is no directory."""
    return empty(folder) / "mona.png"


@pytest.mark.parametrize(
    "make, told, allowed",
    [
        (missing, "which is missing", "a file"),
        (lambda folder: folder, "a directory", "the path of a file"),
        (empty, "which is empty", "a JPEG or PNG image"),
        (fifo, "not a regular file", "the path of a file"),
        (local_socket, "not a regular file", "the path of a file"),
        (lambda _: Path(os.devnull), "not a regular file", "the path of a file"),
        (link_to_itself, "symbolic links", "a file that can be read"),
        (below_a_file, "Not a directory", "a file that can be read"),
        (lambda folder: folder / ("x" * 300), "name too long", "a file that can"),
        (lambda folder: folder / "a\0b", "embedded null", "the path of a file"),
    ],
    ids="missing directory empty fifo socket device loop below long nul".split(),
)
async def test_a_path_without_a_file_to_read_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], told: str, allowed: str
) -> None:
    """At once and by name, never with an OSError, never by waiting."""
    path = make(tmp_path)
    problem = await refusal_of(path)
    assert told in problem.given
    assert problem.allowed.startswith(allowed)
    assert str(path.parent) in problem.given


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
async def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    """With the words of the operating system."""
    path = tmp_path / "mona.png"
    path.write_bytes(image())
    path.chmod(0)
    assert "Permission denied" in (await refusal_of(path)).given


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="a file that fails when it is read"
)
async def test_a_file_that_fails_while_it_is_read_is_refused() -> None:
    """Regular and there, and still an error of the disk."""
    problem = await refusal_of(Path("/proc/self/mem"))
    assert problem.allowed == "a file that can be read"
    assert "/proc/self/mem: " in problem.given


async def test_a_missing_file_is_told_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path by the working directory; ``~`` by what it takes."""
    monkeypatch.chdir(tmp_path)
    relative = await refusal_of(Path("mona.png"))
    assert relative.hint == f"The working directory is {tmp_path}."
    assert "expanduser()" in str((await refusal_of(Path("~/mona.png"))).hint)
    assert (await refusal_of(tmp_path / "mona.png")).hint is None


async def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Each file by its place in the body; one error for all."""
    with pytest.raises(InvalidRequestError) as caught:
        await encode_local_files(
            {
                "model": V3,
                "image_url": tmp_path,
                "tail_image_url": image(10, 10),
                "elements": [
                    {"frontal_image_url": image()},
                    {"reference_image_urls": [image(), b"no image", tmp_path / "x"]},
                ],
                "dynamic_masks": [{"mask": b""}],
            }
        )
    assert [problem.field for problem in caught.value.problems] == [
        "image_url",
        "tail_image_url",
        "elements[1].reference_image_urls[1]",
        "elements[1].reference_image_urls[2]",
        "dynamic_masks[0].mask",
    ]
    assert caught.value.problems[2].allowed == "a JPEG or PNG image"
    assert "5 problems, nothing was sent" in str(caught.value)
