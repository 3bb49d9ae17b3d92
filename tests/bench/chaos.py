"""Chaos: thousands of generations at once, a fifth of all answers faulty, an outage.

Each caller does what a careful program does: it goes on with the id that an error
carries, and creates again only what certainly was not created. At the end the
vendor's books are compared with what the callers hold. On a clock that jumps the
emulator is in this process; `--real` puts it into another, behind sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import datetime as dt
import functools
import gc
import json
import logging
import math
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from unittest.mock import patch

import anyio
import httpx
import looptime
from attrs import define, evolve, field, frozen
from chaos_figures import Figures, open_files, write

from kling_async import (
    AsyncKling,
    Completion,
    Generation,
    Hooks,
    KlingError,
    Learned,
    RequestEvent,
    RetryEvent,
    RetryPolicy,
    SubmissionUncertainError,
    TextToVideo,
    UncertainEvent,
)
from kling_async._http.sender import TransportSender
from kling_async._http.session import Connections
from kling_async.emulator import Emulator, Fault

MODEL = "klingai/v2-master-text-to-video"
KEY = "any-key"
TIMEOUT = 10.0
TOO_LATE = 3 * TIMEOUT
CONNECTIONS = 200
LONGEST = 2 * 3600.0
AGAIN = 10.0  # how long a caller waits after an error, in seconds

# What goes wrong with answers of any kind: the work is done, or the question is one.
SPOILT = (
    Fault("delay", seconds=2, name="late"),
    Fault("delay", seconds=TOO_LATE, name="too late"),
    Fault("stall", seconds=TOO_LATE),
    Fault("cut"),
    Fault("truncate"),
    Fault("html", status=200, accepted=True, name="a page, 200"),
    Fault("wrong_shape"),
    Fault("wrong_type"),
    Fault("wrong_id"),
    Fault("bad_utf8"),
    Fault("bad_gzip"),
    Fault("deep"),
    Fault("trickle", seconds=1),
    Fault("status", status=303, headers={"location": "/"}, accepted=True),
    *(
        Fault("status", status=status, accepted=True, name=f"{status}, yet done")
        for status in (408, 500, 504)
    ),
    Fault("html", status=502, accepted=True, name="a page, 502, yet done"),
    Fault("reset", accepted=True, name="reset, yet done"),
    Fault("close", accepted=True, name="closed, yet done"),
)
# What goes wrong before anything is done.
TURNED_AWAY = (
    Fault("status", status=429, name="429"),
    Fault("status", status=429, headers={"retry-after": "3"}, name="429, come later"),
    Fault("status", status=500),
    Fault("status", status=503, headers={"retry-after": "2"}),
    Fault("reset"),
    Fault("close"),
)
SILENCE = Fault("delay", seconds=10 * TIMEOUT, name="outage, silence")
KINDS = (*SPOILT, *TURNED_AWAY)


@frozen(kw_only=True)
class Storm:
    """What the weather is like.

    Attributes:
        generations: How many are wanted, all at once.
        faulty: The share of all answers that are faulty.
        outage: From when to when nothing works, in seconds: nobody answers for the
            most part of it, then it is told that the service is down.
        speed: How many times faster than the vendor generations are.
        seed: What chance starts from.
    """

    generations: int = 5000
    faulty: float = 0.2
    outage: tuple[float, float] = (45, 165)
    speed: float = 1
    seed: int = 0

    @property
    def rate_limit(self) -> int:
        """How many requests a minute the vendor takes: about one for each."""
        return max(1, round(self.generations * self.speed))

    def faults(self) -> list[Fault]:
        """Give the rules: the outage first, then each kind as likely as the others."""
        start, end = self.outage
        turn = end - (end - start) / 6
        outage = [
            evolve(SILENCE, starts_after=start, ends_after=turn),
            Fault("status", starts_after=turn, ends_after=end, name="outage, 503"),
        ]
        each = 1 - (1 - self.faulty) ** (1 / len(KINDS))
        kinds = [
            evolve(kind, probability=each, name=kind.name or kind_name(kind))
            for kind in KINDS
        ]
        return [*outage, *kinds]

    def schedule(self) -> Learned:
        """Give a schedule that has seen the model before, but not this storm."""
        learned = Learned()
        chance = random.Random(self.seed)
        for _ in range(64):
            took = 345 * math.exp(chance.gauss(0, 0.12)) / self.speed
            learned.observe(
                Completion(model=MODEL, video_length=5, after=took - 4, by=took)
            )
        return learned


def kind_name(fault: Fault) -> str:
    """Name a kind of fault."""
    return str(fault.status) if fault.status else fault.effect


@define(eq=False)
class Callers:
    """All who want a video, and what they hold in the end."""

    kling: AsyncKling
    figures: Figures
    held: dict[int, Generation] = field(factory=dict[int, Generation])

    async def all_served(self) -> None:
        """Let so many want one at once; return when each has it."""
        async with anyio.create_task_group() as tasks:
            for number in range(self.figures.generations):
                tasks.start_soon(self._one, number)

    async def _one(self, number: int) -> None:
        started = await self._created(f"chaos-{number}")
        while not started.is_terminal:
            try:
                started = await self.kling.wait(started)
            except KlingError as error:
                self.figures.errors_to_callers += 1
                if error.generation_id != started.id:
                    raise
                started = error.generation or started
                await anyio.sleep(AGAIN)
        self.held[number] = started

    async def _created(self, name: str) -> Generation:
        request = TextToVideo(model=MODEL, prompt="A paper boat.", duration=5)
        while True:
            try:
                return await self.kling.create(request, client_request_id=name)
            except SubmissionUncertainError as error:
                self.figures.uncertain += 1
                if (found := await self._looked_up(error)) is not None:
                    self.figures.found_by_hand += 1
                    return found
            except KlingError:  # certainly not created
                self.figures.errors_to_callers += 1
                await anyio.sleep(AGAIN)

    async def _looked_up(self, lost: SubmissionUncertainError) -> Generation | None:
        """Ask the vendor's log, until it can be read."""
        while True:
            try:
                return await self.kling.reconcile(
                    lost.client_request_id or "", since=lost.since, timeout=60
                )
            except KlingError:
                self.figures.errors_to_callers += 1
                await anyio.sleep(AGAIN)


