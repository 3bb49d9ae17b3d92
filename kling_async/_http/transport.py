"""One exchange with the API: get a slot, send, read, and retry if allowed.

Only here errors of httpx become errors of this library. `_failures`
decides which may be retried; `wire` reads the JSON.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Literal, TypeVar
from urllib.parse import quote, urlsplit

import anyio.lowlevel
from attrs import define, field, frozen

from kling_async._checks import is_loopback
from kling_async._config import Secret, Settings
from kling_async._errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    KlingError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    TransportError,
    causes_of,
    drop_frames,
)
from kling_async._failures import may_be_accepted, may_repeat_get, repeat, wait_after
from kling_async._generation import Generation
from kling_async._hooks import RequestEvent, RetryEvent
from kling_async._http.library import errors_named
from kling_async._http.sender import (
    Body,
    Call,
    StreamedResponse,
    UnreadableBodyError,
    close_stream,
)
from kling_async._http.session import Connections, Exchange, Session
from kling_async._http.unsent import is_unsent
from kling_async._http.wire import (
    Response,
    decode_created,
    decode_error,
    decode_polled,
)
from kling_async._runtime.limiter import Kind, Slot
from kling_async._runtime.tasks import CLOSED

T = TypeVar("T")

# httpx's own time-outs come first; this ends an answer that trickles past them.
_SLACK = 1.0


def translate(
    error: Exception, doing: str, redact: Callable[[str], str] = str
) -> TransportError:
    """Turn an error of httpx, or of a library below it, into one of ours."""
    cls = RequestTimeoutError if _is_timeout(error) else ConnectionFailedError
    what = redact(": ".join(filter(None, (type(error).__name__, str(error)))))
    return cls(f"{doing}: {what}", request_sent=not is_unsent(error))


def _is_timeout(error: Exception) -> bool:
    below = _of_aiohttp(error)
    timeouts = errors_named("TimeoutException", TimeoutError)
    return isinstance(error if below is None else below, timeouts)


def _of_aiohttp(error: Exception) -> BaseException | None:
    """Give what aiohttp raised, below httpx-aiohttp in a user's own client too.

    Version 0.2.0 of that calls every lost connection a ConnectTimeout.
    """
    for it in (error, error.__cause__):
        if it is not None and type(it).__module__.partition(".")[0] == "aiohttp":
            return it
    return None


@frozen(eq=False, repr=False)
class Transport:
    """Exchanges with the API, each in a slot of the limiter.

    Attributes:
        settings: The client's settings.
        connections: The client's connections.
    """

    settings: Settings
    connections: Connections

    @property
    def session(self) -> Session:
        """What is open in the running event loop.

        Raises:
            ClientClosedError: The client was closed.
        """
        return self.connections.current_session()

    def fetch(self, generation_id: str) -> Awaitable[Generation]:
        """Fetch one generation, with retries."""

        async def poll(session: Session, slot: Slot) -> Generation:
            with slot:
                return await self.poll(session, slot, generation_id)

        return self.repeat(lambda: self.in_slot(Kind.AWAITED, poll), may_repeat_get)

    async def poll(
        self,
        session: Session,
        slot: Slot,
        generation_id: str,
        limit: float = math.inf,
    ) -> Generation:
        """Ask for one generation once, in a slot; the settings bound it, too."""
        query = f"?generation_id={quote(generation_id, safe='')}"
        call = self.call("GET", min(limit, self.settings.timeout), query=query)
        answer = await self.exchange(session, slot, call)
        return decode_polled(answer, generation_id)

    async def create(
        self, session: Session, slot: Slot, content: bytes, client_request_id: str
    ) -> Generation:
        """Send a create once, in a slot."""
        headers = {
            "content-type": "application/json",
            "x-client-request-id": client_request_id,
        }
        limit = self.settings.timeout
        call = self.call("POST", limit, content=content, headers=headers)
        answer = await self.exchange(session, slot, call)
        return decode_created(answer, client_request_id)

    def repeat(
        self,
        attempt: Callable[[], Awaitable[T]],
        may_repeat: Callable[[BaseException], bool],
        *,
        pauses: bool = True,
    ) -> Awaitable[T]:
        """Make an attempt, and repeat it while that is allowed; raise the last error.

        Args:
            attempt: Makes one attempt.
            may_repeat: Whether to repeat after an error.
            pauses: Whether a 429 holds back every call of the client for as long
                as this one waits.
        """
        before_wait = self._pause if pauses else self._tell
        return repeat(
            attempt, self.settings.retry, may_repeat, before_wait, self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        await self.session.sleep(seconds)

    def _pause(self, number: int, delay: float, error: KlingError) -> None:
        """Hold back every call after a 429, and report the retry."""
        if isinstance(error, RateLimitError):
            self.session.limiter.pause(delay)
        self._tell(number, delay, error)

    def _tell(self, number: int, delay: float, error: KlingError) -> None:
        event = RetryEvent(attempt=number, delay=delay, error=error)
        self.settings.reporter.emit(event)

    async def in_slot(
        self, kind: Kind, work: Callable[[Session, Slot], Awaitable[T]]
    ) -> T:
        """Do work in a slot; if many were refused at once, wait for another slot.

        Args:
            kind: The kind of exchange.
            work: What to do, once there is a slot, which it gives back.
        """
        session = self.session
        for number in itertools.count(1):
            slot = await session.limiter.acquire(kind)
            try:
                return await work(session, slot)
            except RateLimitError as error:
                if not slot.is_excused:
                    raise
                # Too many were in flight at once, which is no fault of this one's.
                self._tell(number, session.limiter.pause_left, error)
        raise AssertionError  # for the type checkers: the loop has no end

    def in_own_task(
        self, work: Callable[[Session, Slot], Awaitable[T]]
    ) -> Awaitable[T]:
        """Create in a slot, in the client's own task: a cancelled caller leaves.

        Closing the client waits for it.
        """

        async def start(session: Session, slot: Slot) -> T:
            try:
                # Who has left since it was given the slot does not pay.
                await anyio.lowlevel.checkpoint_if_cancelled()
                job = session.tasks.start(
                    lambda: work(session, slot), wait_on_close=True, at_end=slot.release
                )
            except BaseException:
                slot.release()
                raise
            return await job.result()

        return self.in_slot(Kind.CREATE, start)

    def call(
        self,
        method: Literal["GET", "POST"],
        limit: float,
        *,
        path: str | None = None,
        query: str = "",
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call:
        """Make a request, to the generations endpoint unless a path is given.

        Args:
            method: Its HTTP method.
            limit: Its time limit, in seconds.
            path: Its path, which may have a query.
            query: Its query, with the question mark.
            content: Its body.
            headers: Headers besides the common ones.
        """
        settings = self.settings
        return Call(
            method=method,
            base_url=settings.base_url,
            target=(path or settings.path) + query,
            headers=headers or {},
            content=content,
            key=settings.api_key,
            limit=limit,
        )

    async def exchange(self, session: Session, slot: Slot, call: Call) -> Response:
        """Send one request in a slot, and read its answer, within its limit.

        Raises:
            APIStatusError: The answer is not a success.
            TransportError: There is no answer.
            ConfigurationError: The base URL is invalid.
            ClientClosedError: The client was closed meanwhile.
        """
        started = session.loop.time()
        received = _Received()
        await received.receive(session, slot, call, started + call.limit)
        failure = received.failure(call)
        response = received.response
        if self.settings.reporter.wants_requests:
            event = RequestEvent(
                method=call.method,
                url=call.url,
                status_code=response.status_code if response else None,
                seconds=session.loop.time() - started,
                error=failure,
            )
            self.settings.reporter.emit(event)
        if response is None:
            assert failure is not None  # noqa: S101 (one of the two there is)
            slot.miss()
            raise failure
        answer = Response(
            status_code=response.status_code,
            headers=response.headers,
            content=bytes(received.body.content),
            cut_off=failure,
            redact=self.settings.api_key.redact,
            redacts_values=self.settings.api_key.is_long,
        )
        if not answer.is_success:
            raise self._refusal(answer, session, slot)
        slot.accept()
        return answer

    def _refusal(self, answer: Response, session: Session, slot: Slot) -> KlingError:
        """Read an answer that is not a success, and inform the limiter."""
        error = decode_error(answer)
        if isinstance(error, RateLimitError):
            number = session.limiter.refusals + 1
            slot.refuse(wait_after(error, number, self.settings.retry))
        elif isinstance(error, ServerError):
            slot.miss()
        else:
            slot.accept()
        if may_be_accepted(error) and answer.inference_id:
            error.concerning(answer.inference_id)
        return error


@define(eq=False, repr=False)
class _Received:
    """The answer to one request, and what broke it off, if anything did."""

    response: StreamedResponse | None = None
    body: Body = field(factory=Body, repr=False)
    error: Exception | None = field(default=None, repr=False)

    async def receive(
        self, session: Session, slot: Slot, call: Call, deadline: float
    ) -> None:
        """Send a request and read its answer, as far as it comes in time."""
        with Exchange(session, deadline + _SLACK) as exchange:
            try:
                self.response = await session.http.send(call, slot)
                await self._read(self.response)
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 (what came may be enough)
                self.error = error
        if exchange.bound.is_cut:
            if session.limiter.is_closed and session.loop.time() < deadline:
                raise ClientClosedError(CLOSED)
            self.error = TimeoutError()

    async def _read(self, response: StreamedResponse) -> None:
        try:
            self.body.begin(response.headers)
            async for chunk in response.chunks:
                self.body.add(chunk)
        except BaseException:
            await close_stream(response.aclose, response.chunks)
            raise

    def failure(self, call: Call) -> KlingError | None:
        """Return the error as ours; None if there is none."""
        if self.error is None:
            return None
        failure: KlingError
        redact = partial(_redact, call.key)
        url = urlsplit(call.url)
        what = f"{call.method} {url.netloc.rpartition('@')[2]}{url.path}"
        if self.response is None:
            failure = translate(
                self.error, f"{what} (timeout {call.limit:g} s)", redact
            )
            if not failure.request_sent and is_loopback(url.hostname or ""):
                failure.with_hint("start_the_emulator")
        elif isinstance(self.error, errors_named("DecodingError", UnreadableBodyError)):
            message = f"the answer cannot be read: {redact(str(self.error))}"
            failure = DecodeError(message, status_code=self.response.status_code)
        else:
            failure = translate(self.error, f"{what}, reading the answer", redact)
            failure.request_sent = True
        failure.__cause__ = _bare(self.error, redact)
        return failure


class LibraryError(Exception):
    """An error of another library, in words, since the error itself shows a secret."""


# A proxy's user and password, which libraries may show.
_USER_IN_URL = re.compile(r"(?<=//)[^/\s'\"]+@")


def _redact(key: Secret, text: str) -> str:
    return _USER_IN_URL.sub("***@", key.redact(text))


def _bare(error: BaseException, redact: Callable[[str], str]) -> BaseException:
    """Remove from an error what may show the key: its frames and attributes.

    A library may keep the whole request, or an answer that echoes the key.
    """
    drop_frames(error)
    for it in causes_of(error):
        facts = vars(it)
        sent = facts.get("_request")  # httpx keeps it, with all its headers
        if sent is not None:
            facts["_request"] = type(sent)(sent.method, sent.url)
        shown = f"{it} {it!r} {facts}"
        if redact(shown) != shown:
            return LibraryError(redact(f"{type(error).__name__}: {error}"))
    return error
