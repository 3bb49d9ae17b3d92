"""A stand-in API whose answers hang on the time alone, in process.

Nothing of the client is replaced but the network below httpx.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import httpx
from attrs import define, field

from kling_async import AsyncKling, Fixed, Hooks, Polling, RetryPolicy

BASE_URL = "https://kling.test"
ID = "88a64d31-cce4-41e8-b9d8-5392e8c2a6d4:kling-video/v2/master/image-to-video"
VIDEO = {"url": "https://cdn.example.com/output.mp4", "content_type": "video/mp4"}
ONCE = RetryPolicy(attempts=1)
EVERY_TEN = Fixed(10)

Told = httpx.Response | Exception | Mapping[str, object] | str
"""A whole answer, how the network fails, a body, or only a status."""

Life = Mapping[int, Told]
"""What is told from which age on, in order."""


def done(status: str = "completed") -> Mapping[str, object]:
    """Give a body with a video."""
    return {"status": status, "video": VIDEO}


@define(eq=False)
class Api:
    """Answers polls by the age of the generation; accepts creates.

    Attributes:
        life: What is told of a generation. One that was not created here is as
            old as the API.
        latency: How long each answer takes, in seconds.
        lives: What is told of some of those created here, by number from 0.
        refusals: What is answered to some of the creates, by number from 0.
        polls: When each poll came.
        ids: Which generation each poll asked for.
        creates: When each create came.
    """

    life: Life
    latency: float = 0.0
    lives: Mapping[int, Life] = field(factory=dict[int, Life])
    refusals: Mapping[int, Told] = field(factory=dict[int, Told])
    polls: list[float] = field(factory=list[float])
    ids: list[str] = field(factory=list[str])
    creates: list[float] = field(factory=list[float])
    _since: float = field(factory=anyio.current_time)

    @property
    def now(self) -> float:
        """How old it is."""
        return anyio.current_time() - self._since

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a create or a poll."""
        if request.method == "POST":
            number = len(self.creates)
            self.creates.append(round(self.now, 3))
            await anyio.sleep(self.latency)
            told = self.refusals.get(number, {"id": f"g-{number}", "status": "queued"})
            return _answer(told)
        generation_id = request.url.params["generation_id"]
        self.polls.append(round(self.now, 3))
        self.ids.append(generation_id)
        await anyio.sleep(self.latency)
        return _answer(self._told_of(generation_id))

    def _told_of(self, generation_id: str) -> Told:
        life, age = self.life, self.now
        if generation_id.startswith("g-"):
            number = int(generation_id.removeprefix("g-"))
            life = self.lives.get(number, life)
            age -= self.creates[number] + self.latency
        told = [it for since, it in life.items() if since <= age + 1e-3][-1]
        if isinstance(told, str):
            told = {"status": told}
        return {"id": generation_id, **told} if isinstance(told, Mapping) else told

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


def _answer(told: Told) -> httpx.Response:
    if isinstance(told, Exception):
        raise told
    if isinstance(told, httpx.Response):
        return httpx.Response(
            told.status_code, content=told.content, headers=told.headers
        )
    return httpx.Response(200, json=told)
