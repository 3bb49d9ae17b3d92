"""A worker killed at each statement that writes: its job ends once, or is uncertain.

The points are those at which a worker wrote, as it lists them itself. Each takes two
workers, so that this is for `nox -s soak`; KLING_CRASH_PART=2/4 takes the second of
four parts.
"""

from __future__ import annotations

import os
from pathlib import Path
from zlib import crc32

import anyio
import pytest
from anyio.abc import TaskGroup
from crash_points import RECORD
from durable_worker import Crew, crew

from kling_async import TextToVideo
from kling_async.durable import DurableKling, JobState, JobStatus
from kling_async.emulator import Emulator

PART, PARTS = map(int, os.environ.get("KLING_CRASH_PART", "1/1").split("/"))
PATIENCE = 300.0


async def submit(jobs: DurableKling, key: str, folder: Path) -> None:
    """Ask for a video."""
    request = TextToVideo(prompt=f"Scene {key}")
    await jobs.submit(request, key=key, output=folder / f"{key}.mp4")


async def ended(jobs: DurableKling, key: str) -> JobStatus:
    """Wait for the end of a job."""
    async for _ in jobs.watch():
        pass
    return next(it for it in await jobs.list() if it.key == key)


async def list_points(workers: Crew, jobs: DurableKling, folder: Path) -> list[str]:
    """Have a worker do a job, and list where it wrote."""
    told = folder / "points.txt"
    worker = await workers.hire(crash_at=f"{RECORD}{told}")
    await submit(jobs, "recorded", folder)
    assert (await ended(jobs, "recorded")).state is JobState.DONE
    worker.kill()
    await worker.wait()
    return list(dict.fromkeys(told.read_text("utf-8").split("\n")[:-1]))


async def _when_ended(jobs: DurableKling, tasks: TaskGroup) -> None:
    """Leave the group when no job is under way: the point was not reached."""
    async for _ in jobs.watch():
        pass
    tasks.cancel_scope.cancel()


async def crash_at(
    point: str, workers: Crew, jobs: DurableKling, folder: Path, emulator: Emulator
) -> str | None:
    """Kill a worker at a point, have another go on, and say what is wrong then."""
    key = point.replace(" ", "-").lower()
    before = len(emulator.creates)
    torn = await workers.hire(crash_at=point)
    await submit(jobs, key, folder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_when_ended, jobs, tasks)
        await torn.wait()
        tasks.cancel_scope.cancel()
    has_died = not torn.is_alive()
    torn.kill()
    await torn.wait()
    healthy = await workers.hire()
    status = await ended(jobs, key)
    healthy.kill()
    await healthy.wait()
    billed = emulator.creates[before:]
    ids = [it.generation_id for it in billed]
    is_settled = status.state is JobState.DONE and ids == [status.generation_id]
    is_uncertain = status.state is JobState.UNCERTAIN and len(ids) <= 1
    print(f"{point}: {'died' if has_died else 'not reached'}, {status.state}, {ids}")  # noqa: T201 (for a soak)
    if is_settled or is_uncertain:
        return None
    return f"{point}: {status.state} as {status.generation_id}, but billed: {ids}"


@pytest.mark.timeout(3600)
async def test_a_worker_killed_at_any_write_loses_nothing_and_pays_nothing_twice(
    database: str, tmp_path: Path
) -> None:
    """For each point: billed is what was asked for, or the job says it is uncertain."""
    async with (
        Emulator(speed=300, size=64, seed=1, log_delay=0.2) as emulator,
        crew(database, emulator) as workers,
        DurableKling(database) as jobs,
    ):
        with anyio.fail_after(PATIENCE):
            points = await list_points(workers, jobs, tmp_path)
        print(f"{len(points)} points")  # noqa: T201 (for a soak)
        # By their names: no two lists are quite alike, as no two jobs poll alike.
        chosen = [it for it in points if crc32(it.encode()) % PARTS == PART - 1]
        wrong = [await crash_at(it, workers, jobs, tmp_path, emulator) for it in chosen]
    assert len(points) > 20
    assert [it for it in wrong if it] == []
