"""Where the CPU of a poll goes: each of our own parts timed alone, no profiler.

What is left of a whole `get` on a socket is the HTTP library's and the system's.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import httpx
from attrs import frozen
from stub import BODY, GENERATION_ID, stub_server

from kling_async import AsyncKling
from kling_async._http.library import library_named
from kling_async._http.sender import TransportSender
from kling_async._http.session import Exchange
from kling_async._http.wire import Response, decode_polled
from kling_async._runtime.limiter import Kind

ROUNDS, TIMES = 7, 1500
HEADERS = httpx.Headers({"content-type": "application/json"})


@frozen
class Echo(httpx.AsyncBaseTransport):
    """Answers at once, without a socket."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Give the stub's answer."""
        stream = httpx.ByteStream(BODY)
        return httpx.Response(200, headers=HEADERS, stream=stream, request=request)


async def cpu_of(work: Callable[[], Awaitable[object]]) -> float:
    """Give the CPU that one call takes, in microseconds: the median of rounds."""
    rounds: list[float] = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(TIMES):
            await work()
        rounds.append((time.process_time() - started) / TIMES * 1e6)
    return statistics.median(rounds)


async def parts() -> dict[str, float]:
    """Time each of our own parts alone."""
    async with AsyncKling("some-key", base_url="http://127.0.0.1") as kling:
        transport = kling._transport()  # pyright: ignore[reportPrivateUsage]
        session = transport.connections.current_session()
        session.http = http = TransportSender(Echo(), library_named("httpx"), "bench")

        async def take_slot() -> None:
            (await session.limiter.acquire(Kind.POLL)).release()

        async def guard() -> None:
            with Exchange(session, session.loop.time() + 60):
                await _nothing()

        async def send() -> None:
            call = transport.call("GET", 60, query="?id=1")
            with await session.limiter.acquire(Kind.POLL) as slot:
                response = await http.send(call, slot)
                await response.aclose()

        async def decode() -> None:
            answer = Response(status_code=200, headers=HEADERS, content=BODY)
            decode_polled(answer, GENERATION_ID)

        return {
            "all of them": await cpu_of(lambda: kling.get(GENERATION_ID)),
            "making the request, wrapping the answer": await cpu_of(send),
            "reading the JSON": await cpu_of(decode),
            "the bound on the whole": await cpu_of(guard),
            "a slot": await cpu_of(take_slot),
        }


async def _nothing() -> None:
    """Do it."""


async def lines(url: str) -> list[str]:
    """Measure, and write a table."""
    written = [
        "| part of a poll, one at a time | CPU |",
        "| --- | --- |",
    ]
    for library in ("httpx", "aiohttp"):
        async with AsyncKling("some-key", base_url=url, transport=library) as kling:
            whole = await cpu_of(lambda it=kling: it.get(GENERATION_ID))  # type: ignore[misc]  # bound now
        written.append(f"| the whole on a socket, over {library} | {whole:.0f} µs |")
    for name, cpu in (await parts()).items():
        indent = "our own parts: " if name == "all of them" else "of these, "
        written.append(f"| {indent}{name} | {cpu:.1f} µs |")
    return [*written, ""]


if __name__ == "__main__":
    with stub_server() as stub_url:
        print("\n".join(asyncio.run(lines(stub_url))))
