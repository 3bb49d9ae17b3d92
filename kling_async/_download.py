"""Videos out: from a URL to a file, whole or not at all.

The bytes go to a hidden file beside the target, resumed with Range when the
connection drops, and take the target's name only when all of them are there.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import cast

import anyio
import httpx
from attrs import define, field

from kling_async._connections import Session, phase_limits
from kling_async._errors import (
    DownloadError,
    KlingError,
    TransportError,
)
from kling_async._hooks import Reporter, RetryEvent
from kling_async._retrying import RetryPolicy, repeat
from kling_async._transport import translate

_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_MAY_HEAL = frozenset({408, 425, 429, 500, 502, 503, 504})
_GONE = frozenset({401, 403, 404, 410})


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


@define(eq=False, kw_only=True)
class Download:
    """One video on its way to one file.

    Attributes:
        url: Where the video lies.
        target: The file to write.
        timeout: The longest silence of the server, in seconds.
        retry: How often to go on after a drop.
        reporter: Who is told of retries.
        is_abandoned: Set when the caller left: ends it between two chunks.
    """

    url: str
    target: Path
    timeout: float
    retry: RetryPolicy
    reporter: Reporter
    is_abandoned: bool = False
    _written: int = 0
    _length: int | None = None
    _etag: str | None = None
    _part: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        # Short, since the target's own name may be as long as names can be.
        self._part = self.target.parent / f".kling-{secrets.token_hex(4)}.part"

    async def run(self, session: Session) -> Path:
        """Fetch, check, and give the file its name.

        Raises:
            DownloadError: Whatever went wrong; no file is left behind.
        """
        try:
            await self._refuse_bad_target()
            async with await anyio.open_file(self._part, "xb") as file:
                await self._fetch_all(session, file)
            await anyio.Path(self._part).replace(self.target)
        except OSError as error:
            raise DownloadError(
                f"cannot write {self.target}: {error.strerror or error}",
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
        self._require_caller()
        request = self._request(session)
        response = await session.files.send(
            request,
            stream=True,
            auth=None,
            follow_redirects=True,
        )
        try:
            await self._begin(response, file)
            await self._copy(response, file)
        finally:
            await response.aclose()

    def _require_caller(self) -> None:
        if self.is_abandoned:
            raise DownloadError(f"downloading {self.url} was cancelled")

    def _request(self, session: Session) -> httpx.Request:
        if not self.url.startswith(("http://", "https://")):
            raise DownloadError(f"{self.url!r} is not an http or https URL")
        try:
            return session.files.build_request(
                "GET",
                self.url,
                headers=self._range(),
                timeout=phase_limits(self.timeout),
            )
        except (httpx.InvalidURL, TypeError, ValueError) as error:
            raise DownloadError(f"{self.url!r} is no URL: {error}") from error

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
        if code in _MAY_HEAL or code == _UNSATISFIABLE:
            self._etag = None if code == _UNSATISFIABLE else self._etag
            raise _InterruptedError(f"{self.url} answered {code}")
        if code not in (_OK, _PARTIAL):
            hint = (
                "; the link may have expired: `await kling.get(generation_id)` "
                "gives a fresh one"
            )
            raise DownloadError(
                f"{self.url} answered {code}{hint if code in _GONE else ''}",
            )
        begin, total = _range_of(response) if code == _PARTIAL else (0, None)
        if begin not in (0, self._written):
            self._etag = None
            raise _InterruptedError(f"{self.url} answered with another range")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadError(f"{self.url} answered compressed, unasked")
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind.startswith("text/") or kind in ("application/json", "application/xml"):
            raise DownloadError(f"{self.url} answered with {kind}, not with a video")
        if begin == 0:
            self._written = 0
            await file.seek(0)
            await file.truncate()
        self._etag = _strong(response.headers.get("etag"))
        length = response.headers.get("content-length", "")
        in_full = self._written + int(length) if length.isdecimal() else None
        self._length = total or in_full

    async def _copy(
        self,
        response: httpx.Response,
        file: anyio.AsyncFile[bytes],
    ) -> None:
        async for chunk in response.aiter_raw():
            self._require_caller()
            await file.write(chunk)
            self._written += len(chunk)
        if self._length is not None and self._written != self._length:
            raise _InterruptedError(
                f"{self.url} sent {self._written} of {self._length} bytes",
            )
        if not self._written:
            raise DownloadError(f"{self.url} answered with an empty file")


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
    """Only a strong tag says that the bytes are the same."""
    return etag if etag and not etag.startswith("W/") else None
