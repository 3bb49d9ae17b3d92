"""Old jobs deleted: what is unsettled stays, and so does what all have cost."""

from __future__ import annotations

import datetime as dt

import anyio
import pytest
from raw_server import RawServer, answer, answering

from kling_async import AsyncKling, Fixed, RetryPolicy, TextToVideo
from kling_async.durable import DurableKling, JobState, NewJob, Webhook
from kling_async.emulator import Emulator, Fault

NOW, MONTH = dt.timedelta(0), dt.timedelta(days=30)

SECRET = "whsec_" + "c2VjcmV0" * 4


def new(*keys: str) -> list[NewJob]:
    """Give small jobs."""
    model = "kling-video/v1/standard/text-to-video"
    return [
        NewJob(request=TextToVideo(prompt=f"A {key}", model=model), key=key)
        for key in keys
    ]


def client_of(emulator: Emulator) -> AsyncKling:
    """Give a client that does not look for long."""
    retry = RetryPolicy(initial=0.05, reconcile_timeout=1)
    return AsyncKling(
        "any", base_url=emulator.base_url, polling=Fixed(0.1), retry=retry
    )


def told_at(server: RawServer) -> Webhook:
    """Give a webhook of a server on this machine."""
    return Webhook(url=server.base_url, secret=SECRET, allow_private=True)


async def finish(jobs: DurableKling) -> None:
    """Wait until no job is under way."""
    with anyio.fail_after(300):
        async for _ in jobs.watch():
            pass


async def test_what_is_settled_and_old_is_deleted_and_nothing_else(
    database: str,
) -> None:
    """In every state; sums stay, other batches too, and a key may come again."""
    lost = Fault("reset", method="POST", path="generations", accepted=True, times=1)
    async with Emulator(speed=1000, size=64, request_log=False) as emulator:
        async with (
            client_of(emulator) as kling,
            DurableKling(database, kling, batch="b", creates_per_minute=600) as jobs,
        ):
            await jobs.submit_many(new("done", "redone"))
            await finish(jobs)
            emulator.faults.add(lost)
            await jobs.submit_many(new("uncertain"))
            await finish(jobs)
            emulator.faults.add(
                Fault("status", method="POST", path="generations", status=400)
            )
            await jobs.submit_many(new("failed"))
            await finish(jobs)
            emulator.faults.clear()
        async with DurableKling(database, batch="b") as jobs:
            await jobs.submit_many(new("cancelled", "held", "queued"))
            await jobs.cancel("cancelled")
            await jobs.hold("held", "for now")
            spent = (await jobs.account()).committed
            deleted_young = await jobs.purge(MONTH)
            deleted = await jobs.purge(NOW)
            left = {it.key: it.state for it in await jobs.list()}
            again = await jobs.purge(NOW)
            sums = (await jobs.account()).committed
            billed = len(emulator.creates)
        async with (
            client_of(emulator) as kling,
            DurableKling(database, kling, batch="b") as jobs,
        ):
            await jobs.submit_many(new("redone"))
            await finish(jobs)
            redone = await jobs.status("redone")
            more = (await jobs.account()).committed
    assert (deleted_young, deleted, again) == (0, 4, 0)
    assert left == {
        "uncertain": JobState.UNCERTAIN,
        "held": JobState.HELD,
        "queued": JobState.QUEUED,
    }
    assert spent == sums > 0
    assert (redone.state, redone.attempt) == (JobState.DONE, 1)
    assert len(emulator.creates) == billed + 2  # that, and the queued one
    assert more > sums


async def test_attempts_are_deleted_with_their_job(database: str) -> None:
    """A key that comes again is a new job, without a past."""
    async with (
        Emulator(speed=1000, size=64, failure_rate=1) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling) as jobs,
    ):
        await jobs.submit_many(new("fox"))
        await finish(jobs)
        await jobs.resubmit("fox")
        await finish(jobs)
        second = await jobs.status("fox")
        assert await jobs.purge(NOW) == 1
        assert await jobs.list() == []
        await jobs.submit_many(new("fox"))
        await finish(jobs)
        first = await jobs.status("fox")
        assert first.state.is_final
    assert (second.attempt, first.attempt) == (2, 1)
    assert len(emulator.creates) == 3


async def test_whoever_knew_a_purged_job_waits_for_the_new_one(database: str) -> None:
    """Another one purged it, and submits its key again: its attempts begin anew."""
    async with (
        Emulator(speed=1000, size=64, failure_rate=1) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling) as jobs,
        DurableKling(database) as other,
    ):
        await jobs.submit_many(new("fox"))
        await finish(jobs)
        await jobs.resubmit("fox")
        await finish(jobs)
        assert await other.purge(NOW) == 1
        await other.submit_many(new("fox"))
        await finish(jobs)
        first = await jobs.status("fox")
        assert (first.attempt, first.state) == (1, JobState.FAILED)
    assert len(emulator.creates) == 3


@pytest.mark.parametrize("status", ["500 No", "204 No Content"])
async def test_a_job_is_kept_until_its_webhook_was_told(
    database: str, status: str
) -> None:
    """And a key that comes again after it is told of again."""
    async with (
        RawServer(answering(answer(b"", status))) as server,
        Emulator(speed=1000, size=64) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling, webhook=told_at(server)) as jobs,
    ):
        for rounds in (1, 2):
            await jobs.submit_many(new("fox"))
            await finish(jobs)
            with anyio.fail_after(300):
                while len(server.requests) < rounds:
                    await anyio.sleep(0.05)
                while status[0] == "2" and await jobs.undelivered():
                    await anyio.sleep(0.05)
            if status[0] == "5":
                assert await jobs.purge(NOW) == 0
                break
            assert await jobs.purge(NOW) == 1
