"""Videos out: from a URL to a file, whole or not at all.

The bytes go to a hidden file beside the target, resumed with Range when the
connection drops, and take the target's name only when all of them are there and
make an MP4. No server decides where they go, how many they are or how long they take.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import anyio
import httpx
from anyio import to_thread
from attrs import define, field, frozen

from kling_async._addresses import Reach
from kling_async._checks import is_whole
from kling_async._errors import DownloadError, KlingError, TransportError
from kling_async._failures import RetryPolicy, may_resume_download, repeat
from kling_async._files.fetch import get
from kling_async._files.mp4 import HEAD, begins_like_mp4, flaw_of
from kling_async._hooks import Reporter, RetryEvent
from kling_async._http.sender import leave
from kling_async._http.session import Session
from kling_async._http.transport import translate

_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416

_GONE = frozenset({401, 403, 404, 410})

# The time is looked at between two chunks; this ends what brings none.
_SLACK = 1.0


def path_from(given: object) -> Path:
    """Take the path of a file.

    Raises:
        DownloadError: No file can have it.
    """
    if isinstance(given, str | os.PathLike):
        path = Path(cast("str | os.PathLike[str]", given))
        if "\0" not in str(path):
            return path
    raise DownloadError(
        f"path: given {given!r}; allowed: where to write the file, a str or a Path",
    )


class _InterruptedError(KlingError):
    """The server failed in a way that may heal; the bytes so far are kept."""


@frozen(kw_only=True)
class Limits:
    """What a download may cost, and what it has to be.

    Attributes:
        silence: The longest silence of the server, in seconds.
        seconds: The longest to take in all.
        size: The most bytes to take.
        is_mp4: Whether it has to be an MP4 that opens.
        reach: Which addresses it may come from.
    """

    silence: float
    seconds: float
    size: int
    is_mp4: bool
    reach: Reach

    def __attrs_post_init__(self) -> None:
        if not is_whole(self.size) or self.size < 1:
            raise DownloadError(
                f"max_bytes: given {self.size!r}; allowed: a whole number of bytes, "
                "1 or more",
            )


@define(eq=False, kw_only=True)
class Download:
    """One video on its way to one file.

    Attributes:
        url: Where the video lies.
        target: The file to write.
        limits: What it may cost.
        retry: How often to go on after a drop.
        reporter: Who is told of retries.
        is_abandoned: Set when the caller left: ends it between two chunks.
    """

    url: str
    target: Path
    limits: Limits
    retry: RetryPolicy
    reporter: Reporter
    is_abandoned: bool = False
    _written: int = 0
    _length: int | None = None
    _etag: str | None = None
    _part: Path = field(init=False)
    _deadline: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        # Short, since the target's own name may be as long as names can be.
        self._part = self.target.parent / f".kling-{secrets.token_hex(4)}.part"
        self._deadline = anyio.current_time() + self.limits.seconds

    async def run(self, session: Session) -> Path:
        """Fetch, check, and give the file its name.

        Raises:
            DownloadError: Whatever went wrong; no file is left behind.
        """
        try:
            await self._refuse_bad_target()
            # Makes the file, or fails: a link that lies there is never followed.
            async with await anyio.open_file(self._part, "xb") as file:
                with anyio.CancelScope(deadline=self._deadline + _SLACK) as scope:
                    await self._fetch_all(session, file)
                    await _keep(file)
            if scope.cancelled_caught:
                raise self._too_slow()
            # Takes the place of a link, too, and not of what it leads to.
            await anyio.Path(self._part).replace(self.target)
        except OSError as error:
            raise DownloadError(
                f"cannot write {self.target}: {error.strerror or error}; "
                "no part of it is left",
            ) from error
        finally:
            with anyio.CancelScope(shield=True), contextlib.suppress(OSError):
                await anyio.Path(self._part).unlink()
        return self.target

    async def _refuse_bad_target(self) -> None:
        target = anyio.Path(self.target)
        if await target.is_dir():
            raise DownloadError(
                f"cannot write {self.target}: it is a directory; give a file name, "
                f"such as {self.target / 'video.mp4'}",
            )
        if not await target.parent.is_dir():
            raise DownloadError(
                f"cannot write {self.target}: there is no directory {target.parent}; "
                "make it first",
            )

    async def _fetch_all(self, session: Session, file: anyio.AsyncFile[bytes]) -> None:
        def before_wait(number: int, delay: float, error: KlingError) -> None:
            self.reporter.retry(RetryEvent(attempt=number, delay=delay, error=error))

        async def attempt() -> None:
            try:
                await self._fetch(session, file)
            except (KlingError, OSError):
                raise
            except Exception as error:
                raise translate(error, f"downloading {self.url}") from error

        try:
            await repeat(attempt, self.retry, _may_heal, before_wait)
        except (TransportError, _InterruptedError) as error:
            raise DownloadError(f"{error}; nothing was written") from error

    async def _fetch(self, session: Session, file: anyio.AsyncFile[bytes]) -> None:
        self._require_right_to_go_on()
        limits, left = self.limits, self._deadline - anyio.current_time()
        response = await get(
            session.files,
            self.url,
            self._range(),
            reach=limits.reach,
            limit=min(limits.silence, left + _SLACK),
        )
        chunks = response.aiter_raw()
        try:
            await self._begin(response, file)
            await self._copy(chunks, file)
        finally:
            await leave(response.aclose, chunks)
        await self._check(file)

    def _require_right_to_go_on(self) -> None:
        if self.is_abandoned:
            raise DownloadError(f"downloading {self.url} was cancelled")
        if anyio.current_time() >= self._deadline:
            raise self._too_slow()

    def _too_slow(self) -> DownloadError:
        return DownloadError(
            f"downloading {self.url} took longer than {self.limits.seconds:g} s, in "
            f"which {self._written:,} bytes came; nothing was written",
        ).with_hint("wait_longer_for_a_download")

    def _range(self) -> dict[str, str]:
        """Ask for what is missing, of the same file only (RFC 9110, section 13.1.5)."""
        headers = {"accept-encoding": "identity"}
        if self._written and self._etag:
            headers |= {"range": f"bytes={self._written}-", "if-range": self._etag}
        return headers

    async def _begin(
        self,
        response: httpx.Response,
        file: anyio.AsyncFile[bytes],
    ) -> None:
        """Check what is about to come, and where it belongs."""
        code = response.status_code
        if may_resume_download(code) or code == _UNSATISFIABLE:
            self._etag = None if code == _UNSATISFIABLE else self._etag
            raise _InterruptedError(f"{self.url} answered {code}")
        if code not in (_OK, _PARTIAL):
            answered = f"{self.url} answered {code}"
            if code not in _GONE:
                raise DownloadError(answered)
            expired = DownloadError(f"{answered}; the link may have expired")
            raise expired.with_hint("get_a_fresh_link")
        begin, total = _range_of(response) if code == _PARTIAL else (0, None)
        etag = response.headers.get("etag")
        if begin != 0 and not self._goes_on(begin, total, etag):
            self._etag = None
            raise _InterruptedError(f"{self.url} answered with another range")
        self._refuse_other_kinds(response)
        if begin == 0:
            self._written = 0
            await file.seek(0)
            await file.truncate()
        self._etag = _strong(etag)
        length = response.headers.get("content-length", "")
        in_full = self._written + int(length) if length.isdecimal() else None
        self._length = total or in_full
        self._require_room_for(self._length or 0)

    def _goes_on(self, begin: int, total: int | None, etag: str | None) -> bool:
        """Whether a part is the rest of what is here, and of the same file."""
        is_same = etag is None or etag == self._etag
        fits = total is None or self._length in (None, total)
        return begin == self._written and is_same and fits

    def _refuse_other_kinds(self, response: httpx.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadError(f"{self.url} answered compressed, unasked")
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind.startswith("text/") or kind in ("application/json", "application/xml"):
            raise DownloadError(f"{self.url} answered with {kind}, not with a video")

    def _require_room_for(self, size: int) -> None:
        if size > self.limits.size:
            raise DownloadError(
                f"{self.url} holds more than {self.limits.size:,} bytes; nothing was "
                "written. download(..., max_bytes=...) takes more",
            )

    async def _copy(
        self,
        chunks: AsyncIterator[bytes],
        file: anyio.AsyncFile[bytes],
    ) -> None:
        async for chunk in chunks:
            self._require_right_to_go_on()
            self._require_room_for(self._written + len(chunk))
            if self._written == 0 and len(chunk) >= HEAD:
                self._require_mp4(begins_like_mp4(chunk), "it begins as none does")
            await file.write(chunk)
            self._written += len(chunk)
        if self._length is not None and self._written != self._length:
            raise _InterruptedError(
                f"{self.url} sent {self._written} of {self._length} bytes",
            )
        if not self._written:
            raise DownloadError(f"{self.url} answered with an empty file")

    async def _check(self, file: anyio.AsyncFile[bytes]) -> None:
        """See that it opens; whatever does not is fetched anew, if it may be."""
        if self.limits.is_mp4:
            await file.flush()
            flaw = await to_thread.run_sync(flaw_of, self._part)
            try:
                self._require_mp4(flaw is None, flaw or "")
            except DownloadError as error:
                self._etag = None
                raise _InterruptedError(str(error)) from error

    def _require_mp4(self, is_one: bool, flaw: str) -> None:  # noqa: FBT001 (private)
        if self.limits.is_mp4 and not is_one:
            raise DownloadError(
                f"{self.url} is no MP4 that opens: {flaw}. "
                "download(..., check_mp4=False) takes it as it is",
            )


async def _keep(file: anyio.AsyncFile[bytes]) -> None:
    """Bring it to the disk: one that is full or failing may tell only now."""
    await file.flush()
    await to_thread.run_sync(os.fsync, file.wrapped.fileno())


def _may_heal(error: BaseException) -> bool:
    return isinstance(error, TransportError | _InterruptedError)


def _range_of(response: httpx.Response) -> tuple[int, int | None]:
    """Read where a part begins, and how long the whole is (RFC 9110, section 14.4)."""
    told = response.headers.get("content-range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", told)
    if found is None:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _strong(etag: str | None) -> str | None:
    """Only a strong tag says that the bytes are the same (RFC 9110, section 8.8.3)."""
    return etag if etag and re.fullmatch(r'"[\x21\x23-\x7e]*"', etag) else None
