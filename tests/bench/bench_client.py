"""What a poll costs: this client beside bare httpx, aiohttp, and the vendor's loop.

All ask the same stub server in another process, in turns, in one run; the ratios
are the point. `--write FILE` puts the tables into a page of the documentation.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import gc
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import aiohttp
import httpx
import httpx_aiohttp
import requests
from attrs import frozen
from stub import GENERATION_ID, stub_server

from kling_async import AsyncKling, Fixed
from kling_async._connections import Library

PATH = "/v2/video/generations"
QUERY = {"generation_id": GENERATION_ID}
HEADERS = {"authorization": "Bearer some-key", "accept": "application/json"}
ROUNDS = 5
WATCHERS = (100, 5_000, 20_000)

Ask = Callable[[], Awaitable[object]]


async def rate(ask: Ask, *, at_once: int, polls: int) -> float:
    """Give polls per second of so many tasks that ask in a loop."""
    left = iter(range(polls))

    async def ask_on() -> None:
        for _ in left:
            await ask()

    started = time.perf_counter()
    await asyncio.gather(*(ask_on() for _ in range(at_once)))
    return polls / (time.perf_counter() - started)


def asking_httpx(client: httpx.AsyncClient) -> Ask:
    """Poll as a careful user of bare httpx does."""

    async def ask() -> object:
        answer = await client.get(PATH, params=QUERY, headers=HEADERS)
        answer.raise_for_status()
        return answer.json()

    return ask


def asking_aiohttp(session: aiohttp.ClientSession) -> Ask:
    """Poll as a careful user of aiohttp does."""

    async def ask() -> object:
        async with session.get(PATH, params=QUERY) as answer:
            answer.raise_for_status()
            return await answer.json()

    return ask


async def rates(url: str, at_once: int, polls: int) -> dict[str, list[float]]:
    """Measure each client in turns."""
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    pool = httpx_aiohttp.AiohttpTransport(limits=limits)
    connector = aiohttp.TCPConnector(limit=at_once)
    found: dict[str, list[float]] = {}
    async with (
        AsyncKling("some-key", base_url=url, max_connections=at_once) as kling,
        AsyncKling(
            "some-key", base_url=url, max_connections=at_once, transport="aiohttp"
        ) as kling_aiohttp,
        httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as plain,
        httpx.AsyncClient(base_url=url, transport=pool, timeout=60) as over_aiohttp,
        aiohttp.ClientSession(url, headers=HEADERS, connector=connector) as session,
    ):
        clients: dict[str, Ask] = {
            "bare httpx": asking_httpx(plain),
            "kling_async": lambda: kling.get(GENERATION_ID),
            "kling_async, aiohttp": lambda: kling_aiohttp.get(GENERATION_ID),
            "httpx over aiohttp": asking_httpx(over_aiohttp),
            "bare aiohttp": asking_aiohttp(session),
        }
        for _ in range(ROUNDS):
            for name, ask in clients.items():
                found.setdefault(name, []).append(
                    await rate(ask, at_once=at_once, polls=polls)
                )
    return found


def rate_in_threads(url: str, at_once: int, polls: int) -> float:
    """Give polls per second of the vendor's own way, a thread for each wait."""

    def ask(_: int) -> object:
        # Like the vendor's example: no session, a new connection each time.
        return requests.get(
            url + PATH, params=QUERY, headers=HEADERS, timeout=60
        ).json()

    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(ask, range(polls)))
    return polls / (time.perf_counter() - started)


def row(name: str, values: list[float], base: float) -> str:
    """Write one line of a table."""
    median = statistics.median(values)
    return f"| {name} | {median:,.0f} | {1e6 / median:,.0f} µs | {median / base:.2f} |"


