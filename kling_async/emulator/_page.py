"""The page at `/`: a gallery of all generations, their status live.

Tells what the studio knows, as Server-Sent Events (WHATWG HTML, section 9.2), and
serves the page's three files. Needs no key: it listens on this machine only.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import anyio
from attrs import define
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from kling_async._generation import Status
from kling_async.emulator._clock import Clock, timestamp
from kling_async.emulator._pricing import usd
from kling_async.emulator._studio import Job, Studio

_FOLDER = Path(__file__).with_name("page")
_EVENTS = "/_emulator/events"
_EVERY = 0.5  # seconds between two looks at what has changed
_SHOWN = 200  # the newest generations
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; media-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@define(kw_only=True, eq=False)
class Page:
    """The page and its stream of events.

    Attributes:
        studio: The generations.
        clock: What time it is.
    """

    studio: Studio
    clock: Clock

    @property
    def routes(self) -> list[Route]:
        """Where the page and what it needs are found."""
        files = {"/": "index.html"} | {
            f"/_emulator/{name}": name for name in ("page.css", "page.js")
        }
        return [
            *(Route(path, _serving(_FOLDER / name)) for path, name in files.items()),
            Route(_EVENTS, self.events),
        ]

    async def events(self, _: Request) -> Response:
        """Tell everything once, then what changes."""
        return StreamingResponse(
            self._changes(),
            media_type="text/event-stream",
            headers=_HEADERS,
        )

    async def _changes(self) -> AsyncGenerator[str, None]:
        told: dict[str, object] = {}
        while True:
            now = self.clock.now()
            self.studio.settle(now)
            told, before = self._state(now), told
            news = {k: v for k, v in told.items() if before.get(k) != v}
            # A comment keeps the connection, and shows when the browser has left.
            yield f"data: {json.dumps(news)}\n\n" if news else ": nothing new\n\n"
            await anyio.sleep(_EVERY)

    def _state(self, now: float) -> dict[str, object]:
        """Give what is to be seen, under a key for each part that changes."""
        jobs = self.studio.jobs
        shown = {job.id: _told(job, now) for job in jobs[-_SHOWN:]}
        balance = usd(self.studio.account.balance)
        return {"": {"balance_usd": balance, "count": len(jobs)}, **shown}


def _serving(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        return FileResponse(path, headers=_HEADERS)

    return serve


def _told(job: Job, now: float) -> dict[str, object]:
    status = job.status_at(now)
    ended = status in (Status.COMPLETED, Status.ERROR)
    error = job.plan.error if status == Status.ERROR else None
    return {
        "model": job.record.model,
        "status": status,
        "created": timestamp(job.created_at),
        "seconds": round(job.ends_at - job.created_at, 1) if ended else None,
        "video": f"/files/{job.file_name}" if status == Status.COMPLETED else None,
        "aspect": list(job.scene.aspect),
        "error": str(error) if error else None,
        "usd": usd(job.credits_used_at(now)),
        "client_request_id": job.record.client_request_id,
        "request": job.request,
    }
