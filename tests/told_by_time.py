"""A stand-in API whose answers hang on the time alone, in process.

Nothing of the client is replaced but the network below httpx.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import httpx
from attrs import define, field

from kling_async import AsyncKling, Fixed, Polling, RetryPolicy
from kling_async._hooks import Hooks

BASE_URL = "http://kling.test"
ID = "88a64d31-cce4-41e8-b9d8-5392e8c2a6d4:kling-video/v2/master/image-to-video"
VIDEO = {"url": "https://cdn.example.com/output.mp4", "content_type": "video/mp4"}
ONCE = RetryPolicy(attempts=1)
EVERY_TEN = Fixed(10)

Told = httpx.Response | Exception | Mapping[str, object] | str
"""A status, a body, a whole answer, or how the network fails."""


def done(status: str = "completed") -> Mapping[str, object]:
    """Give a body with a video."""
    return {"status": status, "video": VIDEO}


@define(eq=False)
class Api:
    """Answers polls by the seconds since it was made.

    Attributes:
        life: What is told from when on, in order.
        latency: How long each answer takes, in seconds.
        polls: When each poll came.
        ids: Which generation each poll asked for.
    """

    life: Mapping[int, Told]
    latency: float = 0.0
    polls: list[float] = field(factory=list[float])
    ids: list[str] = field(factory=list[str])
    _since: float = field(factory=anyio.current_time)

    @property
    def now(self) -> float:
        """How old it is."""
        return anyio.current_time() - self._since

    def told_at(self, time: float) -> Told:
        """Give what is told at a time."""
        return [it for since, it in self.life.items() if since <= time][-1]

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a poll."""
        self.polls.append(round(self.now, 3))
        generation_id = request.url.params["generation_id"]
        self.ids.append(generation_id)
        if self.latency:
            await anyio.sleep(self.latency)
        told = self.told_at(self.now)
        if isinstance(told, Exception):
            raise told
        if isinstance(told, httpx.Response):
            return httpx.Response(
                told.status_code, content=told.content, headers=told.headers
            )
        body = {"status": told} if isinstance(told, str) else told
        return httpx.Response(200, json={"id": generation_id, **body})

    def client(
        self,
        *,
        polling: Polling = EVERY_TEN,
        retry: RetryPolicy = ONCE,
        hooks: Hooks | None = None,
        max_connections: int = 100,
        timeout: float = 60.0,
    ) -> AsyncKling:
        """Give a client of it, which tries nothing again before the next poll."""
        return AsyncKling(
            "some-key",
            base_url=BASE_URL,
            polling=polling,
            retry=retry,
            hooks=hooks,
            timeout=timeout,
            max_connections=max_connections,
            http_client=httpx.AsyncClient(
                transport=httpx.MockTransport(self.answer),
            ),
        )