def polls_table(url: str, at_once: int, polls: int) -> list[str]:
    """Measure and write one table of polls."""
    found = asyncio.run(rates(url, at_once, polls))
    found["requests in threads"] = [
        rate_in_threads(url, at_once, min(polls, 1000)) for _ in range(ROUNDS)
    ]
    base = statistics.median(found["bare httpx"])
    head = [
        f"### {at_once} at once",
        "",
        "| client | polls/s | wall time a poll | to bare httpx |",
        "| --- | --- | --- | --- |",
    ]
    return [*head, *(row(name, values, base) for name, values in found.items()), ""]


def resident() -> int:
    """Give the memory that this process has in use, in bytes."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize()


@frozen
class Waiting:
    """What many waiting watches cost: bytes for each, polls per second of the rest."""

    watchers: int
    each: float
    rate: float


async def waiting(url: str, watchers: int, transport: Library) -> Waiting:
    """Let so many watches wait; measure their memory, then `get` beside them."""
    async with AsyncKling(
        "some-key", base_url=url, polling=Fixed(3600), transport=transport
    ) as kling:
        await rate(lambda: kling.get(GENERATION_ID), at_once=100, polls=500)
        left = set(range(watchers))
        all_wait = asyncio.Event()

        async def watch(number: int) -> None:
            async for _ in kling.watch(f"{GENERATION_ID}:{number}", timeout=7200):
                left.remove(number)
                if not left:
                    all_wait.set()

        gc.collect()
        before = resident()
        tasks = [asyncio.create_task(watch(n)) for n in range(watchers)]
        await all_wait.wait()
        gc.collect()
        used = resident() - before
        polls = [
            await rate(lambda: kling.get(GENERATION_ID), at_once=100, polls=1000)
            for _ in range(ROUNDS)
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Waiting(watchers, used / watchers, statistics.median(polls))


def waiting_table(url: str) -> list[str]:
    """Measure and write the table of waiting watches."""
    head = [
        "| below | waiting | memory each | in all | polls/s beside them |",
        "| --- | --- | --- | --- | --- |",
    ]
    for transport in get_args(Library):
        for watchers in WATCHERS:
            it = asyncio.run(waiting(url, watchers, transport))
            head.append(
                f"| {transport} | {it.watchers:,} | {it.each / 1000:.1f} kB "
                f"| {it.each * it.watchers / 1e6:.0f} MB | {it.rate:,.0f} |"
            )
    return [*head, ""]


def seconds_to_import(statement: str) -> float:
    """Give what an import takes in a new interpreter, in seconds."""
    program = (
        "import time; start = time.perf_counter(); "
        f"{statement}; print(time.perf_counter() - start)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return float(finished.stdout)


def import_lines() -> list[str]:
    """Measure imports in turns."""
    ours, httpx_alone = "from kling_async import AsyncKling", "import httpx"
    turns = [
        (seconds_to_import(httpx_alone), seconds_to_import(ours)) for _ in "." * 15
    ]
    base, with_us = (statistics.median(column) for column in zip(*turns, strict=True))
    return [
        f"`{ours}` takes {with_us * 1000:.0f} ms,",
        f"`{httpx_alone}` alone {base * 1000:.0f} ms: {with_us / base:.2f} times.",
    ]


def report(url: str) -> list[str]:
    """Measure all, and write the page."""
    names = ("httpx", "aiohttp", "httpx-aiohttp", "anyio", "tenacity", "requests")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return [
        "# Benchmarks",
        "",
        f"Measured on {dt.datetime.now(dt.UTC):%Y-%m-%d}: {machine},",
        f"Python {platform.python_version()}, {versions}.",
        "Client and server have a core each; medians of five turns.",
        "`nox -s bench` measures again.",
        "",
        "## Polls",
        "",
        *polls_table(url, 1, 2000),
        *polls_table(url, 100, 3000),
        "## Watches that wait",
        "",
        "Each of another generation; beside them `get` asks over 100 connections.",
        "",
        *waiting_table(url),
        "## Import",
        "",
        *import_lines(),
    ]


def main() -> None:
    """Measure, print, and write where told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with stub_server() as url:
        page = "\n".join(report(url)) + "\n"
    print(page)
    if options.write:
        options.write.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
