"""Durable jobs on databases of all kinds, and on what is none.

A real PostgreSQL from a wheel; workers in processes of their own, killed.
"""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Literal

import anyio
import pytest
import sqlalchemy as sa
from durable_worker import worker

from kling_async import AsyncKling, ConfigurationError, Fixed, TextToVideo
from kling_async.durable import DurableKling, JobState, NewJob
from kling_async.durable._database import FORMAT, Database, version_name
from kling_async.durable._engine import locks_on
from kling_async.emulator import Emulator


def prompt(text: str = "A lighthouse in a storm") -> TextToVideo:
    """Ask for the cheapest thing there is."""
    return TextToVideo(prompt=text, model="kling-video/v1/standard/text-to-video")


async def all_are(jobs: DurableKling, state: JobState) -> None:
    """Wait until all jobs are in a state."""
    with anyio.fail_after(300):
        while {it.state for it in await jobs.list()} != {state}:
            await anyio.sleep(0.1)


async def test_jobs_run_on_every_database(database: str, tmp_path: Path) -> None:
    """Queue, budget, files: the same on SQLite and PostgreSQL."""
    names = [f"{n}.mp4" for n in range(5)]
    async with (
        Emulator(speed=1000, size=64) as emulator,
        AsyncKling("any", base_url=emulator.base_url, polling=Fixed(0.1)) as kling,
        DurableKling(database, kling, creates_per_minute=100) as jobs,
    ):
        await jobs.submit_many(
            [
                NewJob(request=prompt(name), key=name, output=tmp_path / name)
                for name in names
            ]
        )
        await all_are(jobs, JobState.DONE)
    assert len(emulator.creates) == 5
    assert all((tmp_path / name).stat().st_size for name in names)


async def test_a_killed_worker_is_noticed_and_its_jobs_go_on(database: str) -> None:
    """Another worker takes them over, by their ids, while it is running itself."""
    async with (
        Emulator(speed=60, size=64) as emulator,
        AsyncKling("any", base_url=emulator.base_url, polling=Fixed(0.2)) as kling,
    ):
        async with DurableKling(database) as jobs:
            await jobs.submit_many(
                [NewJob(request=prompt(), key=f"{n}") for n in range(4)]
            )
            async with worker(database, emulator) as victim:
                with anyio.fail_after(300):
                    while not all(it.generation_id for it in await jobs.list()):
                        await anyio.sleep(0.1)
                victim.send_signal(signal.SIGKILL)
        async with DurableKling(database, kling) as jobs:
            await all_are(jobs, JobState.DONE)
    assert len(emulator.creates) == 4


async def test_two_workers_share_a_batch(postgres: str) -> None:
    """Each does a part, none does what the other does."""
    async with Emulator(speed=400, size=64) as emulator:
        async with (
            DurableKling(postgres, max_in_flight=6) as jobs,
            worker(postgres, emulator, 6),
            worker(postgres, emulator, 6),
        ):
            await jobs.submit_many(
                [NewJob(request=prompt(), key=f"{n}") for n in range(30)]
            )
            await all_are(jobs, JobState.DONE)
            workers = {it.worker for it in await jobs.list()}
    assert len(emulator.creates) == 30
    assert len({it.client_request_id for it in emulator.creates}) == 30
    assert len(workers) == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_worker_is_gone_when_its_lock_is(
    kind: Literal["sqlite", "postgres"], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Neither before, nor by a look at another one."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    if kind == "postgres":
        url = request.getfixturevalue("postgres")
    database = Database.at(url)
    engine = database.prepare()
    one, other = (locks_on(database, engine, name) for name in ("one", "other"))
    one.acquire()
    one.acquire()
    with other.try_claim("one") as is_gone:
        assert not is_gone
    one.release()
    with other.try_claim("one") as is_gone, one.try_claim("one") as is_seen_twice:
        assert is_gone
        assert not is_seen_twice
    engine.dispose()
    assert not list(tmp_path.glob("*.lock"))


async def test_an_unreachable_server_is_told_with_its_address() -> None:
    """At once, before anything is submitted, and without the password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"postgresql://me:s3cret@127.0.0.1:{port}/jobs"
        with pytest.raises(ConfigurationError, match="refused") as caught:
            async with DurableKling(url):
                pass
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("password", ["s3cret", "s3:cret", "s3/cret", "s3@cret"])
def test_a_url_that_is_refused_is_told_without_its_password(password: str) -> None:
    """Whatever it holds, and wherever a careless reader would take its end to be."""
    with pytest.raises(ConfigurationError, match="database: given") as caught:
        Database.at(f"mysql://me:{password}@db.example.com/jobs")
    assert "db.example.com" in str(caught.value)
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


async def test_a_database_that_is_not_there_is_not_made(server: str) -> None:
    """A slip in a URL makes no second, empty world."""
    url = server.replace("/postgres?", "/typo?")
    with pytest.raises(ConfigurationError, match='"typo" does not exist'):
        async with DurableKling(url):
            pass


async def test_a_database_of_a_newer_version_is_left_alone(database: str) -> None:
    """This version would not know what it does."""
    async with DurableKling(database):
        pass
    engine = Database.at(database).prepare()
    schema = "" if engine.dialect.name == "sqlite" else "kling_async."
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                f"INSERT INTO {schema}application_versions "
                "(version_id, version_name) VALUES ('x', :name)"
            ),
            {"name": version_name(FORMAT + 1)},
        )
    engine.dispose()
    with pytest.raises(ConfigurationError, match=r"newer.*upgrade kling_async"):
        async with DurableKling(database):
            pass


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """Somebody gave the wrong file."""
    file = tmp_path / "mona.db"
    file.write_bytes(b"this is not a database, whatever its name" * 100)
    with pytest.raises(ConfigurationError, match="not a database"):
        async with DurableKling(file):
            pass
    assert file.read_bytes().startswith(b"this is not")


async def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    """Rather than what SQLite says of it."""
    with pytest.raises(ConfigurationError, match=r"no directory .*nowhere"):
        async with DurableKling(tmp_path / "nowhere" / "jobs.db"):
            pass
