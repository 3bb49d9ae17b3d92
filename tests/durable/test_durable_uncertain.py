"""Creates whose answer was lost: found, said to be uncertain, decided on."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from kling_async import (
    AsyncKling,
    Fixed,
    JobConflictError,
    JobError,
    RetryPolicy,
    SubmissionUncertainError,
    TextToVideo,
)
from kling_async._config import WhenUncertain
from kling_async.durable import DurableKling, Intent, JobState, NewJob
from kling_async.durable._records import JobInput
from kling_async.durable._worker import CONTEXTS
from kling_async.emulator import Emulator, Fault

REQUEST = TextToVideo(prompt="A storm", model="kling-video/v1/standard/text-to-video")
# The server takes the work on, and nobody hears of it.
LOST = Fault("reset", method="POST", path="generations", accepted=True, times=1)
QUICK = RetryPolicy(initial=0.05, reconcile_timeout=1)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Name a database that is not there yet."""
    return tmp_path / "jobs.db"


def client_of(url: str) -> AsyncKling:
    """Give a client that does not look for long."""
    return AsyncKling("some-key", base_url=url, polling=Fixed(0.1), retry=QUICK)


async def test_a_lost_answer_is_found_in_the_log(database: Path) -> None:
    """As without a database: the generation is adopted."""
    async with (
        Emulator(speed=1000, size=64, faults=[LOST]) as emulator,
        AsyncKling("any", base_url=emulator.base_url, polling=Fixed(0.1)) as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(REQUEST, key="a")
        generation = await job.result(timeout=300)
    assert [it.generation_id for it in emulator.creates] == [generation.id]


async def test_what_the_log_does_not_tell_is_uncertain_and_decided_on(
    database: Path,
) -> None:
    """Listed with what to look for, never sent again; adopting it costs nothing."""
    async with (
        Emulator(speed=1000, size=64, faults=[LOST], request_log=False) as emulator,
        client_of(emulator.base_url) as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(REQUEST, key="a")
        with pytest.raises(SubmissionUncertainError) as caught:
            await job.result(timeout=300)
        (status,) = await jobs.list("uncertain")
        await jobs.adopt("a", emulator.creates[0].generation_id)
        generation = await job.result(timeout=300)
    assert caught.value.client_request_id == emulator.creates[0].client_request_id
    assert status.intent is not None
    assert status.intent.client_request_id == caught.value.client_request_id
    assert [it.generation_id for it in emulator.creates] == [generation.id]


async def test_giving_up_is_a_decision_too(database: Path) -> None:
    """It ends in a failure that says so, and can be made good by trying again."""
    async with (
        Emulator(speed=1000, size=64, faults=[LOST], request_log=False) as emulator,
        client_of(emulator.base_url) as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(REQUEST, key="a")
        with pytest.raises(SubmissionUncertainError):
            await job.result(timeout=300)
        await jobs.give_up("a")
        with pytest.raises(JobError, match="failed: given up"):
            await job.result(timeout=300)
        with pytest.raises(JobConflictError):
            await jobs.give_up("a")
        await jobs.resubmit("a")
        await job.result(timeout=300)
    assert len(emulator.creates) == 2


@pytest.mark.parametrize(
    "policy, state, creates",
    [("give_up", JobState.FAILED, 1), ("resubmit", JobState.DONE, 2)],
)
async def test_a_policy_decides_beforehand(
    database: Path, policy: WhenUncertain, state: JobState, creates: int
) -> None:
    """Only because somebody said so."""
    async with (
        Emulator(speed=1000, size=64, faults=[LOST], request_log=False) as emulator,
        client_of(emulator.base_url) as kling,
        DurableKling(database, kling, on_uncertain=policy) as jobs,
    ):
        await jobs.submit(REQUEST, key="a")
        statuses = [it async for it in jobs.watch()]
    assert statuses[-1].state is state
    assert len(emulator.creates) == creates


async def test_a_late_row_of_the_log_is_found_by_another_look(database: Path) -> None:
    """Rows come late: looking again costs nothing, and sends nothing."""
    async with (
        Emulator(speed=1000, size=64, faults=[LOST], log_delay=2) as emulator,
        client_of(emulator.base_url) as kling,
        DurableKling(database, kling, reconcile_timeout=10) as jobs,
    ):
        job = await jobs.submit(REQUEST, key="a")
        with pytest.raises(SubmissionUncertainError):
            await job.result(timeout=300)
        await jobs.recheck("a")
        generation = await job.result(timeout=300)
        status = await job.status()
    assert [it.generation_id for it in emulator.creates] == [generation.id]
    assert status.attempt == 2


async def test_a_server_that_is_not_there_is_waited_for(database: Path) -> None:
    """An outage costs time: what certainly was not sent is sent when it is over."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with (
        client_of(f"http://127.0.0.1:{port}") as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(REQUEST, key="a")
        with pytest.raises(JobError, match="it goes on"):
            await job.result(timeout=2)
        async with Emulator(speed=1000, size=64, port=port) as emulator:
            await job.result(timeout=300)
    assert len(emulator.creates) == 1


async def test_a_create_that_is_called_off_while_it_is_sent_keeps_its_id(
    database: Path,
) -> None:
    """The POST is not torn, and what it started can be adopted."""
    slow = Fault("delay", method="POST", path="generations", seconds=1)
    async with (
        Emulator(speed=1, size=64, faults=[slow]) as emulator,
        client_of(emulator.base_url) as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(REQUEST, key="a")
        with anyio.fail_after(300):
            while not emulator.creates:
                await anyio.sleep(0.02)
            await job.cancel()
            while (await job.status()).generation_id is None:
                await anyio.sleep(0.05)
        status = await job.status()
    assert status.state is JobState.CANCELLED
    assert status.generation_id == emulator.creates[0].generation_id


async def test_closing_waits_for_a_create_under_way(database: Path) -> None:
    """It gets its id before the worker lets go."""
    slow = Fault("delay", method="POST", path="generations", seconds=1)
    async with (
        Emulator(speed=1, size=64, faults=[slow]) as emulator,
        client_of(emulator.base_url) as kling,
    ):
        async with DurableKling(database, kling) as jobs:
            job = await jobs.submit(REQUEST, key="a")
            with anyio.fail_after(300):
                while not emulator.creates:
                    await anyio.sleep(0.02)
        async with DurableKling(database) as jobs:
            job = await jobs.submit(REQUEST, key="a")
            status = await job.status()
    assert status.generation_id == emulator.creates[0].generation_id


async def test_a_run_that_did_not_decide_does_not_send(database: Path) -> None:
    """Whoever reads back another's intent looks for it, whatever it finds."""
    async with (
        Emulator(speed=1000, size=64) as emulator,
        client_of(emulator.base_url) as kling,
        DurableKling(database, kling, reconcile_timeout=2),
    ):
        (running,) = CONTEXTS
        work = running.worker
        order = JobInput(workflow_id="kling:default:a:1", batch="default", request={})
        intent = await work.intend(order, "another-run", 1)
        assert isinstance(intent, Intent)
        outcome = await work.create(order, intent, is_own=False)
    assert outcome.state is JobState.UNCERTAIN
    assert not emulator.creates


async def test_closing_at_any_moment_leaves_nothing_uncertain(database: Path) -> None:
    """An orderly end is none that anybody has to settle."""
    slow = Fault("delay", method="POST", path="generations", seconds=0.2)
    keys = [f"{n}" for n in range(60)]
    async with (
        Emulator(speed=1e6, size=64, faults=[slow]) as emulator,
        client_of(emulator.base_url) as kling,
    ):
        async with DurableKling(database) as jobs:
            await jobs.submit_many([NewJob(request=REQUEST, key=it) for it in keys])
        for moment in (0.1, 0.3, 0.35, 0.4, 0.5, 0.6):
            async with DurableKling(database, kling, max_in_flight=20):
                await anyio.sleep(moment)
        async with DurableKling(database, kling, max_in_flight=60) as jobs:
            async for _ in jobs.watch():
                pass
            states = {it.state for it in await jobs.list()}
    assert states == {JobState.DONE}
    assert len(emulator.creates) == len(keys)
