"""One HTTP exchange with the API: auth, gate, send, read, and again where allowed.

Here, and nowhere above, errors of httpx become errors of this library. Which of
them may be tried again is decided in `_retrying`; JSON is read in `_wire`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Literal, TypeVar
from urllib.parse import quote, urlsplit

import anyio
import httpx
from attrs import define, field, frozen

from kling_async._addresses import is_loopback
from kling_async._config import Settings
from kling_async._errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    KlingError,
    RateLimitError,
    RequestTimeoutError,
    TransportError,
    drop_frames,
)
from kling_async._failures import may_be_accepted, may_repeat_get, repeat, wait_after
from kling_async._generation import Generation
from kling_async._hooks import RequestEvent, RetryEvent
from kling_async._http.sender import (
    Body,
    Call,
    Response,
    Sender,
    UnreadableBodyError,
    leave,
)
from kling_async._http.session import Connections, Session
from kling_async._http.unsent import is_unsent
from kling_async._http.wire import Answer, decode_error, decode_polled

T = TypeVar("T")

# httpx's own time-outs come first; this ends what trickles on past them.
_SLACK = 1.0

_TIMEOUTS = (httpx.TimeoutException, TimeoutError)


def translate(error: Exception, doing: str) -> TransportError:
    """Turn whatever httpx, or what lies below it, raised into one of our errors."""
    cls = RequestTimeoutError if _is_timeout(error) else ConnectionFailedError
    what = ": ".join(filter(None, (type(error).__name__, str(error))))
    return cls(f"{doing}: {what}", request_sent=not is_unsent(error))


def _is_timeout(error: Exception) -> bool:
    below = _of_aiohttp(error)
    return (
        isinstance(error, _TIMEOUTS)
        if below is None
        else isinstance(below, TimeoutError)
    )


def _of_aiohttp(error: Exception) -> BaseException | None:
    """Give what aiohttp raised, below httpx-aiohttp in a user's own client too.

    Version 0.2.0 of that calls every lost connection a ConnectTimeout.
    """
    for it in (error, error.__cause__):
        if it is not None and type(it).__module__.partition(".")[0] == "aiohttp":
            return it
    return None


@frozen(eq=False)
class Transport:
    """Exchanges with the API, each in the client's scope, one after another.

    Attributes:
        settings: How.
        connections: Over what.
    """

    settings: Settings
    connections: Connections

    def fetch(self, generation_id: str) -> Awaitable[Generation]:
        """Ask for one generation, patiently."""
        # No closures: see `Job`.
        poll = partial(
            self.poll, generation_id=generation_id, limit=self.settings.timeout
        )
        return self.repeat(partial(self.in_scope, poll), may_repeat_get)

    async def poll_in_turn(
        self, generation_id: str, *, attempt: int, begin: Callable[[], float]
    ) -> Generation:
        """Ask for one generation once; to be called in the scope.

        Args:
            generation_id: Which.
            attempt: How many have failed in a row, and one more: after a 429 it
                tells how long to keep the whole client back.
            begin: Called when there is a place in flight; tells how many seconds the
                exchange may take, beside the settings' own limit.
        """
        session = self.connections.here()
        await session.take_place()
        try:
            limit = min(begin(), self.settings.timeout)
            return await self.poll(session, generation_id, limit)
        except RateLimitError as error:
            session.pause(wait_after(error, attempt, self.settings.retry))
            raise
        finally:
            session.gate.release()

    async def poll(
        self, session: Session, generation_id: str, limit: float
    ) -> Generation:
        """Ask for one generation once; a place in flight has to be taken."""
        query = f"?generation_id={quote(generation_id, safe='')}"
        call = self.call("GET", limit, query=query)
        answer = await self.exchange(session, call)
        return decode_polled(answer, generation_id)

    def repeat(
        self,
        attempt: Callable[[], Awaitable[T]],
        may_repeat: Callable[[BaseException], bool],
        *,
        pauses: bool = True,
    ) -> Awaitable[T]:
        """Make an attempt, and others where it may be repeated; raise the last error.

        Args:
            attempt: What to make.
            may_repeat: After which errors.
            pauses: Whether a 429 keeps back every call of the client for as long
                as this one waits.
        """
        before_wait = self._pause if pauses else self._tell
        return repeat(attempt, self.settings.retry, may_repeat, before_wait)

    def _pause(self, number: int, delay: float, error: KlingError) -> None:
        """Keep every call back after a 429, and tell of another attempt."""
        if isinstance(error, RateLimitError):
            self.connections.here().pause(delay)
        self._tell(number, delay, error)

    def _tell(self, number: int, delay: float, error: KlingError) -> None:
        event = RetryEvent(attempt=number, delay=delay, error=error)
        self.settings.reporter.retry(event)

    async def in_scope(
        self,
        work: Callable[[Session], Awaitable[T]],
        *,
        is_essential: bool = False,
        on_error: Callable[[Session, KlingError], Awaitable[T]] | None = None,
    ) -> T:
        """Do work in the client's scope; a cancelled caller leaves at once.

        Args:
            work: What to do, once there is a place in flight.
            is_essential: Closing the client waits for it.
            on_error: What to make of its error, in the scope too but without
                the place.
        """
        session = self.connections.here()
        await session.take_place()
        free = session.gate.release
        placed: Callable[[], Awaitable[T]] = partial(work, session)
        if on_error is not None:
            free = once(free)
            placed = partial(_settled, session, work, free, on_error)
        try:
            job = session.scope.start(placed, is_essential=is_essential, at_end=free)
        except ClientClosedError:
            free()
            raise
        return await job.result()

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
            method: Its verb.
            limit: The longest it may take, in seconds.
            path: Its path, which may have a query.
            query: Its query, with the question mark.
            content: Its body.
            headers: Those beside the ones that all requests have.
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

    async def exchange(
        self, session: Session, call: Call, *, pauses: bool = True
    ) -> Answer:
        """Send one request and read its answer, within its limit.

        A 429 that says how long keeps the whole client back, if it ``pauses``.

        Raises:
            APIStatusError: The answer is no success.
            TransportError: There is none.
            ConfigurationError: The base URL is none.
        """
        started = anyio.current_time()
        received = _Received()
        await received.receive(session.http, call, started + call.limit)
        failure = received.failure(call)
        response = received.response
        if self.settings.reporter.hears_requests:
            event = RequestEvent(
                method=call.method,
                url=call.url,
                status_code=response.status_code if response else None,
                seconds=anyio.current_time() - started,
                error=failure,
            )
            self.settings.reporter.request(event)
        if response is None:
            assert failure is not None  # noqa: S101 (one of the two there is)
            raise failure
        answer = Answer(
            status_code=response.status_code,
            headers=response.headers,
            content=bytes(received.body.content),
            cut_off=failure,
            redact=self.settings.api_key.redact,
        )
        if not answer.is_success:
            raise self._refusal(answer, session if pauses else None)
        return answer

    def _refusal(self, answer: Answer, paused: Session | None) -> KlingError:
        """Read an answer that is no success; a 429 may pause a whole session."""
        error = decode_error(answer)
        if paused and isinstance(error, RateLimitError) and error.retry_after:
            paused.pause(min(error.retry_after, self.settings.retry.max_retry_after))
        if may_be_accepted(error) and answer.inference_id:
            error.concerning(answer.inference_id)
        return error


async def in_place(session: Session, work: Callable[[Session], Awaitable[T]]) -> T:
    """Do work, and give back the place in flight that was taken for it."""
    try:
        return await work(session)
    finally:
        session.gate.release()


async def _settled(
    session: Session,
    work: Callable[[Session], Awaitable[T]],
    free: Callable[[], None],
    on_error: Callable[[Session, KlingError], Awaitable[T]],
) -> T:
    """Do work in its place, and make something of its error without the place."""
    try:
        return await work(session)
    except KlingError as error:
        free()
        return await on_error(session, error)


def once(work: Callable[[], None]) -> Callable[[], None]:
    """Do it at the first call, and nothing at those that follow."""
    left = [work]
    return lambda: left.pop()() if left else None


@define(eq=False)
class _Received:
    """What came back for one request, and what ended it before its end."""

    response: Response | None = None
    body: Body = field(factory=Body, repr=False)
    error: Exception | None = None

    async def receive(self, http: Sender, call: Call, deadline: float) -> None:
        """Send a request and read its answer, as far as it comes in time."""
        with anyio.CancelScope(deadline=deadline + _SLACK) as scope:
            try:
                self.response = await http.send(call)
                await self._read(self.response, deadline)
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 (what came may be enough)
                self.error = error
        if scope.cancelled_caught:
            self.error = TimeoutError()

    async def _read(self, response: Response, deadline: float) -> None:
        try:
            if response.unpacked is not None:
                self.body.add(response.unpacked)
            else:
                await self._read_chunks(response, deadline)
        except BaseException:
            await leave(response.aclose, response.chunks)
            raise
        await response.aclose()

    async def _read_chunks(self, response: Response, deadline: float) -> None:
        self.body.begin(response.headers)
        async for chunk in response.chunks:
            self.body.add(chunk)
            if anyio.current_time() > deadline:
                raise TimeoutError("it trickles in too slowly")

    def failure(self, call: Call) -> KlingError | None:
        """Give the error as ours; None when all is well."""
        if self.error is None:
            return None
        failure: KlingError
        url = urlsplit(call.url)
        what = f"{call.method} {url.netloc.rpartition('@')[2]}{url.path}"
        if self.response is None:
            failure = translate(self.error, f"{what} (timeout {call.limit:g} s)")
            if not failure.request_sent and is_loopback(url.hostname or ""):
                failure.with_hint("start_the_emulator")
        elif isinstance(self.error, httpx.DecodingError | UnreadableBodyError):
            message = f"the answer cannot be read: {self.error}"
            failure = DecodeError(message, status_code=self.response.status_code)
        else:
            failure = translate(self.error, f"{what}, reading the answer")
            failure.request_sent = True
        drop_frames(self.error)
        failure.__cause__ = self.error
        return failure
