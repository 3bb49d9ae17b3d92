"""Workers killed at random moments, again and again: nothing lost, nothing twice.

`nox -s soak` runs it with more jobs and more kills.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import av
import pytest
from anyio.abc import Process
from durable_worker import worker

from kling_async import TextToVideo
from kling_async.durable import DurableKling, JobState, JobStatus, NewJob
from kling_async.emulator import Emulator, Fault

JOBS = int(os.environ.get("KLING_CRASH_JOBS", "8"))
KILLS = max(2, JOBS // 4)
PATIENCE = 300 + 10 * JOBS

# So few are under way at once that there are creates left for each kill, and so
# slow is an answer that most kills come between a create and its id.
IN_FLIGHT, ANSWER = (4 if JOBS >= 30 else 1), 1.5

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


async def kill_and_replace(database: str, emulator: Emulator, seed: int) -> int:
    """Keep two workers, kill one at a create; tell how many kills came at one."""
    chance, kills_at_create = random.Random(seed), 0
    async with AsyncExitStack() as stack:
        crew: list[Process] = []
        for number in range(KILLS + 2):
            crew.append(
                await stack.enter_async_context(worker(database, emulator, IN_FLIGHT))
            )
            if len(crew) == 2 and number <= KILLS:
                before = len(emulator.creates)
                with anyio.move_on_after(20):
                    while len(emulator.creates) == before:
                        await anyio.sleep(0.01)
                kills_at_create += len(emulator.creates) > before
                await anyio.sleep(chance.uniform(0, ANSWER))
                crew.pop(chance.randrange(2)).send_signal(signal.SIGKILL)
        await ended(database)
    return kills_at_create


async def settle(database: str, emulator: Emulator) -> list[JobStatus]:
    """Have uncertain jobs looked up until each billed generation has its job."""
    async with (
        worker(database, emulator, IN_FLIGHT),
        DurableKling(database) as jobs,
    ):
        while True:
            statuses = await jobs.list()
            billed = {it.generation_id for it in emulator.creates}
            if billed == {it.generation_id for it in statuses if it.generation_id}:
                return statuses
            for status in statuses:
                if status.state is JobState.UNCERTAIN:
                    await jobs.recheck(status.key)
            await ended(database)


async def ended(database: str) -> None:
    """Wait until no job is under way."""
    async with DurableKling(database) as jobs:
        async for _ in jobs.watch():
            pass


def is_whole(path: Path) -> bool:
    """Whether a file is a video that can be played to its end."""
    with av.open(path) as film:
        frames = sum(1 for _ in film.decode(video=0))
        return frames > 0 and frames == film.streams.video[0].frames


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("seed", [1])
async def test_nothing_is_lost_and_nothing_paid_twice(
    database: str, tmp_path: Path, seed: int
) -> None:
    """Every job ends with its own generation, or says that nobody knows."""
    new = [
        NewJob(
            request=TextToVideo(prompt=f"Scene {n}"),
            key=f"{n}",
            output=tmp_path / f"{n}.mp4",
        )
        for n in range(JOBS)
    ]
    async with Emulator(
        speed=60, size=64, seed=seed, log_delay=0.5, faults=FAULTS
    ) as emulator:
        async with DurableKling(database) as jobs:
            await jobs.submit_many(new)
        with anyio.fail_after(PATIENCE):
            kills_at_create = await kill_and_replace(database, emulator, seed)
            async with DurableKling(database) as jobs:
                statuses = await jobs.list()
            settled = await settle(database, emulator)
    print(f"{kills_at_create} of {KILLS} kills at a create")  # noqa: T201 (for a soak)
    require_order(statuses, emulator)
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
