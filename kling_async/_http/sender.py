"""How a request is sent, whichever library has the connections.

Everything that a client's requests share is prepared once. Returns the answer as it
comes; does not read it, and repeats nothing.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Literal, Protocol, TypeAlias, cast

import httpx
from attrs import define, field, frozen

from kling_async._config import Secret
from kling_async._errors import ConfigurationError
from kling_async._http.library import HTTPLibrary, errors_named, library_named
from kling_async._http.packing import PACKED, Unpacker
from kling_async._http.pool import SLOT
from kling_async._runtime.limiter import Slot

# Bytes. The largest answer, 100 rows of the request log, takes a fortieth of it.
MAX_ANSWER = 4 * 1024 * 1024

# Only what we unpack within bounds; httpx would name all that it can unpack.
ACCEPTED = "gzip"

_LONGEST_ENCODING = 16


class UnreadableBodyError(Exception):
    """A body that is too large, or not packed as it says."""


@define(eq=False, repr=False)
class Body:
    """A body as far as it has come.

    Attributes:
        content: What came, unpacked; at most `MAX_ANSWER` bytes.
    """

    content: bytearray = field(factory=bytearray, repr=False)
    _unpacker: Unpacker | None = None

    def begin(self, headers: Mapping[str, str]) -> None:
        """Read from the headers how it is packed, and how long it is.

        Raises:
            UnreadableBodyError: It is packed unasked, or too long.
        """
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding in PACKED:
            self._unpacker = Unpacker()
        elif encoding not in ("", "identity"):
            # A long one is unknown, and may be an echo of something secret.
            told = repr(encoding) if len(encoding) <= _LONGEST_ENCODING else "who knows"
            raise UnreadableBodyError(f"it is packed with {told}, unasked")
        length = headers.get("content-length", "")
        if length.isdecimal() and len(length) > len(str(MAX_ANSWER)):
            raise _too_large()
        if length.isdecimal() and int(length) > MAX_ANSWER:
            raise _too_large()

    def add(self, chunk: bytes) -> None:
        """Take in what has come next.

        Raises:
            UnreadableBodyError: It is too large, or not packed as it says.
        """
        if self._unpacker is None:
            self._keep(chunk)
            return
        try:
            for piece in self._unpacker.unpack(chunk):
                self._keep(piece)
        except zlib.error as error:
            raise UnreadableBodyError(f"it does not unpack: {error}") from error

    def _keep(self, content: bytes) -> None:
        room = MAX_ANSWER - len(self.content)
        self.content += content[:room]
        if len(content) > room:
            raise _too_large()


def _too_large() -> UnreadableBodyError:
    return UnreadableBodyError(f"it is larger than {MAX_ANSWER:,} bytes")


# What every call asks for.
JSON = {"accept": "application/json", "accept-encoding": ACCEPTED}

_CONNECT_LIMIT = 15.0


@define(eq=False, kw_only=True, repr=False)
class Call:
    """One request to the API.

    Attributes:
        method: Its verb.
        base_url: Scheme and host, and a path before the API's own.
        target: Its path and query after that, as they go over the wire.
        headers: Those that not all calls have.
        content: Its body, if it has one.
        key: The API key; no traceback shows it.
        limit: Its time limit, in seconds.
    """

    method: Literal["GET", "POST"]
    base_url: str
    target: str
    headers: Mapping[str, str] = field(factory=dict[str, str])
    content: bytes | None = field(default=None, repr=False)
    key: Secret
    limit: float

    @property
    def url(self) -> str:
        """Where it goes."""
        return self.base_url + self.target


@define(eq=False, repr=False)
class StreamedResponse:
    """An answer whose headers are there, and whose body comes.

    Attributes:
        status_code: The HTTP status.
        headers: By lower-case name.
        chunks: The body as it comes, packed as the headers say.
        aclose: Gives the connection back, or closes it when there is more to come.
    """

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    chunks: AsyncIterator[bytes] = field(repr=False)
    aclose: Callable[[], Awaitable[None]] = field(repr=False)


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Read headers by lower-case name, those of one name together, as httpx does."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key = name.decode("latin-1").lower()
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _response(response: httpx.Response) -> StreamedResponse:
    chunks = chunks_of(response)
    return StreamedResponse(
        response.status_code,
        read_headers(response.headers.raw),
        chunks,
        response.aclose,
    )


def chunks_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield a body as it comes, or as it was if somebody has already read it.

    A hook of a user's client may do so, and a mock transport does.
    """
    if not response.is_stream_consumed:
        return response.aiter_raw()
    if response.headers.pop("content-encoding", None):
        response.headers.pop("content-length", None)  # of what it was before
    return response.aiter_bytes()


