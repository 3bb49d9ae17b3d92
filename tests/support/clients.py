"""Clients and creates for tests: a throw-away key, no wait between two attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import httpx

from kling_async import AsyncKling, Generation, Hooks, RetryPolicy
from kling_async._http.session import Library

if TYPE_CHECKING:
    import httpx2

KEY = "sk-throw-away-0123456789"
BASE_URL = "https://kling.test"
PATH = "/v2/video/generations"
ID = "88a64d31-cce4-41e8-b9d8-5392e8c2a6d4:kling-video/v2/master/image-to-video"
QUEUED: Mapping[str, object] = {"id": ID, "status": "queued"}

MODEL = "klingai/v2-master-image-to-video"
IMAGE = "https://example.com/mona.jpg"
PROMPT = "Mona Lisa puts on glasses."

# A lost answer is told at once: what the vendor's log says of it is another matter.
SOON = RetryPolicy(initial=0, uncertain="raise")
ONCE = RetryPolicy(attempts=1, uncertain="raise")


def client(
    base_url: str = BASE_URL,
    *,
    retry: RetryPolicy = SOON,
    timeout: float = 60,
    hooks: Hooks | None = None,
    max_connections: int = 100,
    http_client: httpx.AsyncClient | httpx2.AsyncClient | None = None,
    allow_plain_http: bool = False,
    transport: Library = "httpx",
) -> AsyncKling:
    """Make a client."""
    return AsyncKling(
        KEY,
        base_url=base_url,
        retry=retry,
        timeout=timeout,
        hooks=hooks,
        max_connections=max_connections,
        http_client=http_client,
        allow_plain_http=allow_plain_http,
        transport=transport,
    )


def over(handler: Callable[[httpx.Request], object]) -> httpx.AsyncClient:
    """Give an httpx client whose requests go to a function, async or not."""
    return httpx.AsyncClient(transport=httpx.MockTransport(handler))  # type: ignore[arg-type]  # it takes both


async def create(kling: AsyncKling, request_id: str | None = None) -> Generation:
    """Ask for a video."""
    return await kling.create(
        model=MODEL, image_url=IMAGE, prompt=PROMPT, client_request_id=request_id
    )
