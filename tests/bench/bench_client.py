"""What a poll costs: this client beside bare httpx, aiohttp, and the vendor's loop.

All ask the same stub server in another process, in turns, in one run; the ratios
are the point. `--write FILE` puts the tables into a page of the documentation.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import gc
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import aiohttp
import cpu_per_poll
import httpx
import requests
from attrs import frozen
from stub import GENERATION_ID, stub_server

from kling_async import AsyncKling, Fixed, Hooks, WaitTimeoutError
from kling_async._http.session import Library
from kling_async._polling.schedules import PollState

PATH = "/v2/video/generations"
QUERY = {"generation_id": GENERATION_ID}
HEADERS = {"authorization": "Bearer some-key", "accept": "application/json"}
ROUNDS = 3
MANY = 20_000
AT_ONCE = (1, 100, MANY)  # and how many polls are counted of so many at once
POLLS = {1: 300, 100: 2_000, MANY: 20_000}
WATCHERS = (100, MANY)
LIBRARIES: tuple[Library, ...] = ("httpx", "aiohttp")

ABOUT_POLLS = """\
Each row is a `get`. Bare httpx and aiohttp check the status and read the JSON, no more:
no retry, no limit on the total time. "requests in threads" is the loop of the vendor's
page, in a thread for each wait."""
ABOUT_CPU = """\
httpx parses the URL again for each request, which is about half of the cost of making
one: test tools and tracers read it there."""
ABOUT_WAITING = """\
The server answers a hundred requests at once, and all hundred are then repeated:
objects come and go by the thousand. Python's garbage collector then often walks over
all waiting watches, which makes polls more expensive. It belongs to the whole process,
so this library does not change it: [](how-to/web-app.md) says what to do."""
ABOUT_WATCHED = """\
Each watches another generation, and together they want more polls than a hundred
connections can carry, so polls wait. The server answers after 10 to 30 ms. Bare
aiohttp polls the same server in the same process, just before, at most a hundred at
once. A stall is how late the event loop came round, from the first watch on."""
ABOUT_STORM = """\
The server accepts 20 a second, and answers the others with 429 and `Retry-After: 1`."""

Ask = Callable[[], Awaitable[object]]


@frozen
class Rate:
    """How fast so many polls went: in a second, and the CPU of each, in µs."""

    polls: float
    cpu: float


async def rate(ask: Ask, *, at_once: int, polls: int) -> Rate:
    """Let so many tasks ask in a loop."""
    left = iter(range(polls))

    async def ask_on() -> None:
        for _ in left:
            await ask()

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask_on() for _ in range(at_once)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Rate(polls / seconds, cpu / polls * 1e6)


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


async def rates(url: str, at_once: int, polls: int) -> dict[str, list[Rate]]:
    """Measure each client in turns."""
    most = min(at_once, 100)
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    connector = aiohttp.TCPConnector(limit=most)
    found: dict[str, list[Rate]] = {}
    async with (
        AsyncKling("some-key", base_url=url, max_connections=most) as kling,
        AsyncKling(
            "some-key", base_url=url, max_connections=most, transport="aiohttp"
        ) as kling_aiohttp,
        AsyncKling(
            "some-key", base_url=url, max_connections=most, transport="httpx2"
        ) as kling_httpx2,
        httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as plain,
        aiohttp.ClientSession(url, headers=HEADERS, connector=connector) as session,
    ):
        clients: dict[str, Ask] = {
            "bare aiohttp": asking_aiohttp(session),
            "kling_async, aiohttp": lambda: kling_aiohttp.get(GENERATION_ID),
            "kling_async": lambda: kling.get(GENERATION_ID),
            "kling_async, httpx2": lambda: kling_httpx2.get(GENERATION_ID),
        }
        if at_once < MANY:  # where it does not end
            clients["bare httpx"] = asking_httpx(plain)
        for _ in range(1 if at_once == MANY else ROUNDS):
            for name, ask in clients.items():
                found.setdefault(name, []).append(
                    await rate(ask, at_once=at_once, polls=polls)
                )
    return found


def rate_in_threads(url: str, at_once: int, polls: int) -> Rate:
    """Ask in the vendor's own way, in a thread for each wait."""

    def ask(_: int) -> object:
        # Like the vendor's example: no session, a new connection each time.
        return requests.get(
            url + PATH, params=QUERY, headers=HEADERS, timeout=60
        ).json()

    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(ask, range(polls)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Rate(polls / seconds, cpu / polls * 1e6)


def polls_table(url: str) -> list[str]:
    """Measure all clients at each number at once, and write the one table."""
    cells = dict[str, list[str]]()
    for at_once in AT_ONCE:
        found = asyncio.run(rates(url, at_once, POLLS[at_once]))
        if at_once == 100:
            found["requests in threads"] = [
                rate_in_threads(url, at_once, 300) for _ in found["bare aiohttp"]
            ]
        for name, each in found.items():
            cpu = statistics.median(it.cpu for it in each)
            pairs = zip(each, found["bare aiohttp"], strict=True)
            ratio = statistics.median(it.cpu / bare.cpu for it, bare in pairs)
            row = cells.setdefault(name, [])
            row += ["", ""] * (AT_ONCE.index(at_once) - len(row) // 2)
            row += [f"{cpu:,.0f} µs", f"{ratio:.2f}"]
    head = " | ".join(f"{it:,} at once: CPU each | to bare aiohttp" for it in AT_ONCE)
    width = 2 * len(AT_ONCE)
    return [
        f"| client | {head} |",
        "| --- " * (width + 1) + "|",
        *(
            f"| {name} | {' | '.join(row + [''] * (width - len(row)))} |"
            for name, row in cells.items()
        ),
        "",
    ]


def resident() -> int:
    """Give the memory that this process has in use, in bytes."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize()


@frozen
class Waiting:
    """Many waiting watches: bytes for each; CPU of a poll beside them, in µs."""

    watchers: int
    each: float
    cpu: float
    cpu_tuned: float


async def waiting(url: str, watchers: int, transport: Library) -> Waiting:
    """Let so many watches wait; measure their memory, then `get` beside them."""
    async with AsyncKling(
        "some-key", base_url=url, polling=Fixed(3600), transport=transport
    ) as kling:
        left = set(range(watchers))
        all_wait = asyncio.Event()

        async def watch(number: int) -> None:
            async for _ in kling.watch(f"{GENERATION_ID}:{number}", timeout=7200):
                left.discard(number)
                if not left:
                    all_wait.set()

        async def cost() -> float:
            """Measure long enough for some full garbage collections."""
            polls = await rate(
                lambda: kling.get(GENERATION_ID), at_once=100, polls=4_000
            )
            return polls.cpu

        await rate(lambda: kling.get(GENERATION_ID), at_once=100, polls=500)
        gc.collect()
        before = resident()
        tasks = [asyncio.create_task(watch(n)) for n in range(watchers)]
        await all_wait.wait()
        gc.collect()
        used = resident() - before
        plain, thresholds = await cost(), gc.get_threshold()
        gc.set_threshold(50_000)
        tuned = await cost()
        gc.set_threshold(*thresholds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Waiting(watchers, used / watchers, plain, tuned)


def waiting_table(url: str) -> list[str]:
    """Measure and write the table of waiting watches."""
    tuned = "| with `gc.set_threshold(50_000)` | to the first |"
    head = [
        f"| below | waiting | memory each | in all | CPU a poll | to the first {tuned}",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for transport in LIBRARIES:
        all_of_it = [in_new_process(run_waiting, url, n, transport) for n in WATCHERS]
        first = all_of_it[0]
        head += [
            f"| {transport} | {it.watchers:,} | {max(it.each, 0) / 1000:.1f} kB "
            f"| {max(it.each, 0) * it.watchers / 1e6:.0f} MB "
            f"| {it.cpu:,.0f} µs | {it.cpu / first.cpu:.2f} "
            f"| {it.cpu_tuned:,.0f} µs | {it.cpu_tuned / first.cpu_tuned:.2f} |"
            for it in all_of_it
        ]
    return [*head, ""]


T = TypeVar("T")


def in_new_process(
    work: Callable[[str, int, Library], T], url: str, watchers: int, transport: Library
) -> T:
    """Measure where no earlier measurement has left memory to use again."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, url, watchers, transport).result()


def run_waiting(url: str, watchers: int, transport: Library) -> Waiting:
    """Measure in this process."""
    return asyncio.run(waiting(url, watchers, transport))


class Counting:
    """A schedule that wants more polls than there can be, and counts them."""

    def __init__(self, watchers: int) -> None:
        """Begin to count."""
        self.seconds = watchers / 20_000
        self.polls = 0

    def delay(self, _: PollState, /) -> float:
        """Be asked after each poll."""
        self.polls += 1
        return self.seconds

    async def reach(self, polls: int) -> None:
        """Wait until there have been so many."""
        while self.polls < polls:  # noqa: ASYNC110 (no event at each poll)
            await asyncio.sleep(0.02)


@frozen
class Watched:
    """How so many watches poll.

    Attributes:
        cpu: The CPU of each poll, in µs.
        ratio: To that of bare aiohttp.
        collecting: What of it the garbage collector takes, in µs.
        stall: The longest stall of the loop, in seconds.
    """

    cpu: float
    ratio: float
    collecting: float
    stall: float


class Lag:
    """How much later than it should the loop comes round, at worst."""

    def __init__(self) -> None:
        """Begin to look."""
        self.worst = 0.0
        self.task = asyncio.create_task(self.look())

    async def look(self) -> None:
        """Look every hundredth of a second."""
        while True:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            self.worst = max(self.worst, time.perf_counter() - due)


class Collecting:
    """How long the garbage collector has taken, in seconds."""

    def __init__(self) -> None:
        """Begin to count."""
        self.seconds = self.began = 0.0
        gc.callbacks.append(self.note)

    def note(self, phase: str, _: dict[str, int]) -> None:
        """Be told of its start and its stop."""
        if phase == "start":
            self.began = time.process_time()
        else:
            self.seconds += time.process_time() - self.began


async def watched(url: str, watchers: int, transport: Library) -> Watched:
    """Let so many watches poll as fast as they can."""
    counting, polls = Counting(watchers), POLLS[watchers] // 2
    connector = aiohttp.TCPConnector(limit=min(watchers, 100))
    async with aiohttp.ClientSession(
        url, headers=HEADERS, connector=connector
    ) as session:
        ask, at_once = asking_aiohttp(session), min(watchers, 100)
        await rate(ask, at_once=at_once, polls=at_once)
        bare = await rate(ask, at_once=at_once, polls=min(polls, 2000))
    async with AsyncKling(
        "some-key", base_url=url, polling=counting, transport=transport
    ) as kling:

        async def watch(number: int) -> None:
            async for _ in kling.watch(f"{GENERATION_ID}:{number}", timeout=7200):
                pass

        lag = Lag()
        tasks = [asyncio.create_task(watch(n)) for n in range(watchers)]
        await counting.reach(watchers + 100)
        before, collecting = counting.polls, Collecting()
        cpu = time.process_time()
        await counting.reach(before + polls)
        each = 1e6 / (counting.polls - before)
        cpu = (time.process_time() - cpu) * each
        # Read before the end: to free thousands of tasks is work for the collector.
        measured = Watched(cpu, cpu / bare.cpu, collecting.seconds * each, lag.worst)
        for task in (*tasks, lag.task):
            task.cancel()
        await asyncio.gather(*tasks, lag.task, return_exceptions=True)
    return measured


def run_watched(url: str, watchers: int, transport: Library) -> Watched:
    """Measure in this process."""
    return asyncio.run(watched(url, watchers, transport))


async def stall_of_tasks() -> float:
    """Give how long the loop stalls when so many tasks begin that only sleep."""
    lag = Lag()
    tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(MANY)]
    await asyncio.sleep(0.1)
    for task in (*tasks, lag.task):
        task.cancel()
    await asyncio.gather(*tasks, lag.task, return_exceptions=True)
    return lag.worst


def watched_table() -> list[str]:
    """Measure and write the table of watches that poll."""
    table = [
        "| below | watching | CPU a poll | to bare aiohttp | GC of it | worst stall |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with stub_server(latency=0.02) as url:
        for transport in LIBRARIES:
            for watchers in AT_ONCE:
                it = in_new_process(run_watched, url, watchers, transport)
                table.append(
                    f"| {transport} | {watchers:,} | {it.cpu:,.0f} µs "
                    f"| {it.ratio:.2f} | {it.collecting:,.0f} µs "
                    f"| {it.stall * 1000:,.0f} ms |"
                )
    bare = asyncio.run(stall_of_tasks())
    return [
        *table,
        "",
        f"{MANY:,} tasks that only sleep stall it for {bare * 1000:,.0f} ms when all",
        "begin at once: that is asyncio's own work, and the garbage collector's.",
        "",
    ]


async def storm() -> tuple[int, int, float]:
    """Create 300 at once against 20 a second; count who fails and what is refused."""
    taken, refused = list[float](), 0

    async def serve(_: httpx.Request) -> httpx.Response:
        nonlocal refused
        await asyncio.sleep(0.05)
        now = time.perf_counter()
        if sum(it > now - 1 for it in taken[-20:]) >= 20:
            refused += 1
            return httpx.Response(429, headers={"retry-after": "1"}, json={})
        taken.append(now)
        return httpx.Response(201, json={"id": f"g-{len(taken)}", "status": "queued"})

    started = time.perf_counter()
    model = "klingai/v2-master-text-to-video"
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(serve)) as http,
        AsyncKling("some-key", http_client=http) as kling,
    ):
        creates = (kling.create(model=model, prompt="A boat.") for _ in range(300))
        ended = await asyncio.gather(*creates, return_exceptions=True)
    failed = sum(isinstance(it, BaseException) for it in ended)
    return failed, refused, time.perf_counter() - started


