"""A generation's progress in a browser, as Server-Sent Events, in any async framework.

`progress` yields the events; `progress_events` makes a Starlette or FastAPI response of
them; `kling_lifespan` opens one client for such an app. However many browsers follow a
generation, the client polls it once. Only `progress_events` needs the extra ``web``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, TypedDict
from urllib.parse import quote

import anyio
from attrs import field, frozen

from kling_async import (
    APIStatusError,
    AsyncKling,
    Generation,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    OutOfCreditsError,
    RateLimitError,
    ServerError,
    SubmissionUncertainError,
    WaitTimeoutError,
)
from kling_async._checks import needs_extra, require_timeout
from kling_async._generation import describe
from kling_async._runtime.shutdown import stop_requested

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = [
    "EVENT_STREAM_HEADERS",
    "KlingState",
    "ProgressEvent",
    "describe",
    "has_ended",
    "kling_lifespan",
    "progress",
    "progress_events",
    "public_message",
    "verified_event",
]

EVENT_STREAM_HEADERS: Mapping[str, str] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold the events back
}
"""The headers of a response that is a stream of events."""

_END = "end"  # no id of a status: those begin with _STATUS
_STATUS = "status:"

_log = logging.getLogger("kling_async.web")


class KlingState(TypedDict):
    """What `kling_lifespan` puts into ``request.state``."""

    kling: AsyncKling


@asynccontextmanager
async def kling_lifespan(_: object) -> AsyncGenerator[KlingState]:
    """Open one client for a Starlette app, as ``request.state.kling``.

    The environment configures it (``AIMLAPI_KEY``, ``AIMLAPI_BASE_URL``), and it is
    closed with the app. For other options write your own: ``async with AsyncKling(...)
    as kling: yield {"kling": kling}``.

    Raises:
        ConfigurationError: There is no key; the app does not start.
    """
    async with AsyncKling() as kling:
        yield {"kling": kling}


def public_message(error: KlingError) -> str:
    """Say in plain words what went wrong, for the users of a website.

    Names no id, no address and nothing of Python, unlike ``str(error)``.
    """
    return next(words for kinds, words in _PUBLIC if isinstance(error, kinds))


_PUBLIC: list[tuple[type[KlingError] | tuple[type[KlingError], ...], str]] = [
    (WaitTimeoutError, "This takes longer than usual. Come back later to see it."),
    (
        SubmissionUncertainError,
        "It is not clear yet whether the video was started. Do not send it again.",
    ),
    ((NotFoundError, InvalidRequestError), "The video service knows no such video."),
    (OutOfCreditsError, "The video service is out of credits."),
    (RateLimitError, "The video service is busy. Try again in a minute."),
    (ServerError, "The video service has a problem. Try again in a few minutes."),
    (APIStatusError, "The video service refused this request."),
    (KlingError, "The video service cannot be reached. Try again in a few minutes."),
]


@frozen(kw_only=True)
class ProgressEvent:
    """One event of a stream.

    Attributes:
        event: ``status`` with a generation, ``trouble`` if the watch ended before
            the generation did, or ``heartbeat``, which keeps proxies from hanging up.
        data: For ``status`` what `describe` returns; for ``trouble`` a ``type`` and a
            ``message``; for ``heartbeat`` nothing.
        id: What a browser that reconnects sends as ``Last-Event-ID``.
    """

    event: Literal["status", "trouble", "heartbeat"]
    data: Mapping[str, object] = field(factory=dict[str, object])
    id: str | None = None

    def encode(self) -> bytes:
        """Return the event as it is sent to a browser."""
        if self.event == "heartbeat":
            return b": heartbeat\n\n"
        lines = f"event: {self.event}\nid: {self.id}\ndata: {json.dumps(self.data)}\n\n"
        return lines.encode()


def has_ended(last_event_id: str | None) -> bool:
    """Whether a browser has seen the end of a stream.

    Answer with HTTP 204, which stops it from reconnecting.
    """
    return last_event_id == _END


def progress(
    kling: AsyncKling,
    generation_or_id: Generation | str,
    *,
    last_event_id: str | None = None,
    heartbeat: float = 15.0,
    timeout: float | None = None,
    message: Callable[[KlingError], str] = public_message,
) -> AsyncGenerator[ProgressEvent, None]:
    """Yield the events of a generation until it ends, for any framework on asyncio.

    The first status comes at once, then each change. The stream ends with the
    generation, with an event ``trouble``, or as soon as the server is told to stop
    (SIGTERM, Ctrl-C): the browser then reconnects to the new server.

    Args:
        kling: The client.
        generation_or_id: Which generation.
        last_event_id: The browser's ``Last-Event-ID``; that event is not sent again.
        heartbeat: Seconds between two heartbeats while nothing changes.
        timeout: How long to watch, in seconds; by default the client's
            ``wait_timeout``.
        message: Words an error for the browser; the log has the whole error.

    Raises:
        ConfigurationError: ``heartbeat`` or ``timeout`` is not a number of seconds.
    """
    require_timeout("heartbeat", heartbeat)
    if timeout is not None:
        require_timeout("timeout", timeout)
    changes = kling.watch(generation_or_id, timeout=timeout)
    return _events(changes, last_event_id, heartbeat, message)


async def _events(
    changes: AsyncGenerator[Generation, None],
    last_event_id: str | None,
    heartbeat: float,
    message: Callable[[KlingError], str],
) -> AsyncGenerator[ProgressEvent, None]:
    if has_ended(last_event_id):
        return
    change: asyncio.Future[Generation] | None = None
    with stop_requested() as stop:
        try:
            while not stop.done():
                change = change or asyncio.ensure_future(anext(changes))
                await asyncio.wait(
                    (change, stop),
                    timeout=heartbeat,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not change.done():
                    yield ProgressEvent(event="heartbeat")
                    continue
                event = _status_event(change.result())
                change = None
                if event.id != last_event_id:
                    yield event
                if has_ended(event.id):
                    return
        except KlingError as error:
            _log.warning("a stream of progress ended early: %s", error)
            data = {"type": type(error).__name__, "message": message(error)}
            yield ProgressEvent(event="trouble", data=data, id=_END)
        finally:
            with anyio.CancelScope(shield=True):
                if change is not None:
                    change.cancel()
                    await asyncio.gather(change, return_exceptions=True)
                await changes.aclose()


def _status_event(generation: Generation) -> ProgressEvent:
    # Quoted, since a line break in an id would break the stream's framing.
    status = _STATUS + quote(generation.status, safe="")
    event_id = _END if generation.is_terminal else status
    return ProgressEvent(event="status", data=describe(generation), id=event_id)


def progress_events(
    request: Request,
    generation_or_id: Generation | str,
    *,
    kling: AsyncKling | None = None,
    heartbeat: float = 15.0,
    timeout: float | None = None,
    message: Callable[[KlingError], str] = public_message,
) -> Response:
    """Answer a Starlette or FastAPI request with the events of `progress`.

    A browser that has seen the end is told not to reconnect.

    Args:
        request: The browser's request.
        generation_or_id: Which generation.
        kling: The client; by default the one of `kling_lifespan`.
        heartbeat: As for `progress`.
        timeout: As for `progress`.
        message: As for `progress`.

    Raises:
        ConfigurationError: ``heartbeat`` or ``timeout`` is not a number of seconds.
    """
    with needs_extra("web", "sse_starlette", "starlette"):
        from sse_starlette import EventSourceResponse
        from starlette.responses import Response

    require_timeout("heartbeat", heartbeat)
    last_event_id = request.headers.get("last-event-id")
    if has_ended(last_event_id):
        return Response(status_code=204)
    client: AsyncKling = request.state.kling if kling is None else kling
    events = progress(
        client,
        generation_or_id,
        last_event_id=last_event_id,
        heartbeat=heartbeat,
        timeout=timeout,
        message=message,
    )
    return EventSourceResponse(_encode(events), ping=0)


async def _encode(
    events: AsyncGenerator[ProgressEvent, None],
) -> AsyncGenerator[bytes, None]:
    try:
        async for event in events:
            yield event.encode()
    finally:
        await events.aclose()


_LARGEST_EVENT = 1024 * 1024


async def verified_event(request: Request, *, secret: str) -> dict[str, object]:
    """Check the signature of a webhook message, and return its event.

    The same message may come twice, with the same ``webhook-id`` header. Needs the
    extras ``web`` and ``webhooks``.

    Args:
        request: The request, of Starlette or FastAPI.
        secret: The secret of the sender's `kling_async.durable.Webhook`.

    Returns:
        The event: its ``type``, such as ``"job.done"``, its ``timestamp`` and ``data``.

    Raises:
        starlette.exceptions.HTTPException: 401 if the signature or its time is wrong,
            413 if the message is too large.
    """
    with needs_extra("web", "starlette"):
        from starlette.exceptions import HTTPException
    with needs_extra("webhooks", "standardwebhooks"):
        from standardwebhooks.webhooks import (
            Webhook,
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_EVENT:
            raise HTTPException(413)
    try:
        event: object = Webhook(secret).verify(bytes(body), dict(request.headers))
    except Exception:  # noqa: BLE001 (foreign bytes may raise anything)
        raise HTTPException(401) from None
    if not isinstance(event, dict):
        raise HTTPException(401)
    return event
