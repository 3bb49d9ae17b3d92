"""Buckets: videos are saved to them, and images are read from them.

obstore (the extra `storage`) talks to the stores: S3, Google Cloud Storage, Azure and
all others of its `from_url`, with the credentials that their own tools find. Its
calls run in a limited number of threads, on asyncio and trio alike.
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
from urllib.parse import quote, unquote

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar
from attrs import frozen

from kling_async._checks import AddressPolicy, host_and_port, needs_extra
from kling_async._errors import DownloadError, KlingError
from kling_async._files.part import Part
from kling_async._text import safe_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.+)", re.IGNORECASE)

# No control characters, and no lone surrogates, which UTF-8 cannot encode.
_KEY = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")

# Bytes in UTF-8: the limit of S3, Google and Azure.
_LONGEST_KEY = 1024

_WEB = frozenset({"http", "https", "file"})

# Each upload has four parts of 8 MiB in memory. A store takes 10,000 parts, so 80 GB.
_PART_SIZE = 8 * 1024 * 1024

_PARTS_AT_ONCE = 4

_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_")

# Calls at once in one event loop; the others wait.
_CALLS_AT_ONCE = 8

# Seconds: longer than any generation takes to begin, and at most what stores allow.
_SIGNED_FOR = 24 * 60 * 60.0

_RETRIES: dict[str, object] = {
    "max_retries": 10,
    "retry_timeout": dt.timedelta(minutes=15),
}

# For four parts at once over a slow line, or a store that assembles a large object.
_CLIENT: dict[str, str] = {"timeout": "5 minutes"}

# Other options of the client, which obstore no longer reads from the environment once
# one is given. There they follow the name of a store.
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


class StorageError(Exception):
    """A store failed or refused.

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
    """One object of a store, which may not exist.

    Attributes:
        url: Its URL: ``s3://bucket/folder/name``, or any other that obstore takes.
        reach: Which addresses the API's servers can reach; None if unknown.
    """

    url: str
    reach: AddressPolicy | None = None

    def __str__(self) -> str:
        return safe_line(_without_password(self.url))

    async def folder(self) -> Path:
        """Return a local folder for the hidden file.

        Raises:
            MissingExtraError: obstore is missing.
            DownloadError: No object can be saved there.
        """
        try:
            await _call(self._place)
        except StorageError as error:
            raise DownloadError(f"cannot write {self}: {error}") from error
        # In a thread: the first call tries which folders are writable.
        return Path(await _call(tempfile.gettempdir))

    async def keep(self, part: Part, *, is_abandoned: Callable[[], bool]) -> None:
        """Upload the video, whole or not at all.

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
        """Upload a file or bytes; the object appears only when it is complete.

        Raises:
            StorageError: The store refuses it, or fails for good.
        """

        def put(store: ObjectStore, name: str) -> None:
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            content: bytes | Iterator[bytes]
            if isinstance(source, bytes):
                content = source
            elif size <= _PART_SIZE:
                content = source.read_bytes()
            else:
                content = _pieces(source, is_abandoned)
            before = None if isinstance(content, bytes) else _version_of(store, name)
            try:
                store.put(
                    name,
                    content,
                    attributes={"Content-Type": media_type},
                    chunk_size=_PART_SIZE,
                    max_concurrency=_PARTS_AT_ONCE,
                )
            except FileNotFoundError:
                # The last request was repeated after its answer was lost: the upload
                # has ended, and the object is there.
                after = None if isinstance(content, bytes) else _version_of(store, name)
                if after in (None, before) or after[0] != size:
                    raise

        await self._call(put)

    async def size(self) -> int:
        """Return its size in bytes.

        Raises:
            StorageError: It is missing, or may not be read.
        """
        return await self._call(lambda store, name: store.head(name)["size"])

    async def exists(self) -> bool:
        """Return whether it exists.

        Raises:
            StorageError: It may not be read, or the store fails.
        """
        try:
            await self.size()
        except StorageError as error:
            if not error.is_missing:
                raise
            return False
        return True

    async def delete(self) -> None:
        """Delete it, if that is allowed."""
        with contextlib.suppress(StorageError):
            await self._call(lambda store, name: store.delete(name))

    async def read(self, most: int | None = None) -> bytes:
        """Read it, or its beginning.

        Raises:
            StorageError: It is missing, or may not be read.
        """

        def get(store: ObjectStore, name: str) -> bytes:
            if most is None:
                return bytes(store.get(name).bytes())
            return bytes(store.get_range(name, start=0, length=most))

        return await self._call(get)

    async def sign_url(self, seconds: float = _SIGNED_FOR) -> str | None:
        """Sign a link that works without credentials; None if the store cannot.

        Raises:
            StorageError: There are no credentials.
        """

        def sign(store: ObjectStore, name: str) -> str | None:
            import obstore
            from obstore.store import AzureStore, GCSStore, S3Store

            if not isinstance(store, S3Store | GCSStore | AzureStore):
                return None
            return obstore.sign(store, "GET", name, dt.timedelta(seconds=seconds))

        return await self._call(sign)

    async def link(self) -> str | None:
        """Sign a link for the API's servers; None if they cannot reach it.

        Raises:
            StorageError: There are no credentials.
        """
        link = await self.sign_url()
        if link is None or self.reach is None:
            return link
        return None if self.reach.forbids_host(*host_and_port(link)) else link

    async def _call(self, work: Callable[[ObjectStore, str], T]) -> T:
        return await _call(lambda: work(*self._place()))

    def _place(self) -> tuple[ObjectStore, str]:
        """Return the store, and the object's name in it."""
        found = _URL.fullmatch(self.url)
        parent, _, name = found["rest"].rpartition("/") if found else ("", "", "")
        if found is None or not parent or not name:
            raise StorageError(
                "the URL has no object name; allowed: s3://bucket/name.mp4"
            )
        if not _KEY.fullmatch(found["rest"]) or not {"", ".", ".."}.isdisjoint(
            found["rest"].split("/")
        ):
            raise StorageError("its name has parts that no object can have")
        if len(found["rest"].partition("/")[2].encode()) > _LONGEST_KEY:
            raise StorageError(f"its name is longer than {_LONGEST_KEY:,} bytes")
        scheme = found["scheme"].lower()
        if scheme in _WEB:
            name = unquote(name)  # web URLs are percent-encoded; object names are not
        else:
            parent = quote(parent, safe="/:@[]")
        return _open_store(f"{scheme}://{parent}", _credentials()), name


