"""Durable jobs: submitted once, done once, decided on where nobody can know.

The emulator over a socket, SQLite on disk, the engine with its own threads.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from kling_async import (
    AsyncKling,
    ClientClosedError,
    ConfigurationError,
    Fixed,
    GenerationFailedError,
    ImageToVideo,
    InvalidRequestError,
    JobConflictError,
    JobError,
    TextToVideo,
)
from kling_async.durable import DurableKling, JobState, JobStatus, NewJob, _engine
from kling_async.emulator import Emulator, Fault

KEY = "a-key-that-nobody-may-read"
# Long enough that a test gets in between, short enough to wait for.
QUICK, SLOW = 1000, 1


def prompt(text: str = "A lighthouse in a storm") -> TextToVideo:
    """Ask for the cheapest thing there is."""
    return TextToVideo(prompt=text, model="kling-video/v1/standard/text-to-video")


def client_of(emulator: Emulator, **options: object) -> AsyncKling:
    """Give a client that polls often."""
    return AsyncKling(
        KEY,
        base_url=emulator.base_url,
        polling=Fixed(0.1),
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Name a database that is not there yet."""
    return tmp_path / "jobs.db"


async def seen(jobs: DurableKling) -> AsyncIterator[JobStatus]:
    """Watch to the end, within reason."""
    with anyio.fail_after(300):
        async for status in jobs.watch():
            yield status


async def until(jobs: DurableKling, key: str, state: JobState) -> JobStatus:
    """Wait until a job is in a state, and its generation known if it runs."""
    with anyio.fail_after(300):
        while True:
            status = await jobs.status(key)
            if status.state is state and (
                state is not JobState.RUNNING or status.generation_id
            ):
                return status
            await anyio.sleep(0.05)


