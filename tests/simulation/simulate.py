"""Runs the whole core against the vendor, one schedule after another, each by a seed.

    python tests/simulation/simulate.py --seconds 60
    python tests/simulation/simulate.py --seed 4711

The first seed that breaks a promise ends it, with the shortest way there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import detangle
from attrs import astuple, define, field, frozen
from detangle.strategies import LaneLike
from faults import FAULTS, Fault
from invariants import check
from machine import WALL_CLOCK, repeatable, virtual_time
from program import (
    BAD_WEATHER,
    Process,
    Run,
    create,
    disturb,
    listening,
    recover,
    start_actions,
)
from world import World

from kling_async import KlingError

CONFIG = detangle.SimConfig(
    max_steps=400_000,
    patch_time=True,
    net=detangle.NetConfig(latency=(0.001, 0.05), fragment=0.05),
)

MOST_IN_A_ROW = 20

PLAYED_BETWEEN_COLLECTIONS = 10  # one takes as long as a fifth of a run

# Connections that the vendor has had enough of are closed by then, in seconds.
IDLE = 6.0

GUARD = 5000.0  # what has not ended by then never will


@define(eq=False)
class Stage:
    """Where runs take place, one after another.

    Attributes:
        folder: Where videos go.
        played: How many runs took place.
        last: The last run.
    """

    folder: Path
    played: int = field(default=0, init=False)
    last: Run | None = field(default=None, init=False)

    async def play(self) -> None:
        """Play one run, whatever it is by the seed, and check what came of it."""
        with virtual_time():
            await self._play()

    async def _play(self) -> None:
        WALL_CLOCK.skew = detangle.choice([0.0, 0.0, 900.0, -7200.0])
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        run = self.last = Run(self.folder, World.draw(BAD_WEATHER))
        await run.world.open()
        process = Process.draw(run)
        await process.open()
        start_actions(process, 4)
        trouble = detangle.spawn(disturb(run), host="trouble")
        process = await _end(run, process)
        await _finish(process)
        await trouble
        run.world.weather.ends_at = min(run.world.weather.ends_at, detangle.now())
        if process.closed_at == float("inf"):
            await asyncio.sleep(IDLE)
            await _look_again(process)
            await process.close()
            await _finish(process)
        await asyncio.sleep(1)
        run.left_over += _left_over(process)
        run.world.close()
        check(run)


async def _end(run: Run, process: Process) -> Process:
    """Let the process go on, close its client, or kill it; give the one that lives."""
    how = detangle.choice(["go on", "go on", "close", "die"])
    if how == "go on":
        return process
    await asyncio.sleep(detangle.uniform(0, 40, steps=500))
    if how == "close":
        process.start(process.close)
        return process
    run.is_disturbed = True
    process.die()
    await asyncio.sleep(detangle.choice([1.0, 30.0, 900.0]))
    again = Process.draw(run)
    await again.open()
    recover(again, process)
    start_actions(again, 2)
    return again


async def _finish(process: Process) -> None:
    """Wait until all that it does has ended."""
    until = detangle.now() + GUARD + process.run.stood_still
    while tasks := [it for it in process.tasks if not it.done()]:
        await asyncio.wait(tasks[:1], timeout=max(0.0, until - detangle.now()))
        if detangle.now() >= until:
            return


async def _look_again(process: Process) -> None:
    """Use the client as if nothing had been."""
    run = process.run
    ids = [it.id for it in run.vendor.accepted][:1]
    many = process.max_connections + 1 if process.max_connections < 10 else 1

    async def look(again: Callable[[], Awaitable[object]]) -> None:
        began = detangle.now()
        try:
            outcome: object = await again()
        except KlingError as error:
            outcome = error
        run.last_looks.append((detangle.now() - began, outcome))

    for made in ids * many:
        process.start(partial(look, partial(process.kling.get, made)))
    process.start(partial(look, partial(create, process)))
    await _finish(process)


def _left_over(process: Process) -> list[str]:
    """Name the tasks, connections and files that are there still."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, detangle.SimLoop)
    tasks = [
        f"task {loop.label(task)}"
        for task, info in loop.task_info.items()
        if info.host == process.host and not task.done()
    ]
    lines = [
        f"connection {it.client}"
        for it in loop.net._connections
        if it.client.host == process.host
        and not it.client._closed
        and it.client.get_protocol() is not None  # else nobody was given it yet
    ]
    parts = [f"file {it.name}" for it in process.run.folder.glob(".*")]
    is_first = len(process.run.processes) == 1
    return [*tasks, *lines, *(parts if is_first else [])]