def _credentials() -> frozenset[tuple[str, str]]:
    """Return the environment variables that obstore reads."""
    return frozenset(it for it in os.environ.items() if it[0].startswith(_VARIABLES))


@lru_cache(maxsize=64)
def _open_store(url: str, environment: frozenset[tuple[str, str]]) -> ObjectStore:
    """Open each store once: it keeps connections, and is slow to make."""
    with needs_extra("storage", "obstore"):
        from obstore.store import from_url
    said = {name.partition("_")[2].lower(): value for name, value in environment}
    client = _CLIENT | {it: said[it] for it in _CLIENT_OPTIONS if it in said}
    options = {"retry_config": _RETRIES, "client_options": client}
    return from_url(url, **options)  # type: ignore[call-overload,no-any-return]


def _version_of(store: ObjectStore, name: str) -> tuple[int, object, object] | None:
    """Return the version of an object: size, tag and time."""
    try:
        found = store.head(name)
    except Exception:  # noqa: BLE001 (the upload reports the error better)
        return None
    return found["size"], found["e_tag"], found["last_modified"]


def _pieces(path: Path, is_abandoned: Callable[[], bool]) -> Iterator[bytes]:
    """Read a file; an abandoned upload ends, and leaves nothing."""
    with path.open("rb") as file:
        while piece := file.read(_PART_SIZE):
            if is_abandoned():
                raise StorageError("it was cancelled")
            yield piece


async def _call(work: Callable[[], T]) -> T:
    """Call a store in a thread, and describe its errors."""
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
        # Without obstore's own details, which only help to debug obstore.
        raise _describe_error(error) from None


def _describe_error(error: Exception) -> StorageError:
    code = _CODE.search(str(error))
    words = str(error).partition("\n\nDebug source")[0]
    words = safe_line(words.partition("<?xml")[0])[:_SHOWN]
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
        what = "the credentials have expired, or are invalid"
    else:
        what = "the store failed"
    said = f"{code[1]}: {words}" if code else words
    return StorageError(
        f"{what} ({said})", is_missing=isinstance(error, FileNotFoundError)
    )


# The error codes of S3 and compatible stores.
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")

# Where a cloud machine asks for credentials, if nothing else has any.
_METADATA = re.compile("latest/(api/token|meta-data)|computeMetadata|metadata/ident")

_CREDENTIALS = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")

_SHOWN = 300


def _without_password(url: str) -> str:
    """Remove the signature and the password from a URL, for messages."""
    return re.sub(r"//[^/@]*@", "//…@", url.partition("?")[0])
