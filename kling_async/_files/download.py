"""Downloads of videos: from a URL to a file or a bucket, whole or not at all.

The bytes go to a hidden file, resumed with Range when the connection drops, and are
moved to the target only when they are complete and are an MP4. No server decides
where they go, how many they are or how long they take.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import anyio
import httpx
from anyio import to_thread
from attrs import define, field, frozen

from kling_async._checks import AddressPolicy, is_whole
from kling_async._config import Settings
from kling_async._errors import DownloadError, KlingError, TransportError
from kling_async._failures import (
    longest_backoff,
    may_resume_download,
    retry_after_from,
    wait_after,
)
from kling_async._files.fetch import get
from kling_async._files.part import InterruptionError, Part, is_out_of_files
from kling_async._files.storage import BucketObject, is_url
from kling_async._generation import Generation, Video
from kling_async._hooks import RetryEvent
from kling_async._http.sender import chunks_of, close_stream
from kling_async._http.session import Session
from kling_async._http.transport import translate
from kling_async._runtime.limiter import Kind
from kling_async._text import short_repr

_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416

# Not there yet, just after the generation completed; or the link has expired.
_GONE = frozenset({401, 403, 404, 410})

# Seconds. The deadline is checked between two chunks; this ends a download without any.
_SLACK = 1.0

# How long to wait for another download to close its file, in seconds.
_FILES_COME_BACK = 0.5


@frozen(eq=False, repr=False)
class LocalFile:
    """A file of this machine.

    Attributes:
        path: Its path.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    async def folder(self) -> Path:
        """Return its own folder, so that the hidden file can be renamed."""
        return await to_thread.run_sync(self._folder)

    def _folder(self) -> Path:
        folder = self.path.parent
        if self.path.is_dir():
            raise DownloadError(
                f"cannot write {self.path}: it is a directory; give a file name, "
                f"such as {self.path / 'video.mp4'}",
            )
        if not folder.is_dir():
            raise DownloadError(
                f"cannot write {self.path}: there is no directory {folder}; "
                "make it first",
            )
        return folder

    async def keep(self, part: Part, *, is_abandoned: Callable[[], bool]) -> None:  # noqa: ARG002 (it is done at once)
        """Replace an existing file."""
        await part.move(self.path)


def video_of(given: object) -> Video:
    """Return the video of a generation, or the one that was given.

    Raises:
        DownloadError: There is none.
    """
    if isinstance(given, Video):
        return given
    if not isinstance(given, Generation):
        raise DownloadError(
            f"cannot download {short_repr(given)}: give a Generation or a Video, such "
            "as `await kling.get(generation_id)`",
        )
    if given.video is not None:
        return given.video
    if given.failed:
        reason = given.error or "the server gave no reason"
        raise DownloadError(f"there is no video: the generation failed: {reason}")
    raise DownloadError("there is no video to download yet: wait for it first")


def target_from(given: object) -> LocalFile | BucketObject:
    """Return where a path or the URL of an object leads.

    Raises:
        DownloadError: No file can have this path.
    """
    if is_url(given):
        return BucketObject(str(given))
    if isinstance(given, str | os.PathLike):
        path = Path(cast("str | os.PathLike[str]", given))
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise DownloadError(
                f"path: given {str(path)!r}, which contains half a character, so it "
                "cannot be a file name; allowed: where to write the file",
            ) from None
        if "\0" not in str(path):
            return LocalFile(path)
    raise DownloadError(
        f"path: given {given!r}; allowed: where to write the file, a str or a Path",
    )