def storm_table() -> list[str]:
    """Measure and write what becomes of too many creates at once."""
    failed, refused, seconds = asyncio.run(storm())
    return [
        "| creates at once | failed | refused on the way | seconds |",
        "| --- | --- | --- | --- |",
        f"| 300 | {failed} | {refused} | {seconds:.0f} |",
        "",
    ]


async def polls_of_one(url: str, watchers: int) -> int:
    """Count the polls of one generation in two seconds, by so many watchers."""
    polls = 0

    def count(_: object) -> None:
        nonlocal polls
        polls += 1

    async with AsyncKling(
        "some-key",
        base_url=url,
        polling=Fixed(0.1),
        hooks=Hooks(on_request=count),
    ) as kling:

        async def watch() -> None:
            with contextlib.suppress(WaitTimeoutError):
                await kling.wait(GENERATION_ID, timeout=2)

        await asyncio.gather(*(watch() for _ in range(watchers)))
    return polls


def shared_lines(url: str) -> list[str]:
    """Measure and write what watchers of one generation share."""
    one, many = (asyncio.run(polls_of_one(url, n)) for n in (1, 1000))
    return [
        f"In two seconds of polls 0.1 s apart, one watcher made {one} polls of a",
        f"generation, and 1,000 watchers of one generation {many} together.",
        "",
    ]