def hooks_into(figures: Figures) -> Hooks:
    """Count what the client tells."""

    def on_request(event: RequestEvent) -> None:
        figures.requests += 1
        figures.polls += "generation_id=" in event.url
        figures.log_reads += "/logs" in event.url

    def on_retry(_: RetryEvent) -> None:
        figures.retries += 1

    def on_uncertain(event: UncertainEvent) -> None:
        figures.answers_to_creates_lost += event.outcome == "lost"
        figures.reconciled += event.outcome == "found"

    return Hooks(on_request=on_request, on_retry=on_retry, on_uncertain=on_uncertain)


async def run(
    storm: Storm, base_url: str, transport: httpx.AsyncBaseTransport | None = None
) -> Figures:
    """Set the faults, let the callers have their videos, compare with the books."""
    figures = Figures(generations=storm.generations)
    tasks_before, open_before = len(asyncio.all_tasks()), open_files()
    wall, turned = time.perf_counter(), anyio.current_time()
    async with contextlib.AsyncExitStack() as stack:
        admin = await stack.enter_async_context(
            httpx.AsyncClient(base_url=base_url, transport=transport, timeout=60)
        )
        rules = [fault.to_json() for fault in storm.faults()]
        (await admin.post("/_emulator/faults", json=rules)).raise_for_status()
        callers = await serve_all(storm, figures, base_url, transport)
        figures.turned_seconds = anyio.current_time() - turned
        figures.wall_seconds = time.perf_counter() - wall
        await compare(callers, admin)
    figures.leaked_tasks = len(asyncio.all_tasks()) - tasks_before
    del callers
    gc.collect()
    leaked = open_files() - open_before
    figures.leaked_sockets = sum("socket" in it for it in leaked.elements())
    figures.leaked_files = leaked.total() - figures.leaked_sockets
    return figures


