"""One HTTP exchange with the API: auth, gate, send, retry, decode.

Here, and nowhere above, errors of httpx become errors of this library, and it
is decided whether a create may have reached the queue.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

import anyio
import httpx
from attrs import frozen

from kling_async._connections import Connections, Session, phase_limits
from kling_async._errors import (
    ClientClosedError,
    ConnectionFailedError,
    DecodeError,
    KlingError,
    RateLimitError,
    RequestTimeoutError,
    SubmissionUncertainError,
    TransportError,
)
from kling_async._generation import Generation
from kling_async._hooks import CreatedEvent, RequestEvent, RetryEvent
from kling_async._retrying import (
    is_uncertain,
    may_repeat_create,
    may_repeat_create_at_own_risk,
    may_repeat_get,
    retrying,
)
from kling_async._settings import Settings
from kling_async._wire import Answer, decode_created, decode_error, decode_polled

T = TypeVar("T")

MAX_ANSWER = 16 * 1024 * 1024
# httpx's own time-outs come first; this ends what trickles on past them.
_SLACK = 1.0

# Most specific first: foreign error, ours, whether the server may have seen it.
_FAULTS: tuple[tuple[type[Exception], type[TransportError], bool], ...] = (
    (httpx.ConnectTimeout, RequestTimeoutError, False),
    (httpx.PoolTimeout, RequestTimeoutError, False),
    (httpx.TimeoutException, RequestTimeoutError, True),
    (TimeoutError, RequestTimeoutError, True),
    (httpx.ConnectError, ConnectionFailedError, False),
    (httpx.ProxyError, ConnectionFailedError, False),
    (httpx.UnsupportedProtocol, ConnectionFailedError, False),
    (httpx.RequestError, ConnectionFailedError, True),
    (OSError, ConnectionFailedError, True),
)
FOREIGN = (httpx.RequestError, TimeoutError, OSError)


def translate(error: Exception, doing: str) -> KlingError:
    """Turn an error of httpx or of the sockets below into one of ours."""
    if isinstance(error, httpx.DecodingError):
        return DecodeError(
            f"{doing}: the body is not encoded as it says", status_code=0
        )
    cls, request_sent = next(
        (ours, sent) for foreign, ours, sent in _FAULTS if isinstance(error, foreign)
    )
    return cls(
        f"{doing}: {str(error) or type(error).__name__}",
        request_sent=request_sent,
    )


@frozen(eq=False)
class Transport:
    """Creates and polls, one exchange after another.

    Attributes:
        settings: How.
        connections: Over what.
    """

    settings: Settings
    connections: Connections

    async def submit(
        self,
        body: bytes,
        *,
        model: str,
        client_request_id: str,
    ) -> Generation:
        """Send a create, again only where the billing rule allows it.

        Raises:
            SubmissionUncertainError: It was sent and the answer was lost.
            KlingError: The server refused it, or it certainly never got there.
        """
        since = dt.datetime.now(dt.UTC)
        sent: list[bool] = []

        async def post(session: Session) -> Generation:
            sent.append(True)
            return await self._post(session, body, model, client_request_id)

        async def attempt() -> Generation:
            sent.clear()
            try:
                return await self._in_scope(post, is_essential=True)
            except KlingError as error:
                if is_uncertain(error) or (
                    sent and isinstance(error, ClientClosedError)
                ):
                    raise SubmissionUncertainError(
                        client_request_id=client_request_id,
                        since=since,
                    ) from error
                raise

        at_own_risk = self.settings.retry.uncertain == "retry"
        may_repeat = may_repeat_create_at_own_risk if at_own_risk else may_repeat_create
        return await self._retrying(attempt, may_repeat)

    async def fetch(
        self,
        generation_id: str,
        *,
        timeout: float = float("inf"),
    ) -> Generation:
        """Ask for one generation, patiently.

        Args:
            generation_id: Which.
            timeout: Bounds each exchange, in seconds, beside the settings' own.
        """
        limit = min(timeout, self.settings.timeout)

        async def get(session: Session) -> Generation:
            return await self._get(session, generation_id, limit)

        async def attempt() -> Generation:
            return await self._in_scope(get)

        return await self._retrying(attempt, may_repeat_get)

    async def _retrying(
        self,
        attempt: Callable[[], Awaitable[T]],
        may_repeat: Callable[[BaseException], bool],
    ) -> T:
        def before_wait(number: int, delay: float, error: KlingError) -> None:
            if isinstance(error, RateLimitError):
                self.connections.here().pause(delay)
            event = RetryEvent(attempt=number, delay=delay, error=error)
            self.settings.reporter.retry(event)

        return await retrying(self.settings.retry, may_repeat, before_wait)(attempt)

    async def _in_scope(
        self,
        work: Callable[[Session], Awaitable[T]],
        *,
        is_essential: bool = False,
    ) -> T:
        """Do work in the client's scope; a cancelled caller leaves at once."""
        session = self.connections.here()
        await session.take_place()

        async def placed() -> T:
            try:
                return await work(session)
            finally:
                session.gate.release()

        try:
            job = session.scope.start(placed, is_essential=is_essential)
        except ClientClosedError:
            session.gate.release()
            raise
        return await job.result()

    async def _post(
        self,
        session: Session,
        body: bytes,
        model: str,
        client_request_id: str,
    ) -> Generation:
        request = session.http.build_request(
            "POST",
            self.settings.url,
            content=body,
            headers=self._headers(
                {
                    "content-type": "application/json",
                    "x-client-request-id": client_request_id,
                },
            ),
            timeout=phase_limits(self.settings.timeout),
        )
        answer, cut_off = await self._exchange(session, request, self.settings.timeout)
        if not answer.is_success:
            raise self._refusal(session, answer)
        if cut_off is not None and answer.inference_id is None:
            raise cut_off
        generation = decode_created(answer, client_request_id)
        # Told here, in the client's own task: the caller may be gone.
        event = CreatedEvent(generation=generation, model=model)
        self.settings.reporter.created(event)
        return generation

    async def _get(
        self, session: Session, generation_id: str, limit: float
    ) -> Generation:
        request = session.http.build_request(
            "GET",
            f"{self.settings.url}?generation_id={quote(generation_id, safe='')}",
            headers=self._headers({}),
            timeout=phase_limits(limit),
        )
        answer, cut_off = await self._exchange(session, request, limit)
        if not answer.is_success:
            raise self._refusal(session, answer)
        if cut_off is not None:
            raise cut_off
        return decode_polled(answer, generation_id)

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        key = self.settings.api_key.reveal()
        return {"authorization": f"Bearer {key}", "accept": "application/json", **more}

    def _refusal(self, session: Session, answer: Answer) -> KlingError:
        """Read an answer that is no success; a 429 pauses the whole client."""
        error = decode_error(answer)
        if isinstance(error, RateLimitError) and error.retry_after:
            session.pause(min(error.retry_after, self.settings.retry.max_retry_after))
        return error

    async def _exchange(
        self,
        session: Session,
        request: httpx.Request,
        limit: float,
    ) -> tuple[Answer, KlingError | None]:
        """Send and read; give the answer, and what cut its body off, if anything."""
        started = anyio.current_time()

        def tell(status_code: int | None, error: KlingError | None) -> None:
            event = RequestEvent(
                method=request.method,
                url=str(request.url),
                status_code=status_code,
                seconds=anyio.current_time() - started,
                error=error,
            )
            self.settings.reporter.request(event)

        try:
            with anyio.fail_after(limit + _SLACK):
                response = await session.http.send(
                    request,
                    stream=True,
                    auth=None,
                    follow_redirects=False,
                )
        except FOREIGN as error:
            failure = translate(error, _what(request))
            tell(None, failure)
            raise failure from error
        content, cut_off = await _read(response, started + limit)
        tell(response.status_code, cut_off)
        key = self.settings.api_key.reveal().encode()
        answer = Answer(
            status_code=response.status_code,
            headers=response.headers,
            content=content.replace(key, b"***"),
        )
        return answer, cut_off


async def _read(
    response: httpx.Response,
    deadline: float,
) -> tuple[bytes, KlingError | None]:
    """Read a body, bounded in size and time; give what came and what cut it off."""
    content = bytearray()
    doing = f"{_what(response.request)}, reading the answer"
    try:
        with anyio.fail_after(deadline + _SLACK - anyio.current_time()):
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER:
                    return b"", DecodeError(
                        f"the answer is larger than {MAX_ANSWER} bytes",
                        status_code=response.status_code,
                        body=content[:500].decode(errors="replace"),
                    )
                if anyio.current_time() > deadline:
                    raise TimeoutError("it trickles in too slowly")
    except FOREIGN as error:
        failure = translate(error, doing)
        failure.__cause__ = error
        return bytes(content), failure
    finally:
        await response.aclose()
    return bytes(content), None


def _what(request: httpx.Request) -> str:
    return f"{request.method} {request.url.host}{request.url.path}"