class Priorities(detangle.PCT):
    """Runs who has priority, but lets nobody wait for ever.

    A cancel scope of anyio calls itself again and again until its task has gone.
    """

    _again = 0
    _last = -1

    def schedule(self, lanes: Sequence[LaneLike]) -> int:
        index = super().schedule(lanes)
        is_again = lanes[index].id == self._last
        self._last, self._again = lanes[index].id, self._again + 1 if is_again else 0
        if self._again < MOST_IN_A_ROW:
            return index
        self._again = 0
        return (index + 1) % len(lanes)


def strategy_of(seed: int) -> detangle.Strategy:
    """Give the order that a seed stands for: every other one by priorities."""
    if seed % 2:
        return Priorities(seed, depth=3, horizon=2000)
    return detangle.RandomWalk(seed)


@contextmanager
def on_stage() -> Generator[Stage]:
    """Set up what all runs share."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=memory) as folder,
        repeatable(),
        listening(),
    ):
        gc.collect()
        gc.freeze()
        try:
            yield Stage(Path(folder) / "videos")
        finally:
            gc.unfreeze()


def play(stage: Stage, seed: int, *, shrink: bool = False) -> detangle.ExploreStats:
    """Play the run that a seed stands for.

    Raises:
        detangle.BugFound: It broke a promise.
    """
    gc.disable()
    try:
        return detangle.explore(
            stage.play,
            runs=1,
            strategy=strategy_of(seed),
            config=CONFIG,
            database=False,
            shrink=shrink,
        )
    finally:
        gc.enable()
        stage.played += 1
        if stage.played % PLAYED_BETWEEN_COLLECTIONS == 0:
            gc.collect()  # all else is frozen


@frozen
class Tally:
    """How much was played, and what broke a promise."""

    schedules: int = 0
    steps: int = 0
    broken: int = 0


def _play_share(given: argparse.Namespace, share: int) -> Tally:
    """Play a process's share of the seeds, until they or the time are over."""
    done = steps = broken = 0
    fault = next((it for it in FAULTS if it.name == given.fault), Fault("none", "", ()))
    last = math.inf if given.runs is None else given.first + given.runs
    until = math.inf if given.runs is not None else time.monotonic() + given.seconds
    with on_stage() as stage, fault.put_back():
        for seed in itertools.count(given.first + share, given.processes):
            if seed >= last or time.monotonic() > until or _over.is_set():
                break
            done += 1
            try:
                steps += play(stage, seed, shrink=not given.go_on).total_steps
            except detangle.BugFound as bug:
                broken += 1
                told = bug.report.failure.message if given.go_on else bug
                print(f"seed {seed}: {told}", flush=True)
                if not given.go_on:
                    _over.set()
    return Tally(done, steps, broken)


_processes = multiprocessing.get_context("fork")  # all is imported, once
_over = _processes.Event()


def main(arguments: Sequence[str] | None = None) -> int:
    """Play until one breaks a promise, or the time or the number is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="SEED")
    parser.add_argument("--runs", type=int, help="how many; else by the time")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--go-on", action="store_true", help="name all that break one")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    names = [it.name for it in FAULTS]
    parser.add_argument("--fault", choices=names, help="a known one to put back first")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        given.first, given.runs, given.processes = given.seed, 1, 1
    began = time.monotonic()
    with ProcessPoolExecutor(given.processes, _processes) as pool:
        shares = list(pool.map(partial(_play_share, given), range(given.processes)))
    spent = time.monotonic() - began
    done, steps, broken = (sum(it) for it in zip(*map(astuple, shares), strict=True))
    rate = f"{done / spent:.1f} a second"
    print(f"{done} schedules, {steps} steps in {spent:.0f} s: {rate}")
    print(f"{broken} broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