async def serve_all(
    storm: Storm,
    figures: Figures,
    base_url: str,
    transport: httpx.AsyncBaseTransport | None,
) -> Callers:
    """Give each caller its video, with one client, and close it."""
    routes: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if transport is not None:  # the client's own way, up to where a socket would be
        routes = patch.object(
            Connections,
            "_new_sender",
            lambda _, library, __: TransportSender(transport, library, "chaos"),
        )
    with routes:
        async with AsyncKling(
            KEY,
            base_url=base_url,
            timeout=TIMEOUT,
            polling=storm.schedule(),
            retry=RetryPolicy(),
            max_connections=CONNECTIONS,
            hooks=hooks_into(figures),
        ) as kling:
            callers = Callers(kling, figures)
            with anyio.move_on_after(LONGEST):  # who has no video by then, has lost it
                await callers.all_served()
    return callers


async def compare(callers: Callers, admin: httpx.AsyncClient) -> None:
    """Hold what the callers have against the vendor's books."""
    figures = callers.figures

    async def books(name: str) -> list[dict[str, object]]:
        answer = await admin.get(f"/_emulator/{name}")
        found: list[dict[str, object]] = answer.json()[name]
        return found

    creates, charges = await books("creates"), await books("charges")
    by_caller = collections.Counter(it["client_request_id"] for it in creates)
    held = {it.id for it in callers.held.values()}
    figures.created, figures.billed = len(creates), len(charges)
    figures.videos = sum(it.succeeded for it in callers.held.values())
    figures.lost = sum(it["generation_id"] not in held for it in creates)
    figures.billed_twice = sum(count > 1 for count in by_caller.values())
    for rule in await books("faults"):
        figures.faults[str(rule["name"])] = int(str(rule["struck"]))
    refused = collections.Counter(
        it["fault"] for it in await books("requests") if it["status"] == 429
    )
    figures.rate_limited = refused[None]


def run_turned(storm: Storm) -> Figures:
    """Run it on a clock that jumps, the emulator in this process."""

    async def turned() -> Figures:
        emulator = Emulator(
            speed=storm.speed,
            seed=storm.seed,
            rate_limit=storm.rate_limit,
            log_delay=3,
        )
        transport = httpx.ASGITransport(app=emulator.app)
        return await run(storm, "https://kling", transport)

    random.seed(storm.seed)
    # Nothing comes from outside, so the clock need not wait for it.
    new_loop = functools.partial(looptime.new_event_loop, noop_cycles=0)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(turned())


@contextlib.contextmanager
def emulator_elsewhere(storm: Storm) -> Generator[str]:
    """Run the emulator in a process of its own, and give its URL."""
    command = [sys.executable, "-m", "kling_async", "emulator", "--json", "--port=0"]
    options = [f"--speed={storm.speed}", f"--rate-limit={storm.rate_limit}"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["AIMLAPI_BASE_URL"])
        finally:
            process.terminate()


def run_real(storm: Storm) -> Figures:
    """Run it in real time, against an emulator in another process."""
    with emulator_elsewhere(storm) as url:
        return asyncio.run(run(storm, url))


def main() -> None:
    """Run, print, and write where told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--generations", type=int, default=5000)
    parser.add_argument("--speed", type=float, default=1)
    parser.add_argument("--outage", type=float, nargs=2, default=(45, 165))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    logging.getLogger("kling_async").setLevel(logging.CRITICAL)
    gc.set_threshold(50_000)  # as docs/benchmarks.md advises for so many waits
    storm = Storm(
        generations=options.generations,
        speed=options.speed,
        outage=options.outage,
        seed=options.seed,
    )
    figures = (run_real if options.real else run_turned)(storm)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    when = f"Measured on {dt.datetime.now(dt.UTC):%Y-%m-%d}: {machine},"
    lines = [when, f"Python {platform.python_version()}.", "", *figures.lines()]
    print("\n".join(lines))
    if options.write:
        write(options.write, "real" if options.real else "turned", lines)
    sys.exit(not figures.is_sound)


if __name__ == "__main__":
    main()