def seconds_to_import(statement: str, bytecode: str) -> float:
    """Give the CPU that an import takes in a new interpreter, in seconds.

    Python keeps what it has compiled, in a folder that is given here.
    """
    program = (
        "import time; start = time.process_time(); "
        f"{statement}; print(time.process_time() - start)"
    )
    kept = {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | kept,
    )
    return float(finished.stdout)


def import_lines() -> list[str]:
    """Measure imports in turns, the first of which only compiles."""
    alone, *ours = (
        "import httpx",
        "import kling_async",
        "from kling_async import AsyncKling",
    )
    with tempfile.TemporaryDirectory() as bytecode:
        _, *turns = [
            [seconds_to_import(it, bytecode) for it in (alone, *ours)]
            for _ in range(10)
        ]
    base = statistics.median(turn[0] for turn in turns)
    lines = [f"`{alone}` takes {base * 1000:.0f} ms of CPU."]
    for column, statement in enumerate(ours, start=1):
        ratio = statistics.median(turn[column] / turn[0] for turn in turns)
        lines.append(f"`{statement}` takes {ratio:.2f} times as much.")
    return lines


def report(url: str) -> list[str]:
    """Measure all, and write the page."""
    names = ("httpx", "httpx2", "aiohttp", "anyio", "tenacity", "requests")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = f"{os.getloadavg()[0]:.1f} (1-minute load average at the start)"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {load}"
    return [
        "# Benchmarks",
        "",
        f"Measured on {dt.datetime.now(dt.UTC):%Y-%m-%d}: {machine},",
        f"Python {platform.python_version()}, {versions}.",
        "Client and server have a core each; medians of three turns, one where 20,000",
        "ask, and of one of watches. Ratios are taken within a turn.",
        "`nox -s bench` measures again and writes this page.",
        "",
        "## Polls",
        "",
        *polls_table(url),
        ABOUT_POLLS,
        "",
        "## Where the CPU of a poll goes",
        "",
        *asyncio.run(cpu_per_poll.lines(url)),
        ABOUT_CPU,
        "",
        "## Watches that wait",
        "",
        "Each of another generation; beside them `get` asks, 100 at once.",
        "",
        *waiting_table(url),
        ABOUT_WAITING,
        "",
        "## Watches that poll",
        "",
        ABOUT_WATCHED,
        "",
        *watched_table(),
        *shared_lines(url),
        "## Creates under a rate limit",
        "",
        *storm_table(),
        ABOUT_STORM,
        "",
        "## Import",
        "",
        *import_lines(),
        "",
        "## The emulator",
        "",
        *emulator_lines(),
    ]


def emulator_lines() -> list[str]:
    """Measure the emulator, in processes of its own."""
    program = Path(__file__).with_name("bench_emulator.py")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # it takes two cores again
    finished = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=True
    )
    return [textwrap.fill(finished.stdout.strip(), 88)]


def main() -> None:
    """Measure, print, and write where told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    with stub_server() as url:
        os.sched_setaffinity(0, {min(cores)})
        page = "\n".join(report(url)) + "\n"
    print(page)
    if options.write:
        options.write.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
