"""Buckets: a video goes into one as it does into a file, and an image comes out.

obstore (the extra `storage`) talks to the stores: S3, Google Cloud Storage, Azure and
whatever else its `from_url` takes, with the credentials that their own tools find. Its
calls run in threads of their own number, on asyncio and trio alike.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote, urlsplit

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar
from attrs import frozen

from kling_async._addresses import AddressPolicy
from kling_async._checks import needs_extra
from kling_async._errors import DownloadError, KlingError
from kling_async._files.part import Part
from kling_async._requests.media import SourceError
from kling_async._text import safe_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.+)", re.IGNORECASE)

# Neither control characters nor halves of characters, which UTF-8 cannot hold.
_KEY = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")

# In UTF-8, as S3, Google and Azure have it.
_LONGEST_KEY = 1024

_WEB = frozenset({"http", "https", "file"})

# So much of each upload is in memory: parts of 8 MiB, four at once. A store takes
# 10,000 parts, so 80 GB.
_PART_SIZE = 8 * 1024 * 1024

_PARTS_AT_ONCE = 4

_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_")

# Uploads and look-ups at once in one event loop; the others wait.
_CALLS_AT_ONCE = 8

# Longer than any generation takes to begin, and at most what stores sign for.
_SIGNED_FOR = 24 * 60 * 60.0

_RETRIES: dict[str, object] = {
    "max_retries": 10,
    "retry_timeout": dt.timedelta(minutes=15),
}

# Four parts at once over a slow line, or a large object that is put together.
_CLIENT: dict[str, str] = {"timeout": "5 minutes"}

# What else the environment may say of the client, after the name of a store; given one
# option, obstore asks it for no other.
_CLIENT_OPTIONS = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "timeout",
)

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("kling_async_storage")


class StorageError(SourceError):
    """A store failed, or refused.

    Attributes:
        is_missing: Whether there is no such object, or no such bucket.
    """

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        self.is_missing = is_missing
        super().__init__(message)


def is_url(given: object) -> bool:
    """Whether a text is the URL of an object, rather than the path of a file."""
    return isinstance(given, str) and _URL.fullmatch(given) is not None


@frozen
class BucketObject:
    """One object of a store, there or not.

    Attributes:
        url: Where: ``s3://bucket/folder/name``, and what else obstore takes.
        reach: Which addresses whoever fetches a signed link can get to; None where
            that is not known.
    """

    url: str
    reach: AddressPolicy | None = None

    def __str__(self) -> str:
        return safe_line(_without_password(self.url))

    async def folder(self) -> Path:
        """Give this machine's folder for the bytes so far.

        Raises:
            MissingExtraError: obstore is missing.
            DownloadError: No object can be put there.
        """
        try:
            await _call(self._place)
        except StorageError as error:
            raise DownloadError(f"cannot write {self}: {error}") from error
        # In a thread: the first time it tries where it may write.
        return Path(await _call(tempfile.gettempdir))

    async def keep(self, part: Part, *, is_abandoned: Callable[[], bool]) -> None:
        """Upload it, whole or not at all.

        Raises:
            DownloadError: The store refuses it, or fails for good.
        """
        try:
            await self.upload(part.path, "video/mp4", is_abandoned=is_abandoned)
        except StorageError as error:
            raise DownloadError(f"cannot write {self}: {error}") from error

    async def upload(
        self,
        source: Path | bytes,
        media_type: str,
        *,
        is_abandoned: Callable[[], bool] = bool,
    ) -> None:
        """Put a file or bytes there; nobody sees it before it is whole.

        Raises:
            StorageError: The store refuses it, or fails for good.
        """

        def put() -> None:
            store, name = self._place()
            import obstore  # noqa: PLC0415 (an extra)

            content: bytes | Iterator[bytes]
            if isinstance(source, bytes):
                content = source
            elif source.stat().st_size <= _PART_SIZE:
                content = source.read_bytes()
            else:
                content = _pieces(source, is_abandoned)
            before = _seen(store, name) if not isinstance(content, bytes) else None
            try:
                obstore.put(
                    store,
                    name,
                    content,
                    attributes={"Content-Type": media_type},
                    chunk_size=_PART_SIZE,
                    max_concurrency=_PARTS_AT_ONCE,
                )
            except FileNotFoundError:
                # The end of an upload was sent again, after its answer was lost: the
                # upload is no more, and the object is there.
                after = None if isinstance(content, bytes) else _seen(store, name)
                if after in (None, before) or after[0] != _length_of(source):
                    raise

        await _call(put)

    async def size(self) -> int:
        """Tell how large it is.

        Raises:
            StorageError: It is missing, or nobody may see it.
        """

        def head() -> int:
            store, name = self._place()
            import obstore  # noqa: PLC0415 (an extra)

            return obstore.head(store, name)["size"]

        return await _call(head)

    async def exists(self) -> bool:
        """Tell whether it is there.

        Raises:
            StorageError: Nobody may see it, or the store fails.
        """
        try:
            await self.size()
        except StorageError as error:
            if not error.is_missing:
                raise
            return False
        return True

    async def delete(self) -> None:
        """Take it away, if that is allowed."""

        def delete() -> None:
            store, name = self._place()
            import obstore  # noqa: PLC0415 (an extra)

            obstore.delete(store, name)

        with contextlib.suppress(StorageError):
            await _call(delete)

    async def read(self, most: int | None = None) -> bytes:
        """Read it, or its beginning.

        Raises:
            StorageError: It is missing, or nobody may see it.
        """

        def get() -> bytes:
            store, name = self._place()
            import obstore  # noqa: PLC0415 (an extra)

            if most is None:
                return bytes(obstore.get(store, name).bytes())
            return bytes(obstore.get_range(store, name, start=0, length=most))

        return await _call(get)

    async def sign_url(self, seconds: float = _SIGNED_FOR) -> str | None:
        """Sign a link for whoever has no credentials; None where a store cannot.

        Raises:
            StorageError: There is nothing to sign with.
        """

        def sign() -> str | None:
            store, name = self._place()
            import obstore  # noqa: PLC0415 (an extra)
            from obstore.store import (  # noqa: PLC0415
                AzureStore,
                GCSStore,
                S3Store,
            )

            if not isinstance(store, S3Store | GCSStore | AzureStore):
                return None
            return obstore.sign(store, "GET", name, dt.timedelta(seconds=seconds))

        return await _call(sign)

    async def link(self) -> str | None:
        """Sign a link for the API's servers; None where they could not reach it.

        Raises:
            StorageError: There is nothing to sign with.
        """
        link = await self.sign_url()
        if link is None or self.reach is None:
            return link
        at = urlsplit(link)
        port = at.port or (443 if at.scheme == "https" else 80)
        return None if self.reach.forbids_host(at.hostname or "", port) else link

    def _place(self) -> tuple[ObjectStore, str]:
        """Give the store, and the name within it."""
        found = _URL.fullmatch(self.url)
        parent, _, name = found["rest"].rpartition("/") if found else ("", "", "")
        if found is None or not parent or not name:
            raise StorageError("it names no object; allowed: s3://bucket/name.mp4")
        if not _KEY.fullmatch(found["rest"]) or not {"", ".", ".."}.isdisjoint(
            found["rest"].split("/")
        ):
            raise StorageError("its name has parts that no object can have")
        if len(found["rest"].partition("/")[2].encode()) > _LONGEST_KEY:
            raise StorageError(f"its name is longer than {_LONGEST_KEY:,} bytes")
        scheme = found["scheme"].lower()
        if scheme in _WEB:
            name = unquote(name)  # as URLs are written; the keys of buckets are not
        else:
            parent = quote(parent, safe="/:@[]")
        return _open_store(f"{scheme}://{parent}", _credentials()), name


def _credentials() -> frozenset[tuple[str, str]]:
    """Give what obstore reads of the environment."""
    return frozenset(it for it in os.environ.items() if it[0].startswith(_VARIABLES))


@lru_cache(maxsize=64)
def _open_store(url: str, environment: frozenset[tuple[str, str]]) -> ObjectStore:
    """Open a store once: it has connections, and takes a while to make."""
    with needs_extra("storage", "obstore"):
        from obstore.store import from_url  # noqa: PLC0415 (an extra)
    said = {name.partition("_")[2].lower(): value for name, value in environment}
    client = _CLIENT | {it: said[it] for it in _CLIENT_OPTIONS if it in said}
    options = {"retry_config": _RETRIES, "client_options": client}
    return from_url(url, **options)  # type: ignore[call-overload,no-any-return]


def _seen(store: ObjectStore, name: str) -> tuple[int, object, object] | None:
    """Tell one state of an object from another."""
    import obstore  # noqa: PLC0415 (an extra)

    try:
        found = obstore.head(store, name)
    except Exception:  # noqa: BLE001 (what is wrong, the upload tells better)
        return None
    return found["size"], found["e_tag"], found["last_modified"]


def _length_of(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _pieces(path: Path, is_abandoned: Callable[[], bool]) -> Iterator[bytes]:
    """Read a file; an upload that nobody waits for ends, and leaves nothing."""
    with path.open("rb") as file:
        while piece := file.read(_PART_SIZE):
            if is_abandoned():
                raise StorageError("it was cancelled")
            yield piece


async def _call(work: Callable[[], T]) -> T:
    """Do work with a store in a thread, and name what went wrong."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_CALLS_AT_ONCE)
        _limiter.set(limiter)
    try:
        return await to_thread.run_sync(work, limiter=limiter)
    except (KlingError, StorageError, ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 (whatever obstore raises)
        # What obstore adds is for who debugs obstore.
        raise _describe_error(error) from None


def _describe_error(error: Exception) -> StorageError:
    code = _CODE.search(str(error))
    told = str(error).partition("\n\nDebug source")[0]
    told = safe_line(told.partition("<?xml")[0])[:_SHOWN]
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        what = "there is no such bucket or object"
    elif kind in ("PermissionDeniedError", "UnauthenticatedError"):
        what = "the store does not allow it with these credentials"
    elif _METADATA.search(str(error)):
        what = "no credentials were found, neither here nor by a role of the machine"
    elif isinstance(error, OSError):
        what = error.strerror or "it failed"
    elif code and code[1].startswith(_CREDENTIALS):
        what = "the credentials have expired, or are none"
    else:
        what = "the store failed"
    said = f"{code[1]}: {told}" if code else told
    return StorageError(
        f"{what} ({said})", is_missing=isinstance(error, FileNotFoundError)
    )


# What S3 and those that speak like it call what is wrong.
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")

# Where a cloud's machine asks for them, if nothing else has any.
_METADATA = re.compile("latest/(api/token|meta-data)|computeMetadata|metadata/ident")

_CREDENTIALS = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")

_SHOWN = 300


def _without_password(url: str) -> str:
    """Give a URL for people: signatures and passwords stay out of messages."""
    return re.sub(r"//[^/@]*@", "//…@", url.partition("?")[0])
