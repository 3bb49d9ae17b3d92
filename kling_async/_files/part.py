"""The bytes of a video so far: a hidden file.

Takes bytes as they come over the wire, unpacks them if they are packed, and checks
whether they are a video. Open only while bytes come: file handles are scarce, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import IO

import anyio
from anyio import to_thread
from attrs import define, field

from kling_async._errors import DownloadError, Hint, KlingError, causes_of
from kling_async._files.mp4 import HEAD, begins_like_mp4, flaw_in
from kling_async._http.packing import UnknownPackingError, Unpacker, is_packed

# How other videos begin: Matroska and WebM, AVI, Ogg.
_OTHER_VIDEOS = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS")

# How pages and error messages begin, and videos never do.
_TEXT = (b"<", b"{", b"[")

_TEXTUAL = ("text/", "application/json", "application/xml", "application/xhtml")

_TOO_MANY = frozenset({errno.EMFILE, errno.ENFILE})

# Bytes written to the file at once: each write needs a thread.
_WRITTEN_AT_ONCE = 1024 * 1024


class InterruptionError(Exception):
    """A download was interrupted and may continue; the bytes so far are kept.

    Attributes:
        error: What to raise if it does not continue.
        retry_after: How many seconds the server asks to wait, if it does.
    """

    def __init__(
        self, message: str, hint: Hint | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.error = DownloadError(message)
        self.error.hint = hint
        self.retry_after = retry_after


def is_out_of_files(error: BaseException) -> bool:
    """Whether the system had no file handles or sockets left."""
    return any(
        isinstance(it, OSError) and it.errno in _TOO_MANY for it in causes_of(error)
    )


@define(eq=False, repr=False)
class Part:
    """The bytes of a download so far.

    Attributes:
        path: The hidden file.
        url: Where they come from, for messages.
        most: The most bytes allowed.
        is_mp4: Whether they have to be an MP4 that opens.
        received: How many came over the wire.
    """

    path: Path
    url: str
    most: int
    is_mp4: bool
    received: int = 0
    _written: int = 0
    _file: anyio.AsyncFile[bytes] = field(init=False)
    _exists: bool = False
    _head: bytearray = field(factory=bytearray)
    _pending: bytearray = field(factory=bytearray)
    _unpacker: Unpacker | None = None
    _has_begun: bool = False
    _encoding: str = ""
    _type: str = ""

    @classmethod
    def inside(cls, folder: Path, url: str, *, most: int, is_mp4: bool) -> Part:
        """Choose a hidden file in a folder; nothing is created yet."""
        # Short: the target's own name may be as long as names can be.
        name = f".kling-{secrets.token_hex(4)}.part"
        return cls(folder / name, url, most, is_mp4)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Open the file at its end.

        Raises:
            InterruptionError: There are too many open ones.
        """
        # Exclusive, so that an existing symbolic link is never followed.
        try:
            file = await anyio.open_file(self.path, "r+b" if self._exists else "x+b")
        except OSError as error:
            if error.errno in _TOO_MANY:
                raise InterruptionError("too many open files") from error
            raise
        self._exists = True
        async with file:
            if self._written:
                await file.seek(self._written)
            self._file = file
            try:
                yield
            except (InterruptionError, KlingError):
                await self._write()  # the next attempt goes on from here
                raise

    @property
    def can_go_on(self) -> bool:
        """Whether a download can continue after these bytes."""
        return self.received > 0 and self._unpacker is None

    async def begin(self, encoding: str, media_type: str) -> None:
        """Start again, with the encoding and media type that the headers claim."""
        if self._written:
            await self._file.seek(0)
            await self._file.truncate()
        self.received = self._written = 0
        self._head.clear()
        self._pending.clear()
        self._unpacker, self._has_begun = None, False
        self._encoding, self._type = encoding, media_type

    async def add(self, chunk: bytes) -> None:
        """Add the next bytes.

        Raises:
            DownloadError: They are not of a video, or too many.
        """
        self.received += len(chunk)
        self.require_room_for(self.received)
        if self._has_begun:
            await self._take(chunk)
            return
        self._head += chunk
        if len(self._head) >= HEAD:
            await self._look()

    async def end(self) -> None:
        """Write the last bytes, and check that the video opens.

        Raises:
            DownloadError: It is not a video.
            InterruptionError: It may be complete if it is downloaded again.
        """
        if not self.received:
            raise DownloadError(f"{self.url} answered with an empty file")
        if not self._has_begun:
            await self._look()
        if self._unpacker is not None and not self._unpacker.is_whole:
            raise InterruptionError(f"{self.url} ends in the middle")
        await self._write()
        flaw = await to_thread.run_sync(self._flush, self._file.wrapped)
        if flaw is not None:
            raise InterruptionError(self._no_mp4(flaw), "take_any_format")

    def _flush(self, file: IO[bytes]) -> str | None:
        """Sync it to the disk; return why it does not open, if it does not."""
        file.flush()
        os.fsync(file.fileno())
        return flaw_in(file) if self.is_mp4 else None

    async def move(self, path: Path) -> None:
        """Replace an existing file, or a symbolic link but not its target."""
        await anyio.Path(self.path).replace(path)
        self._exists = False

    async def discard(self) -> None:
        """Remove the file, if there is one."""
        with anyio.CancelScope(shield=True), contextlib.suppress(OSError):
            if self._exists:
                await anyio.Path(self.path).unlink()

    def require_room_for(self, size: int) -> None:
        """Refuse more bytes than allowed."""
        if size > self.most:
            raise DownloadError(
                f"{self.url} holds more than {self.most:,} bytes; nothing was written",
            ).with_hint("take_more_bytes")

    async def _look(self) -> None:
        """Decide by the first bytes what it is: headers are not reliable."""
        self._has_begun, head = True, bytes(self._head)
        self._head.clear()
        is_video = begins_like_mp4(head) or head.startswith(_OTHER_VIDEOS)
        try:
            if not is_video and is_packed(head, self._encoding):
                self._unpacker = Unpacker()
            elif not is_video:
                self._refuse_text(head)
        except UnknownPackingError as error:
            raise DownloadError(
                f"{self.url} sent a video packed with {error}"
            ) from error
        await self._take(head)

    def _refuse_text(self, head: bytes) -> None:
        said = self._type.split(";")[0].strip().lower()
        is_text = head.lstrip().startswith(_TEXT)
        if said.startswith(_TEXTUAL) and (is_text or self.is_mp4):
            raise DownloadError(f"{self.url} answered with {said}, not with a video")

    async def _take(self, chunk: bytes) -> None:
        if self._unpacker is None:
            await self._put(chunk)
            return
        try:
            for piece in self._unpacker.unpack(chunk):
                await self._put(piece)
        except zlib.error as error:
            raise InterruptionError(f"{self.url} does not unpack: {error}") from error

    async def _put(self, content: bytes) -> None:
        size = self._written + len(self._pending)
        self.require_room_for(size + len(content))
        self._pending += content
        if self.is_mp4 and size < HEAD <= size + len(content):
            first = bytes(self._pending[:HEAD])
            if not begins_like_mp4(first):
                other = DownloadError(self._no_mp4("it does not begin like one"))
                raise other.with_hint("take_any_format")
        if len(self._pending) >= _WRITTEN_AT_ONCE:
            await self._write()

    async def _write(self) -> None:
        if self._pending:
            content, self._pending = bytes(self._pending), bytearray()
            await self._file.write(content)
            self._written += len(content)

    def _no_mp4(self, flaw: str) -> str:
        return f"{self.url} is not an MP4 that opens: {flaw}"
