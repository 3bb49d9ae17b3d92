"""A generation's progress in a browser: Server-Sent Events for Starlette and FastAPI.

`kling_lifespan` opens one client for an app, `progress_events` answers with the
stream of one generation. However many browsers look at a generation, the client
polls for it once. Needs the extra ``web``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TypedDict

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from kling_async import AsyncKling, Generation, KlingError
from kling_async._checks import require_timeout

__all__ = ["KlingState", "describe", "kling_lifespan", "progress_events"]

# An id that says: do not come back. HTTP 204 then stops the browser's reconnecting
# (WHATWG HTML, section 9.2.3).
_END = "end"


class KlingState(TypedDict):
    """What `kling_lifespan` puts into ``request.state``."""

    kling: AsyncKling


@asynccontextmanager
async def kling_lifespan(_: Starlette) -> AsyncGenerator[KlingState]:
    """Open one client for an app, as ``request.state.kling``, and close it at the end.

    It is set up by the environment (``AIMLAPI_KEY``, ``AIMLAPI_BASE_URL``). For
    other options write your own: ``async with AsyncKling(...) as kling: yield
    {"kling": kling}``.

    Raises:
        ConfigurationError: There is no key; the app does not start.
    """
    async with AsyncKling() as kling:
        yield {"kling": kling}


def progress_events(
    request: Request,
    generation_or_id: Generation | str,
    *,
    kling: AsyncKling | None = None,
    heartbeat: float = 15.0,
    timeout: float | None = None,
) -> Response:
    """Answer with a stream of what becomes of a generation, until its end.

    Each event ``status`` holds a generation as JSON (see `describe`), the first at
    once. An event ``trouble`` holds ``{"type", "message"}`` where the watch ended
    before the generation did. A browser that reconnects is not told again what it
    has seen (``Last-Event-ID``), and one that has seen the end is told to stop.

    Args:
        request: The browser's request.
        generation_or_id: Which generation.
        kling: The client; by default that of `kling_lifespan`.
        heartbeat: Seconds between two comments that keep proxies from hanging up;
            they also show when a browser has left without a word.
        timeout: How long to go on, in seconds; by default the client's own.

    Raises:
        ConfigurationError: ``heartbeat`` or ``timeout`` is no span of time.
    """
    require_timeout("heartbeat", heartbeat)
    seen = request.headers.get("last-event-id", "")
    if seen == _END:
        return Response(status_code=204)
    client: AsyncKling = request.state.kling if kling is None else kling
    return EventSourceResponse(
        _events(client, generation_or_id, seen, timeout), ping=heartbeat
    )


def describe(generation: Generation) -> dict[str, object]:
    """Give a generation as what a browser needs of it, for JSON.

    Holds ``id``, ``status``, ``is_terminal``, ``succeeded``, ``error`` as a text or
    None, and ``video``: None, or its ``url``, ``content_type`` and ``file_size`` in
    bytes.
    """
    video = generation.video
    return {
        "id": generation.id,
        "status": str(generation.status),
        "is_terminal": generation.is_terminal,
        "succeeded": generation.succeeded,
        "error": str(generation.error) if generation.error else None,
        "video": video
        and {
            "url": video.url,
            "content_type": video.content_type,
            "file_size": video.file_size,
        },
    }


async def _events(
    kling: AsyncKling,
    generation_or_id: Generation | str,
    seen: str,
    timeout: float | None,
) -> AsyncGenerator[ServerSentEvent, None]:
    watching = kling.watch(generation_or_id, timeout=timeout)
    try:
        async with aclosing(watching) as changes:
            async for generation in changes:
                if generation.is_terminal:
                    yield _event("status", describe(generation), _END)
                elif generation.status != seen:
                    yield _event("status", describe(generation), generation.status)
    except KlingError as error:
        told = {"type": type(error).__name__, "message": str(error)}
        yield _event("trouble", told, _END)


def _event(name: str, data: Mapping[str, object], event_id: str) -> ServerSentEvent:
    # An id with a line break or NUL would break the stream's framing.
    is_clean = event_id.isprintable()
    return ServerSentEvent(
        json.dumps(data), event=name, id=event_id if is_clean else None
    )
