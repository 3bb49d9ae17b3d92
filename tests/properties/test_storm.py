"""A storm of callers who leave at any moment, and the requests that come after it.

Httpcore's pool does not survive it (encode/httpcore issue 1093); our slots have to. A
caller who leaves tears the exchange, which costs one connection and no more.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable

import anyio
import httpx
import pytest
from clients import ID, KEY, QUEUED
from raw_server import Peer, RawRequest, RawServer, answer

from kling_async import AsyncKling, Hooks, RetryPolicy

IS_SOAK = "KLING_SOAK" in os.environ
CALLERS, CONNECTIONS = 20, 10
CALLS = 250 if IS_SOAK else 25  # of each caller
SOONEST, LATEST = 0.0005, 0.05  # when a caller leaves, in seconds


async def slowly(_: RawRequest, peer: Peer) -> None:
    """Answer about when callers leave."""
    await asyncio.sleep(random.uniform(0, LATEST / 2))
    await peer.send(answer(QUEUED))


async def storm(call: Callable[[], Awaitable[object]]) -> int:
    """Call from twenty tasks, each time with another deadline; count who left."""
    chance, left = random.Random(1093), 0

    async def caller() -> None:
        nonlocal left
        for _ in range(CALLS):
            with anyio.move_on_after(chance.uniform(SOONEST, LATEST)) as scope:
                await call()
            left += scope.cancelled_caught

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return left


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
async def test_callers_who_leave_at_any_moment_leave_slots_that_serve(
    transport: str,
) -> None:
    """Three times as many requests as there are connections are served afterwards.

    Each exchange that was torn cost one connection at most, and that is closed.
    """
    told = 0

    def count(_: object) -> None:
        nonlocal told
        told += 1

    async with RawServer(slowly) as server:
        async with AsyncKling(
            KEY,
            base_url=server.base_url,
            max_connections=CONNECTIONS,
            transport=transport,  # type: ignore[arg-type]  # one of the two
            retry=RetryPolicy(attempts=1),
            hooks=Hooks(on_request=count),
        ) as kling:
            await kling.get(ID)  # what is loaded at the first request is there
            left = await storm(lambda: kling.get(ID))
            with anyio.fail_after(300):
                served = await asyncio.gather(
                    *(kling.get(ID) for _ in range(3 * CONNECTIONS))
                )
                while server.open > CONNECTIONS:  # noqa: ASYNC110 (it reads the end later)
                    await asyncio.sleep(0.01)
            assert len(served) == 3 * CONNECTIONS
            assert told <= len(server.requests) <= told + left
            assert server.accepted <= CONNECTIONS + left
        await server.until_idle()


@pytest.mark.skipif(not IS_SOAK, reason="it takes its time: nox -s soak")
async def test_the_pool_of_httpx_alone_does_not_survive() -> None:
    """What the test above is worth: the same storm leaves plain httpx without."""
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with (
        RawServer(slowly) as server,
        httpx.AsyncClient(limits=limits, timeout=5) as plain,
    ):
        await storm(lambda: plain.get(server.base_url))
        with pytest.raises(httpx.PoolTimeout):
            await asyncio.gather(
                *(plain.get(server.base_url) for _ in range(3 * CONNECTIONS))
            )
