"""A database that is away for a while: no job fails for it, nothing is paid twice."""

from __future__ import annotations

import logging
import sqlite3
import urllib.parse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from anyio.abc import ByteStream, SocketStream, TaskGroup
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kling_async import AsyncKling, ConfigurationError, Fixed, TextToVideo
from kling_async.durable import DurableKling, JobState, NewJob, _database
from kling_async.durable._database import Database, Outage, close, is_transient, persist
from kling_async.emulator import Emulator

MODEL = "kling-video/v1/standard/text-to-video"


class Link:
    """A way to a PostgreSQL server that can be cut, as a restart of it cuts all."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.is_cut = False
        self._streams: set[ByteStream] = set()

    async def serve(self, client: SocketStream) -> None:
        """Carry a connection, unless the link is cut."""
        async with client:
            if self.is_cut:
                return
            server = await anyio.connect_unix(self.socket)
            both = {client, server}
            self._streams |= both
            async with server, anyio.create_task_group() as tasks:
                tasks.start_soon(self._carry, client, server, tasks)
                tasks.start_soon(self._carry, server, client, tasks)
            self._streams -= both

    async def cut(self) -> None:
        """Break all connections, and take none."""
        self.is_cut = True
        for stream in list(self._streams):
            await stream.aclose()

    async def _carry(
        self, one: ByteStream, other: ByteStream, tasks: TaskGroup
    ) -> None:
        try:
            async for data in one:
                await other.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def link_to(url: str) -> AsyncGenerator[tuple[Link, str]]:
    """Give a link to a server on a socket, and the URL that goes over it."""
    parts = urllib.parse.urlsplit(url)
    folder = urllib.parse.parse_qs(parts.query)["host"][0]
    link = Link(f"{folder}/.s.PGSQL.5432")
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, link.serve)
        yield link, f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def test_jobs_outlive_a_restart_of_their_server(
    postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They end while it is away; when it is back they are done, and it is told."""
    async with (
        link_to(postgres) as (link, url),
        Emulator(speed=60, size=64) as emulator,
        AsyncKling("any", base_url=emulator.base_url, polling=Fixed(0.1)) as kling,
        DurableKling(url, kling) as jobs,
    ):
        await jobs.submit_many(
            NewJob(request=TextToVideo(prompt=f"{n}", model=MODEL), key=f"{n}")
            for n in range(4)
        )
        with anyio.fail_after(120):
            while not all(it.generation_id for it in await jobs.list()):
                await anyio.sleep(0.05)
            await link.cut()
            while len(emulator.charges) < 4:
                await anyio.sleep(0.05)
            while "the database is away" not in caplog.text:
                await anyio.sleep(0.05)
            link.is_cut = False
            async for _ in jobs.watch():
                pass
        statuses = await jobs.list()
        account = await jobs.account()
    assert {it.state for it in statuses} == {JobState.DONE}
    assert len(emulator.creates) == 4
    assert account.committed == sum(it.credits_used or 0 for it in statuses)
    assert "the database is back" in caplog.text
    # Each once, however many connections and jobs noticed it.
    assert caplog.text.count("the database is away") <= 2


async def test_jobs_can_be_closed_while_the_server_is_away(postgres: str) -> None:
    """They are handed over: no close waits for a database."""
    async with (
        link_to(postgres) as (link, url),
        Emulator(speed=0.01, size=64) as emulator,
        AsyncKling("any", base_url=emulator.base_url, polling=Fixed(0.1)) as kling,
    ):
        with anyio.fail_after(120):
            async with DurableKling(url, kling) as jobs:
                await jobs.submit(TextToVideo(prompt="x", model=MODEL), key="a")
                while not (await jobs.status("a")).generation_id:
                    await anyio.sleep(0.05)
                await link.cut()
        link.is_cut = False
        async with DurableKling(url) as jobs:
            status = await jobs.status("a")
    assert status.state is JobState.RUNNING
    assert status.generation_id == emulator.creates[0].generation_id


def failure_of(path: Path, *statements: str, pages: int = 0) -> BaseException | None:
    """Let a statement fail, on a database that does not wait."""
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    try:
        with engine.begin() as connection:
            if pages:
                connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
            for statement in statements:
                connection.exec_driver_sql(statement)
    except SQLAlchemyError as error:
        return error
    finally:
        engine.dispose()
    return None


