"""Workers killed between a create and its answer: nothing lost, nothing twice.

`nox -s soak` runs it with more jobs and more kills.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import anyio
import av
import pytest
from durable_worker import Crew, WorkerProcess, crew

from kling_async import TextToVideo
from kling_async.durable import DurableKling, JobState, JobStatus, NewJob
from kling_async.emulator import Emulator, Fault

JOBS = int(os.environ.get("KLING_CRASH_JOBS", "8"))
KILLS = JOBS // 4
PATIENCE = 300 + 10 * JOBS

# How long an answer takes: most kills come between a create and its id.
IN_FLIGHT, ANSWER = 4, 1.5

# One kill in so many comes at any moment.
ANY_MOMENT = 5

# A network, a gateway and a server that fail in all the ways that have a name.
FAULTS = [
    Fault("reset", method="POST", path="generations", probability=0.06, accepted=True),
    Fault("reset", method="POST", path="generations", probability=0.06),
    Fault("status", method="POST", path="generations", probability=0.04, accepted=True),
    Fault("status", method="POST", path="generations", probability=0.06, status=429),
    Fault("delay", method="POST", path="generations", seconds=ANSWER, accepted=True),
    Fault("close", method="GET", path="generations", probability=0.05),
    Fault("html", method="GET", path="generations", probability=0.05),
    Fault("truncate", method="GET", path="generations", probability=0.05),
    Fault("cut", path="files", probability=0.2),
    Fault("status", path="logs", probability=0.1),
]


def jobs_of(folder: Path) -> list[NewJob]:
    """Give all jobs."""
    return [
        NewJob(
            request=TextToVideo(prompt=f"Scene {number}"),
            key=f"{number}",
            output=folder / f"{number}.mp4",
        )
        for number in range(JOBS)
    ]


async def kill_and_replace(
    jobs: DurableKling,
    workers: Crew,
    emulator: Emulator,
    new: list[NewJob],
    chance: random.Random,
) -> int:
    """Keep two workers and kill one, again and again, as there are new jobs.

    Returns:
        How many kills came between a create that the server took and its answer.
    """
    torn = 0
    living = [await workers.hire(), await workers.hire()]

    async def at_create() -> list[WorkerProcess]:
        names = await creating(jobs, emulator)
        return [it for it in living if it.name in names]

    for number in range(KILLS):
        await jobs.submit_many(new[number::KILLS])
        while not (torn_now := await at_create()):
            await anyio.sleep(0.02)
        victim = chance.choice(torn_now)
        if number % ANY_MOMENT == ANY_MOMENT - 1:
            await anyio.sleep(chance.uniform(0, 3 * ANSWER))
            victim, torn_now = chance.choice(living), await at_create()
        victim.send_signal(signal.SIGKILL)
        torn += victim in torn_now
        living.remove(victim)
        living.append(await workers.hire())
    await ended(jobs)
    return torn


async def creating(jobs: DurableKling, emulator: Emulator) -> set[str]:
    """Name the workers whose create the server has taken, and who do not know it."""
    statuses = await jobs.list()
    known = {it.generation_id for it in statuses}
    sent = [
        it.client_request_id or ""
        for it in emulator.creates
        if it.generation_id not in known
    ]
    return {
        str(status.worker)
        for status in statuses
        if status.state is JobState.RUNNING
        and any(it.startswith(f"kling-default-{status.key}-") for it in sent)
    }


async def settle(jobs: DurableKling, emulator: Emulator) -> list[JobStatus]:
    """Have uncertain jobs looked up until each billed generation has its job."""
    while True:
        statuses = await jobs.list()
        billed = {it.generation_id for it in emulator.creates}
        if billed == {it.generation_id for it in statuses if it.generation_id}:
            return statuses
        for status in statuses:
            if status.state is JobState.UNCERTAIN:
                await jobs.recheck(status.key)
        await ended(jobs)


async def ended(jobs: DurableKling) -> None:
    """Wait until no job is under way."""
    async for _ in jobs.watch():
        pass


def is_whole(path: Path) -> bool:
    """Whether a file is a video that can be played to its end."""
    with av.open(path) as film:
        frames = sum(1 for _ in film.decode(video=0))
        return frames > 0 and frames == film.streams.video[0].frames


@pytest.mark.timeout(2 * PATIENCE)
async def test_nothing_is_lost_and_nothing_paid_twice(
    database: str, tmp_path: Path
) -> None:
    """Every job ends with its own generation, or says that nobody knows."""
    new, chance = jobs_of(tmp_path), random.Random(1)
    async with (
        Emulator(speed=300, size=64, seed=1, log_delay=0.5, faults=FAULTS) as emulator,
        crew(database, emulator, IN_FLIGHT) as workers,
        DurableKling(database) as jobs,
    ):
        with anyio.fail_after(PATIENCE):
            torn = await kill_and_replace(jobs, workers, emulator, new, chance)
            require_order(await jobs.list(), emulator)
            settled = await settle(jobs, emulator)
    print(f"{torn} of {KILLS} kills between a create and its answer")  # noqa: T201 (for a soak)
    assert torn >= 0.6 * KILLS
    require_order(settled, emulator)
    for status in settled:
        if status.state is JobState.DONE:
            assert isinstance(status.output, Path)
            assert is_whole(status.output)


def require_order(statuses: list[JobStatus], emulator: Emulator) -> None:
    """Hold the jobs against what the vendor would bill."""
    states = Counter(it.state for it in statuses)
    ids = [it.generation_id for it in statuses if it.generation_id]
    sent = Counter(it.client_request_id for it in emulator.creates)
    uncertain = [it for it in statuses if it.state is JobState.UNCERTAIN]
    waiting = {it.intent.client_request_id for it in uncertain if it.intent}
    billed = {it.generation_id: it.client_request_id for it in emulator.creates}
    print(dict(states), f"{len(emulator.creates)} billed")  # noqa: T201 (for a soak)
    assert states[JobState.DONE] + states[JobState.UNCERTAIN] == JOBS
    assert len(ids) == len(set(ids)) == states[JobState.DONE]
    assert set(sent.values()) <= {1}
    assert {billed[it] for it in billed.keys() - set(ids)} <= waiting