@define(eq=False, kw_only=True, repr=False)
class Download:
    """One download.

    Attributes:
        url: The link.
        target: Where the video goes.
        settings: The client's settings.
        max_bytes: The most bytes.
        timeout: The longest time in all, in seconds.
        check_mp4: Whether it has to be an MP4 that opens.
        fresh_url: Gets a link that has not expired; None if that is not possible.
        is_abandoned: Set when the caller was cancelled: ends it between two chunks.
    """

    url: str
    target: LocalFile | BucketObject
    settings: Settings
    max_bytes: int
    timeout: float
    check_mp4: bool
    fresh_url: Callable[[], Awaitable[str | None]] | None
    is_abandoned: bool = False
    _length: int | None = None
    _etag: str | None = None
    _deadline: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        if not is_whole(self.max_bytes):
            raise DownloadError(
                f"max_bytes: given {self.max_bytes!r}; allowed: a whole number of "
                "bytes, 1 or more",
            )
        self._deadline = anyio.current_time() + self.timeout

    async def run(self, session: Session) -> None:
        """Download and check the video, and move it to the target.

        Raises:
            DownloadError: Whatever went wrong; nothing is left behind.
        """
        try:
            folder = await self.target.folder()
            part = Part.inside(
                folder, self.url, most=self.max_bytes, is_mp4=self.check_mp4
            )
            try:
                with anyio.CancelScope(deadline=self._deadline + _SLACK) as scope:
                    await self._fetch_all(session, part)
                    await self.target.keep(part, is_abandoned=lambda: self.is_abandoned)
                if scope.cancelled_caught:
                    raise self._too_slow(part)
            finally:
                await part.discard()
        except OSError as error:
            raise DownloadError(
                f"cannot write {self.target}: {error.strerror or error}; "
                "no part of it is left",
            ) from error

    async def _fetch_all(self, session: Session, part: Part) -> None:
        """Make attempts until it is complete; count those that bring nothing new."""
        fruitless = furthest = 0
        for number in itertools.count(1):
            try:
                await self._attempt(session, part)
            except (TransportError, InterruptionError) as error:
                if is_out_of_files(error):
                    await anyio.sleep(random.uniform(0, _FILES_COME_BACK))  # noqa: S311 (no secret)
                    continue
                fruitless = 0 if part.received > furthest else fruitless + 1
                furthest = max(furthest, part.received)
                if fruitless >= self.settings.retry.attempts:
                    raise _final_error(error) from _error_of(error)
                await self._wait(error, number, max(fruitless, 1))
            else:
                return

    async def _wait(
        self, failure: TransportError | InterruptionError, number: int, in_a_row: int
    ) -> None:
        if isinstance(failure, _GoneError) and await self._take_fresh_url():
            return
        delay = wait_after(failure, in_a_row, self.settings.retry)
        if isinstance(failure, _GoneError):
            # The whole back-off, not a random part: the store may need the time.
            delay = max(delay, longest_backoff(self.settings.retry, in_a_row + 1))
        if anyio.current_time() + delay > self._deadline:
            raise _final_error(failure) from _error_of(failure)
        self.settings.reporter.emit(
            RetryEvent(attempt=number, delay=delay, error=_error_of(failure))
        )
        await anyio.sleep(delay)

    async def _take_fresh_url(self) -> bool:
        """Ask once for another link to the same video."""
        ask, self.fresh_url = self.fresh_url, None
        try:
            url = await ask() if ask else None
        except KlingError:
            return False  # the store's own answer is raised
        if url is None or url == self.url:
            return False
        self.url, self._etag = url, None
        return True

    async def _attempt(self, session: Session, part: Part) -> None:
        try:
            slot = await session.limiter.acquire(Kind.DOWNLOAD, self._deadline)
        except TimeoutError as error:
            raise self._too_slow(part) from error
        with slot:
            self._require_right_to_go_on(part)
            async with part.open():
                await self._fetch(session, part)

    async def _fetch(self, session: Session, part: Part) -> None:
        settings, left = self.settings, self._deadline - anyio.current_time()
        reach = AddressPolicy(settings.base_url, settings.allow_private_downloads)
        try:
            response = await get(
                session.files,
                self.url,
                self._range(part),
                reach=reach,
                limit=min(settings.timeout, left + _SLACK),
            )
            chunks = chunks_of(response)
            try:
                await self._begin(response, part)
                await self._copy(chunks, part)
            finally:
                await close_stream(response.aclose, chunks)
        except (InterruptionError, KlingError, OSError):
            raise
        except Exception as error:
            raise translate(error, f"downloading {self.url}") from error

    def _require_right_to_go_on(self, part: Part) -> None:
        if self.is_abandoned:
            raise DownloadError(f"downloading {self.url} was cancelled")
        if anyio.current_time() >= self._deadline:
            raise self._too_slow(part)

    def _too_slow(self, part: Part) -> DownloadError:
        return DownloadError(
            f"downloading {self.url} took longer than {self.timeout:g} s, in "
            f"which {part.received:,} bytes came; nothing was written",
        ).with_hint("wait_longer_for_a_download")

    def _range(self, part: Part) -> dict[str, str]:
        """Ask for the rest of the same file only (RFC 9110, section 13.1.5)."""
        headers = {"accept-encoding": "identity"}
        if part.can_go_on and self._etag:
            headers |= {"range": f"bytes={part.received}-", "if-range": self._etag}
        return headers

    async def _begin(self, response: httpx.Response, part: Part) -> None:
        """Check the headers: whether this is the rest or a new beginning."""
        self._refuse_failure(response)
        is_part = response.status_code == _PARTIAL
        begin, total = _range_of(response) if is_part else (0, None)
        etag = response.headers.get("etag")
        if begin != 0 and not self._goes_on(part, begin, total, etag):
            self._etag = None
            raise InterruptionError(f"{self.url} answered with another range")
        if begin == 0:
            await part.begin(
                response.headers.get("content-encoding", ""),
                response.headers.get("content-type", ""),
            )
        self._etag = _strong(etag)
        length = response.headers.get("content-length", "")
        in_full = part.received + int(length) if length.isdecimal() else None
        self._length = total or in_full
        part.require_room_for(self._length or 0)

    def _refuse_failure(self, response: httpx.Response) -> None:
        code = response.status_code
        if code in (_OK, _PARTIAL):
            return
        answer = f"{self.url} answered {code}"
        if code in _GONE:
            raise _GoneError(f"{answer}; the link may have expired", "get_a_fresh_link")
        if code == _UNSATISFIABLE:
            self._etag = None
        elif not may_resume_download(code):
            raise DownloadError(answer)
        raise InterruptionError(answer, retry_after=retry_after_from(response.headers))

    def _goes_on(
        self, part: Part, begin: int, total: int | None, etag: str | None
    ) -> bool:
        """Whether an answer continues the bytes received, and is of the same file."""
        is_same = etag is None or etag == self._etag
        fits = total is None or self._length in (None, total)
        return begin == part.received and part.can_go_on and is_same and fits

    async def _copy(self, chunks: AsyncIterator[bytes], part: Part) -> None:
        async for chunk in chunks:
            self._require_right_to_go_on(part)
            await part.add(chunk)
        if self._length is not None and part.received != self._length:
            raise InterruptionError(
                f"{self.url} sent {part.received} of {self._length} bytes",
            )
        try:
            await part.end()
        except InterruptionError:
            part.received = 0  # not an MP4 that opens: start again, if allowed
            raise


def _error_of(failure: TransportError | InterruptionError) -> KlingError:
    return failure.error if isinstance(failure, InterruptionError) else failure


def _final_error(failure: TransportError | InterruptionError) -> DownloadError:
    error = _error_of(failure)
    given_up = DownloadError(f"{error.reason}; nothing was written")
    given_up.hint = error.hint
    return given_up


class _GoneError(InterruptionError):
    """There is no video at the link: not yet, or no longer."""


def _range_of(response: httpx.Response) -> tuple[int, int | None]:
    """Read where a part begins, and how long the whole is (RFC 9110, section 14.4)."""
    value = response.headers.get("content-range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", value)
    if found is None:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _strong(etag: str | None) -> str | None:
    """Only a strong tag says that the bytes are the same (RFC 9110, section 8.8.3)."""
    return etag if etag and re.fullmatch(r'"[\x21\x23-\x7e]*"', etag) else None