def test_what_passes_is_told_from_what_does_not(tmp_path: Path) -> None:
    """Locked, full and out of reach pass; a wrong statement does not."""
    path = tmp_path / "jobs.db"
    assert failure_of(path, "CREATE TABLE t (x)") is None
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert is_transient(failure_of(path, "INSERT INTO t VALUES (1)"))
    big = "INSERT INTO t VALUES (zeroblob(100000))"
    assert is_transient(failure_of(path, big, pages=2))
    assert is_transient(failure_of(tmp_path / "no" / "jobs.db", "SELECT 1"))
    assert not is_transient(failure_of(path, "SELECT y FROM t"))
    assert not is_transient(failure_of(path, "no SQL"))
    assert not is_transient(None)


@pytest.mark.looptime
async def test_a_statement_of_ours_is_repeated_until_it_succeeds(
    tmp_path: Path,
) -> None:
    """As the engine repeats its own; what cannot succeed is not repeated."""
    path, failures = tmp_path / "jobs.db", [None] * 5
    gone = failure_of(tmp_path / "no" / "jobs.db", "SELECT 1")
    wrong = failure_of(path, "no SQL")
    assert gone is not None
    assert wrong is not None

    def write() -> str:
        if failures:
            failures.pop()
            raise gone
        return "written"

    def slip() -> None:
        raise wrong

    assert await persist(write) == "written"
    with pytest.raises(SQLAlchemyError):
        await persist(slip)


def test_the_engine_repeats_what_fails_on_a_full_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would take it for an end of the job; it is told once that it is away."""
    caplog.set_level(logging.WARNING, "kling_async")
    outage = Outage()
    engine = Database.at(tmp_path / "jobs.db").prepare(outage)
    failures: list[DBAPIError] = []
    for _ in range(3):
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql("PRAGMA max_page_count=1")
                connection.exec_driver_sql("CREATE TABLE t AS SELECT zeroblob(99999)")
        except DBAPIError as error:
            failures.append(error)
    outage.end()
    engine.dispose()
    assert [it.connection_invalidated for it in failures] == [True] * 3
    assert caplog.text.count("the database is away (database or disk is full") == 1
    assert caplog.text.count("the database is back") == 1


def test_transactions_that_meet_are_no_outage(
    postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine repeats the one that lost; nobody is told that the server is away."""
    caplog.set_level(logging.WARNING, "kling_async")
    engine = Database.at(postgres).prepare(Outage())
    table = sa.text("CREATE TABLE met AS SELECT 1 AS n")
    change = sa.text("UPDATE met SET n = n + 1")
    with engine.begin() as connection:
        connection.execute(table)
    one, other = (
        engine.connect().execution_options(isolation_level="SERIALIZABLE")
        for _ in range(2)
    )
    other.execute(sa.text("SELECT n FROM met"))
    with one, other:
        one.execute(change)
        one.commit()
        with pytest.raises(DBAPIError) as failure:
            other.execute(change)
    close(engine)
    assert failure.value.connection_invalidated
    assert "the database is away" not in caplog.text


def test_an_sqlite_that_tells_no_milliseconds_is_helped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Debian 12 and Ubuntu 22.04 have it, on Python 3.12 and newer."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    monkeypatch.setattr(_database, "_ASKS_SQLITE_FOR_TIME", True)
    engine = Database.at(tmp_path / "jobs.db").prepare()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE t (x, at DEFAULT (unixepoch('subsec') * 1000) NOT NULL)"
        )
        connection.exec_driver_sql("INSERT INTO t (x) VALUES (1)")
        told = connection.exec_driver_sql("SELECT at, unixepoch() FROM t").one()
    engine.dispose()
    assert told[0] / 1000 == pytest.approx(told[1], abs=60)


def test_an_sqlite_that_is_too_old_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what was found, what is needed, and the way out; no file is made."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.31.1")
    with pytest.raises(ConfigurationError, match=r"3\.31\.1.*need 3\.35.*PostgreSQL"):
        Database.at(tmp_path / "jobs.db").prepare()
    assert not list(tmp_path.iterdir())