async def test_a_job_gives_its_video_and_writes_its_file(
    database: Path, tmp_path: Path
) -> None:
    """Submitted, created once, waited for, downloaded, told."""
    output = tmp_path / "new" / "clip.mp4"
    async with (
        Emulator(speed=QUICK, size=64) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(prompt(), key="scene-12", output=output)
        generation = await job.result(timeout=300)
        status = await job.status()
        account = await jobs.account()
    (create,) = emulator.creates
    assert generation.id == create.generation_id
    assert generation.client_request_id == create.client_request_id
    assert generation.video is not None
    assert output.stat().st_size == generation.video.file_size
    assert (status.state, status.attempt) == (JobState.DONE, 1)
    assert status.credits_used == account.committed == generation.credits_used


async def test_the_same_key_is_the_same_job(database: Path) -> None:
    """However often it is submitted, even after a restart, one is created."""
    async with Emulator(speed=QUICK, size=64) as emulator, client_of(emulator) as kling:
        async with DurableKling(database, kling) as jobs:
            first = await jobs.submit(prompt(), key="a")
            await jobs.submit(prompt(), key="a")
            await first.result(timeout=300)
        async with DurableKling(database, kling) as jobs:
            again = await jobs.submit(prompt(), key="a")
            await again.result(timeout=300)
    assert len(emulator.creates) == 1


async def test_a_key_does_not_stand_for_two_requests(database: Path) -> None:
    """Another request under a key is refused, the fields named, nothing submitted."""
    async with DurableKling(database) as jobs:
        await jobs.submit(prompt("one"), key="a")
        with pytest.raises(
            JobConflictError, match=r"'a'.*differ in: prompt\)"
        ) as caught:
            await jobs.submit_many(
                [
                    NewJob(request=prompt(), key="b"),
                    NewJob(request=prompt("two"), key="a"),
                ]
            )
        with pytest.raises(JobConflictError, match="'c'"):
            await jobs.submit_many(
                [NewJob(request=prompt(text), key="c") for text in ("one", "two")]
            )
        assert [status.key for status in await jobs.list()] == ["a"]
    assert caught.value.key == "a"


async def test_batches_are_worlds_of_their_own(database: Path) -> None:
    """The same key in two batches is two jobs."""
    async with DurableKling(database, batch="one") as jobs:
        await jobs.submit(prompt("one"), key="a")
    async with DurableKling(database, batch="two") as jobs:
        await jobs.submit(prompt("two"), key="a")
        (status,) = await jobs.list()
    assert (status.batch, status.state) == ("two", JobState.QUEUED)


async def test_jobs_wait_for_a_worker(database: Path) -> None:
    """What is submitted without a client is done when one comes."""
    async with Emulator(speed=QUICK, size=64) as emulator, client_of(emulator) as kling:
        async with DurableKling(database) as jobs:
            await jobs.submit(prompt(), key="a")
            assert (await jobs.status("a")).state is JobState.QUEUED
        assert not emulator.creates
        async with DurableKling(database, kling) as jobs:
            assert [it.state async for it in seen(jobs)][-1] is JobState.DONE


async def test_closing_hands_running_jobs_over(database: Path) -> None:
    """A wait is left, not the job: the next worker goes on with the same id."""
    async with Emulator(speed=SLOW, size=64) as emulator:
        async with client_of(emulator) as kling, DurableKling(database, kling) as jobs:
            await jobs.submit(prompt(), key="a")
            before = await until(jobs, "a", JobState.RUNNING)
        requests = len(emulator.requests)
        async with client_of(emulator) as kling, DurableKling(database, kling) as jobs:
            # A create would be the first of them.
            with anyio.fail_after(300):
                while len(emulator.requests) < requests + 2:
                    await anyio.sleep(0.05)
            after = await jobs.status("a")
    assert len(emulator.creates) == 1
    assert after.generation_id == before.generation_id
    assert after.state is JobState.RUNNING


async def test_nothing_is_left_running(database: Path) -> None:
    """Threads, locks and files of the engine end with the block."""
    async with Emulator(speed=QUICK, size=64) as emulator, client_of(emulator) as kling:
        before = {it for it in threading.enumerate() if "worker" not in it.name}
        async with DurableKling(database, kling) as jobs:
            job = await jobs.submit(prompt(), key="a")
            await job.result(timeout=300)
        left = {it for it in threading.enumerate() if it.is_alive()} - before
    # Idle threads of anyio's and asyncio's pools are the event loop's.
    assert {it for it in left if not it.name.startswith(("AnyIO", "asyncio"))} == set()
    assert [it.name for it in database.parent.iterdir()] == [database.name]


def test_a_queue_that_is_only_being_started_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread cannot be joined before it runs; a stop at that moment is none."""
    starting = threading.Thread(name="queue-worker-any")
    monkeypatch.setattr(threading, "enumerate", lambda: [starting])
    _engine._stop_engine()  # pyright: ignore[reportPrivateUsage]


async def test_an_error_in_the_block_comes_out_as_it_is(database: Path) -> None:
    """Not in a group, not replaced."""
    async with Emulator(size=64) as emulator, client_of(emulator) as kling:
        with pytest.raises(ZeroDivisionError):
            async with DurableKling(database, kling):
                raise ZeroDivisionError


async def test_only_one_engine_runs_in_a_process(database: Path) -> None:
    """DBOS is one for a process; a second is told so, the first goes on."""
    async with (
        Emulator(speed=QUICK, size=64) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling) as jobs,
    ):
        with pytest.raises(ConfigurationError, match="running in this process already"):
            async with DurableKling(database.with_name("other.db"), kling):
                pass
        job = await jobs.submit(prompt(), key="a")
        await job.result(timeout=300)


async def test_the_key_is_nowhere_in_the_database(database: Path) -> None:
    """Whoever reads the database learns what was made, not how to make more."""
    async with (
        Emulator(speed=QUICK, size=64) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(prompt(), key="a")
        await job.result(timeout=300)
        assert KEY not in repr(jobs)
    for path in database.parent.iterdir():
        assert KEY.encode() not in path.read_bytes()


async def test_a_failed_generation_is_told_and_can_be_tried_again(
    database: Path,
) -> None:
    """A failure costs nothing; trying again is a new generation, and a decision."""
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(
            Emulator(speed=QUICK, size=64, failure_rate=1)
        )
        kling = await stack.enter_async_context(client_of(emulator))
        jobs = await stack.enter_async_context(DurableKling(database, kling))
        job = await jobs.submit(prompt(), key="a")
        with pytest.raises(GenerationFailedError) as caught:
            await job.result(timeout=300)
        first = await job.status()
        await jobs.resubmit("a")
        with pytest.raises(GenerationFailedError):
            await job.result(timeout=300)
        second = await job.status()
        account = await jobs.account()
    assert caught.value.generation_id == first.generation_id
    assert (first.state, first.attempt) == (JobState.FAILED, 1)
    assert (second.state, second.attempt) == (JobState.FAILED, 2)
    assert first.generation_id != second.generation_id
    assert account.committed == 0


async def test_a_refused_key_holds_jobs_and_they_go_on_later(database: Path) -> None:
    """What an operator mends costs no job its life."""
    async with Emulator(speed=QUICK, size=64, api_keys=["right"]) as emulator:
        url = emulator.base_url
        async with AsyncKling("wrong", base_url=url) as kling:
            async with DurableKling(database, kling) as jobs:
                job = await jobs.submit(prompt(), key="a")
                with pytest.raises(JobError, match=r"held.*401") as caught:
                    await job.result(timeout=300)
        async with AsyncKling("right", base_url=url, polling=Fixed(0.1)) as kling:
            async with DurableKling(database, kling) as jobs:
                await jobs.resubmit("a")
                job = await jobs.submit(prompt(), key="a")
                await job.result(timeout=300)
    assert caught.value.state == "held"
    assert len(emulator.creates) == 1


async def test_a_job_in_the_queue_is_called_off_before_it_costs_anything(
    database: Path,
) -> None:
    """Cancelled first, it is never sent."""
    async with Emulator(speed=QUICK, size=64) as emulator, client_of(emulator) as kling:
        async with DurableKling(database) as jobs:
            job = await jobs.submit(prompt(), key="a")
            await jobs.submit(prompt(), key="b")
            await job.cancel()
        async with DurableKling(database, kling) as jobs:
            states = {it.key: it.state async for it in seen(jobs)}
    assert states == {"a": JobState.CANCELLED, "b": JobState.DONE}
    assert len(emulator.creates) == 1


async def test_a_job_called_off_too_late_keeps_its_id(database: Path) -> None:
    """The generation goes on and is billed, so its id must be there to adopt."""
    async with (
        Emulator(speed=SLOW, size=64) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(prompt(), key="a")
        await until(jobs, "a", JobState.RUNNING)
        await job.cancel()
        status = await job.status()
        with pytest.raises(JobError, match="cancelled") as caught:
            await job.result(timeout=300)
        polls = -1
        with anyio.fail_after(300):
            while polls != len(emulator.requests):
                polls = len(emulator.requests)
                await anyio.sleep(1)  # time enough for ten polls
    assert status.state is JobState.CANCELLED
    assert status.generation_id == emulator.creates[0].generation_id
    assert caught.value.generation_id == status.generation_id


async def test_a_full_disk_holds_a_job_and_costs_nothing_more(
    database: Path, tmp_path: Path
) -> None:
    """The video is paid for: what is repeated later is the download alone."""
    blocked = tmp_path / "folder"
    blocked.write_bytes(b"not a folder")
    async with (
        Emulator(speed=QUICK, size=64) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling) as jobs,
    ):
        job = await jobs.submit(prompt(), key="a", output=blocked / "clip.mp4")
        with pytest.raises(JobError, match="held: cannot write"):
            await job.result(timeout=300)
        held = await job.status()
        blocked.unlink()
        await jobs.resubmit("a")
        await job.result(timeout=300)
    assert held.generation is not None
    assert held.generation.succeeded
    assert (blocked / "clip.mp4").stat().st_size > 0
    assert len(emulator.creates) == 1


async def test_an_adopted_generation_is_followed_not_created(database: Path) -> None:
    """Somebody found it by other means."""
    async with Emulator(speed=QUICK, size=64) as emulator, client_of(emulator) as kling:
        async with DurableKling(database) as jobs:
            job = await jobs.submit(prompt(), key="a")
            await job.cancel()
        made = await kling.create(prompt())
        async with DurableKling(database, kling) as jobs:
            await jobs.adopt("a", made.id)
            job = await jobs.submit(prompt(), key="a")
            generation = await job.result(timeout=300)
    assert generation.id == made.id
    assert len(emulator.creates) == 1


async def test_decisions_are_for_jobs_that_have_ended(database: Path) -> None:
    """Deciding on a job under way would be a second bill."""
    async with DurableKling(database) as jobs:
        job = await jobs.submit(prompt(), key="a")
        for decide in (jobs.resubmit, jobs.recheck, jobs.give_up):
            with pytest.raises(JobConflictError, match="'a' is queued"):
                await decide("a")
        await job.cancel()
        with pytest.raises(JobConflictError, match="'a' is cancelled"):
            await jobs.recheck("a")
        await jobs.resubmit("a")
        with pytest.raises(JobError, match="no job 'b'"):
            await jobs.resubmit("b")
        assert (await job.status()).state is JobState.QUEUED


async def test_no_more_jobs_run_than_are_allowed(database: Path) -> None:
    """The rest waits in the queue, in order."""
    async with (
        Emulator(speed=SLOW, size=64) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling, max_in_flight=3) as jobs,
    ):
        await jobs.submit_many([NewJob(request=prompt(), key=f"{n}") for n in range(8)])
        for n in range(3):
            await until(jobs, f"{n}", JobState.RUNNING)
        await anyio.sleep(1)  # time enough for a fourth
        states = [it.state for it in await jobs.list()]
    assert states == [JobState.RUNNING] * 3 + [JobState.QUEUED] * 5
    assert len(emulator.creates) == 3


async def test_an_account_that_allows_five_at_once_gets_forty_videos(
    database: Path,
) -> None:
    """A 429 is no end of a job: it waits, and is not sent over and over.

    A busy machine may never have more than five of them under way: three are refused
    in any case.
    """
    refusals = Fault("status", method="POST", path="generations", status=429, times=3)
    async with (
        Emulator(speed=QUICK, size=64, max_running=5, faults=[refusals]) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling, max_in_flight=40) as jobs,
    ):
        await jobs.submit_many(
            [NewJob(request=prompt(), key=f"scene-{n}") for n in range(40)]
        )
        states = [status.state async for status in seen(jobs)]
    refused = sum(it.status == 429 for it in emulator.requests)
    assert states.count(JobState.DONE) == 40
    assert len(emulator.creates) == 40
    assert 3 <= refused < 400


async def test_creates_begin_no_faster_than_is_allowed(database: Path) -> None:
    """Two a minute: the third waits for its permit."""
    async with (
        Emulator(speed=QUICK, size=64) as emulator,
        client_of(emulator) as kling,
        DurableKling(database, kling, creates_per_minute=2) as jobs,
    ):
        await jobs.submit_many([NewJob(request=prompt(), key=f"{n}") for n in range(4)])
        with anyio.fail_after(300):
            while len(await jobs.list("done")) < 2:
                await anyio.sleep(0.1)
        await anyio.sleep(1)  # time enough for a third
        running = await jobs.list("running")
    assert len(emulator.creates) == 2
    assert [it.generation_id for it in running] == [None, None]


async def test_a_changed_file_is_not_sent(database: Path, tmp_path: Path) -> None:
    """What is paid for is what was submitted."""
    image = tmp_path / "mona.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n one")
    request = ImageToVideo(image_url=image, prompt="She smiles")
    async with Emulator(speed=QUICK, size=64) as emulator, client_of(emulator) as kling:
        async with DurableKling(database, check_media=False) as jobs:
            await jobs.submit(request, key="a")
            image.write_bytes(b"\x89PNG\r\n\x1a\n two")
            with pytest.raises(JobConflictError, match="image_url"):
                await jobs.submit(request, key="a")
        async with DurableKling(database, kling) as jobs:
            job = await until(jobs, "a", JobState.FAILED)
    assert job.error is not None
    assert "which has changed" in job.error
    assert not emulator.creates


@pytest.mark.parametrize("inline", [False, True])
async def test_a_missing_file_holds_its_job_unless_it_is_in_the_database(
    database: Path, tmp_path: Path, *, inline: bool
) -> None:
    """On another machine a path may lead nowhere: that is mended, not paid for."""
    image = tmp_path / "mona.png"
    image.write_bytes(PNG)
    async with Emulator(speed=QUICK, size=64) as emulator, client_of(emulator) as kling:
        async with DurableKling(database, inline_files=inline) as jobs:
            await jobs.submit(
                ImageToVideo(image_url=image, prompt="She smiles"), key="a"
            )
        image.unlink()
        async with DurableKling(database, kling) as jobs:
            state = JobState.DONE if inline else JobState.HELD
            status = await until(jobs, "a", state)
    assert len(emulator.creates) == int(inline)
    assert inline or "mona.png" in str(status.error)


async def test_a_missing_image_is_refused_at_once(database: Path) -> None:
    """Nothing is submitted that could not be sent."""
    async with DurableKling(database) as jobs:
        with pytest.raises(InvalidRequestError, match="which is missing"):
            await jobs.submit(
                ImageToVideo(image_url=Path("no.png"), prompt="No"), key="a"
            )
        assert await jobs.list() == []


@pytest.mark.parametrize(
    "options, told",
    [
        ({"batch": "a:b"}, "batch"),
        ({"batch": 5}, "batch"),
        ({"inputs": "folder"}, "inputs"),
        ({"inputs": 5}, "inputs"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"creates_per_minute": 1.5}, "creates_per_minute"),
        ({"on_uncertain": "retry"}, "on_uncertain"),
        ({"wait_timeout": -1}, "wait_timeout"),
        ({"database": "mysql://host/name"}, "postgresql://"),
        ({"database": "sqlite://"}, "sqlite:///jobs.db"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], told: str) -> None:
    """With what is allowed instead."""
    with pytest.raises(ConfigurationError, match=told):
        DurableKling(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", "a" * 201, "two\nlines", 5, None, b"a"])
async def test_a_key_that_cannot_be_listed_is_refused(
    database: Path, key: object
) -> None:
    """Keys are read by people, in one line."""
    async with DurableKling(database) as jobs:
        new = NewJob(request=prompt(), key=key)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="key: given"):
            await jobs.submit_many([new])


@pytest.mark.parametrize("credits_", [-1, float("nan"), "5", True])
async def test_a_budget_is_a_number_of_credits(
    database: Path, credits_: object
) -> None:
    """Nothing else; no bound and an infinite one are as good as each other."""
    async with DurableKling(database) as jobs:
        with pytest.raises(ConfigurationError, match="budget: given"):
            await jobs.set_budget(credits_)  # type: ignore[arg-type]
        await jobs.set_budget(None)
        assert (await jobs.account()).budget is None


async def test_closed_jobs_say_so(database: Path) -> None:
    """Also before they are opened."""
    jobs = DurableKling(database)
    with pytest.raises(ClientClosedError, match="not open"):
        await jobs.list()


async def test_keys_may_hold_anything_printable(database: Path) -> None:
    """Colons, percent signs and umlauts do not mix jobs up."""
    keys = ["a", "a:1", "a:1:1", "a%", "a_", "ä ö/ü", "ab"]
    async with DurableKling(database) as jobs:
        await jobs.submit_many([NewJob(request=prompt(key), key=key) for key in keys])
        for key in keys:
            assert (await jobs.status(key)).key == key
        assert sorted(it.key for it in await jobs.list()) == sorted(keys)


async def test_a_job_waits_for_as_long_as_it_is_told(database: Path) -> None:
    """A caller's patience ends, the job does not."""
    async with DurableKling(database) as jobs:
        job = await jobs.submit(prompt(), key="a")
        with pytest.raises(JobError, match=r"not ended after 0\.1 s; it goes on"):
            await job.result(timeout=0.1)
        assert (await job.status()).state is JobState.QUEUED


def _png() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (320, 320), "teal").save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()
