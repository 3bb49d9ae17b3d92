"""The bytes of a video so far: a hidden file that nobody else has.

Takes bytes as they come over the wire, unpacks them where they are packed, and says
whether they make a film. Open only while bytes come: files are scarce, too.
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

from kling_async._errors import DownloadError, Hint, KlingError
from kling_async._files.mp4 import HEAD, begins_like_mp4, flaw_in
from kling_async._http.packing import UnknownPackingError, Unpacker, is_packed

# What other films begin with: Matroska and WebM, AVI, Ogg.
_OTHER_FILMS = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS")

# What pages and error messages begin with: no film does.
_TEXT = (b"<", b"{", b"[")

_TEXTUAL = ("text/", "application/json", "application/xml", "application/xhtml")

_TOO_MANY = frozenset({errno.EMFILE, errno.ENFILE})

# How much goes to the file at once: each time costs a thread's attention.
_WRITTEN_AT_ONCE = 1024 * 1024


class InterruptionError(Exception):
    """A download stopped in a way that may heal; the bytes so far are kept.

    Attributes:
        error: What it is if it does not heal.
        retry_after: How many seconds the server asks to wait, if it does.
    """

    def __init__(
        self, message: str, hint: Hint | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.error = DownloadError(message)
        self.error.hint = hint
        self.retry_after = retry_after


def is_out_of_files(error: BaseException | None) -> bool:
    """Whether the system had no more files, or sockets, to give."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in _TOO_MANY:
        return True
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_out_of_files, error.exceptions))
    return is_out_of_files(error.__cause__ or error.__context__)


@define(eq=False)
class Part:
    """The bytes so far, of which nothing shows until they are whole.

    Attributes:
        path: The hidden file.
        url: Where they come from, for messages.
        most: The most of them to take.
        is_mp4: Whether they have to make an MP4 that opens.
        received: How many came over the wire.
    """

    path: Path
    url: str
    most: int
    is_mp4: bool
    received: int = 0
    _written: int = 0
    _file: anyio.AsyncFile[bytes] | None = None
    _exists: bool = False
    _head: bytearray = field(factory=bytearray)
    _pending: bytearray = field(factory=bytearray)
    _unpacker: Unpacker | None = None
    _has_begun: bool = False
    _encoding: str = ""
    _type: str = ""

    @classmethod
    def inside(cls, folder: Path, url: str, *, most: int, is_mp4: bool) -> Part:
        """Name one in a folder; nothing is made yet."""
        # Short, since the target's own name may be as long as names can be.
        name = f".kling-{secrets.token_hex(4)}.part"
        return cls(folder / name, url, most, is_mp4)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Have the file open, at its end.

        Raises:
            InterruptionError: There are too many open ones.
        """
        # Made, or it fails: a link that lies there is never followed.
        try:
            file = await (
                anyio.open_file(self.path, "r+b")
                if self._exists
                else anyio.open_file(self.path, "x+b")
            )
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
        """Whether more of the same bytes can be put to these."""
        return self.received > 0 and self._unpacker is None

    async def begin(self, encoding: str, media_type: str) -> None:
        """Begin anew, with a body that is said to be packed and typed so."""
        if self._written:
            await self._opened.seek(0)
            await self._opened.truncate()
        self.received = self._written = 0
        self._head.clear()
        self._pending.clear()
        self._unpacker, self._has_begun = None, False
        self._encoding, self._type = encoding, media_type

    async def add(self, chunk: bytes) -> None:
        """Take in what has come next.

        Raises:
            DownloadError: It cannot be what was asked for, or is too much.
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
        """Write what is left, and see that it opens.

        Raises:
            DownloadError: It cannot be what was asked for.
            InterruptionError: It may be, when it is fetched anew.
        """
        if not self.received:
            raise DownloadError(f"{self.url} answered with an empty file")
        if not self._has_begun:
            await self._look()
        if self._unpacker is not None and not self._unpacker.is_whole:
            raise InterruptionError(f"{self.url} ends in the middle")
        await self._write()
        flaw = await to_thread.run_sync(self._flush, self._opened.wrapped)
        if flaw is not None:
            raise InterruptionError(self._no_mp4(flaw), "take_any_format")

    def _flush(self, file: IO[bytes]) -> str | None:
        """Bring it to the disk, which may fail, and tell why it does not open."""
        file.flush()
        os.fsync(file.fileno())
        return flaw_in(file) if self.is_mp4 else None

    async def move(self, path: Path) -> None:
        """Take the place of what is there: of a link, not of what it leads to."""
        await anyio.Path(self.path).replace(path)
        self._exists = False

    async def discard(self) -> None:
        """Remove the file, if there is one."""
        with anyio.CancelScope(shield=True), contextlib.suppress(OSError):
            if self._exists:
                await anyio.Path(self.path).unlink()

    def require_room_for(self, size: int) -> None:
        """Refuse more bytes than may come."""
        if size > self.most:
            raise DownloadError(
                f"{self.url} holds more than {self.most:,} bytes; nothing was written",
            ).with_hint("take_more_bytes")

    @property
    def _opened(self) -> anyio.AsyncFile[bytes]:
        if self._file is None:
            raise AssertionError
        return self._file

    async def _look(self) -> None:
        """Tell by the first bytes what it is: headers say what a store likes."""
        self._has_begun, head = True, bytes(self._head)
        self._head.clear()
        is_film = begins_like_mp4(head) or head.startswith(_OTHER_FILMS)
        try:
            if not is_film and is_packed(head, self._encoding):
                self._unpacker = Unpacker()
            elif not is_film:
                self._refuse_text(head)
        except UnknownPackingError as error:
            raise DownloadError(
                f"{self.url} answered packed with {error}, unasked"
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
                other = DownloadError(self._no_mp4("it begins as none does"))
                raise other.with_hint("take_any_format")
        if len(self._pending) >= _WRITTEN_AT_ONCE:
            await self._write()

    async def _write(self) -> None:
        if self._pending:
            content, self._pending = bytes(self._pending), bytearray()
            await self._opened.write(content)
            self._written += len(content)

    def _no_mp4(self, flaw: str) -> str:
        return f"{self.url} is no MP4 that opens: {flaw}"