async def close_stream(
    aclose: Callable[[], Awaitable[None]], chunks: AsyncIterator[bytes]
) -> None:
    """Close an answer before its end, and end the generators that bring it.

    httpx nests several and closes only the outermost; trio warns of the others.
    """
    try:
        await aclose()
    finally:
        with contextlib.suppress(Exception):
            for _ in range(2):  # what was read already, then that it is closed
                await anext(chunks)


class Sender(Protocol):
    """Sends the requests of API calls."""

    async def send(self, call: Call, slot: Slot) -> StreamedResponse:
        """Send one; give the answer as soon as its headers are there.

        Args:
            call: The request.
            slot: The right to send it now, and its connection.

        Raises:
            ConfigurationError: The library takes the base URL for none.
        """
        ...

    async def aclose(self) -> None:
        """Close its connections."""
        ...


@frozen(eq=False, repr=False)
class TransportSender:
    """Our own sender: directly to httpx's transport.

    httpx's client would merge URLs, headers, cookies, hooks and redirects at each
    request: half of the cost of a poll, and nothing that an API call needs.
    """

    transport: httpx.AsyncBaseTransport
    library: HTTPLibrary
    user_agent: str

    async def send(self, call: Call, slot: Slot) -> StreamedResponse:
        """Send a request as it is."""
        content = call.content or b""
        headers = {**JSON, "user-agent": self.user_agent, **call.headers}
        if content:
            headers["content-length"] = str(len(content))
        try:
            url = _parse_url(self.library.__name__, call.url)
            request = self.library.Request(
                call.method,
                url,
                headers={"host": url.netloc.decode(), **headers},
                # With a stream httpx has no headers to work out again.
                stream=self.library.ByteStream(content),
                # The exchange's own time limit ends a silence: no timer for each read.
                extensions={
                    "timeout": {"connect": phase_limits(call.limit)[0]},
                    SLOT: slot,
                },
            )
        except errors_named("InvalidURL", ValueError) as error:
            raise no_url(call, error) from error
        request.read()  # so that test tools can see the body
        # Only now, so that no traceback frame has a mapping of headers with the key.
        request.headers["authorization"] = f"Bearer {call.key.reveal()}"
        response = await self.transport.handle_async_request(request)
        response.request = request
        return _response(response)

    async def aclose(self) -> None:
        """Close the transport."""
        await self.transport.aclose()


@lru_cache(maxsize=1024)  # parsing one takes half as long as all else of a request
def _parse_url(library: str, url: str) -> httpx.URL:
    parsed = library_named(library).URL(url)
    _ = parsed.host  # which httpx reads, and may refuse, only when asked
    return parsed


@frozen(eq=False, repr=False)
class ClientSender:
    """Sends over the user's own client, with all its settings."""

    client: httpx.AsyncClient

    async def send(self, call: Call, slot: Slot) -> StreamedResponse:  # noqa: ARG002 (a pool of its own)
        """Send a request by the client's own rules, but for redirects."""
        try:
            request = self.client.build_request(
                call.method,
                call.url,
                headers={**JSON, **call.headers},
                content=call.content,
                timeout=phase_limits(call.limit),
            )
        except errors_named("InvalidURL", ValueError) as error:
            raise no_url(call, error) from error
        request.headers["authorization"] = f"Bearer {call.key.reveal()}"
        try:
            response = await self.client.send(
                request, stream=True, auth=None, follow_redirects=False
            )
        except errors_named("HTTPStatusError") as error:  # from a hook
            response = cast("httpx.HTTPStatusError", error).response
        return _response(response)

    async def aclose(self) -> None:
        """Leave it open: it is the user's."""


def no_url(call: Call, error: Exception) -> ConfigurationError:
    """Say that the base URL is none."""
    return ConfigurationError(
        f"base_url: given {call.base_url!r}, which is not a URL: {error}",
    )


Phases: TypeAlias = tuple[float | None, float | None, float | None, float | None]
"""The longest that connecting, reading, writing, waiting for a connection may take."""


@lru_cache(maxsize=64)
def phase_limits(limit: float) -> Phases:
    """Bound each phase of an exchange that may take ``limit`` seconds in all."""
    seconds = None if limit == float("inf") else limit
    return min(limit, _CONNECT_LIMIT), seconds, seconds, seconds
