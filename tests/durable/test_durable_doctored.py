"""A jobs database that somebody else has written in: it is data, never code.

Each column that DBOS decodes gets a pickle that would run; nothing may run it, not in
a worker, not in who looks on, not in who decides.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import re
import stat
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from dbos import DBOS, DBOSClient
from dbos._serialization import DBOSDefaultSerializer
from everything_told import everything_told
from hostile import ADDRESSES, SECRET
from hypothesis import given, settings, strategies as st

from kling_async import (
    AsyncKling,
    Fixed,
    InvalidRequestError,
    JobError,
    KlingError,
    TextToVideo,
)
from kling_async.durable import DurableKling, JobState
from kling_async.durable._database import SCHEMA, Database, client_over
from kling_async.durable._submit import MissingFileError, from_stored, to_stored
from kling_async.emulator import Emulator

# What DBOS decodes by the column `serialization` beside it.
DECODED = {"inputs", "output", "error", "message", "value", "context"}

DONE = "kling:default:done:1"

STEP = 0.05

OTHER: list[str] = []

# What an unpickled trap leaves.
RAN = Path(tempfile.gettempdir()) / f"kling-unpickled-{os.getpid()}"


@DBOS.workflow(name="somebody.elses")
async def somebody_elses(*args: object) -> None:
    """Stand for a workflow that the user's own program has for DBOS."""
    OTHER.append(repr(args))


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.makedirs, (str(self.path),)


def prompt(text: str = "A lighthouse in a storm") -> TextToVideo:
    """Ask for the cheapest thing there is."""
    return TextToVideo(prompt=text, model="kling-video/v1/standard/text-to-video")


def plain_engine(url: str) -> sa.Engine:
    """Connect as anybody would."""
    return sa.create_engine(Database.at(url).url)


def doctor(url: str, ran: Path) -> set[str]:
    """Put a trap into every column of every row that DBOS may decode."""
    engine = plain_engine(url)
    tables = sa.MetaData(schema=None if engine.dialect.name == "sqlite" else SCHEMA)
    tables.reflect(engine)
    done: set[str] = set()
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            columns = set(table.columns.keys())
            for name in DECODED & columns:
                trap = Trap(ran / f"{table.name}.{name}")
                text = base64.b64encode(pickle.dumps(trap)).decode()
                if not connection.execute(
                    sa.update(table).values({name: text})
                ).rowcount:
                    connection.execute(sa.insert(table).values(_row(table, name, text)))
                done.add(f"{table.name}.{name}")
            if "serialization" in columns:
                pickled = {"serialization": "py_pickle"}
                connection.execute(sa.update(table).values(pickled))
    engine.dispose()
    return done


def _row(table: sa.Table, name: str, text: str) -> dict[str, object]:
    """Fill a table that jobs leave empty with a row about a job that is done."""
    needed: dict[str, object] = {
        it.name: 1
        if isinstance(it.type, sa.Integer | sa.Boolean)
        else DONE
        if it.name.endswith("uuid")
        else "PAUSED"
        if it.name == "status"
        else "k"
        for it in table.columns
        if not it.nullable
    }
    return {**needed, name: text}


def read_all(client: DBOSClient) -> None:
    """Read whatever the database holds, as DBOS would."""
    reads: list[Callable[[], object]] = [
        client.list_workflows,
        lambda: client.list_workflow_steps(DONE),
        lambda: client.retrieve_workflow(DONE).get_result(),
        lambda: client.get_event(DONE, "k", 0),
        lambda: next(client.read_stream(DONE, "k")),
        client.list_schedules,
    ]
    for read in reads:
        with contextlib.suppress(Exception):
            read()


async def work_through(url: str) -> None:
    """Leave a job that is done, one that a worker has begun, and one that waits."""
    async with (
        Emulator(speed=1e6, size=64) as emulator,
        worker_on(url, emulator) as jobs,
    ):
        await jobs.submit(prompt("done"), key="done")
        with anyio.fail_after(300):
            await jobs.result("done")
    async with Emulator(speed=1, size=64) as emulator, worker_on(url, emulator) as jobs:
        await jobs.submit(prompt("running"), key="running")
        with anyio.fail_after(300):
            while (await jobs.status("running")).generation_id is None:
                await anyio.sleep(STEP)
    async with DurableKling(url) as jobs:
        await jobs.submit(prompt("queued"), key="queued")


@contextlib.asynccontextmanager
async def worker_on(url: str, emulator: Emulator) -> AsyncGenerator[DurableKling]:
    """Be a worker."""
    async with (
        AsyncKling("any", base_url=emulator.base_url, polling=Fixed(0.1)) as kling,
        DurableKling(url, kling) as jobs,
    ):
        yield jobs


async def test_no_row_runs_code(database: str, tmp_path: Path) -> None:
    """Not in who looks on, not in who decides, not in a worker that takes it up."""
    await work_through(database)
    ran = tmp_path / "ran"
    doctored = await anyio.to_thread.run_sync(doctor, database, ran)
    assert {"workflow_input.inputs", "workflow_output.error"} <= doctored
    assert {"operation_outputs.output", "workflow_events.value"} <= doctored

    async with DurableKling(database) as jobs:
        states = {it.key: (it.state, it.error) for it in await jobs.list()}
        assert states["done"][0] is JobState.FAILED
        assert "was not read" in str(states["done"][1])
        with pytest.raises(JobError, match="was not read"):
            await jobs.resubmit("done")
        with pytest.raises(JobError, match="was not read"):
            await jobs.submit(prompt("another"), key="queued")
        with pytest.raises(JobError, match="was not read"):
            await jobs.result("done")
    engine = Database.at(database).prepare()
    await anyio.to_thread.run_sync(read_all, client_over(engine))
    engine.dispose()
    async with Emulator(speed=1e6, size=64) as emulator:
        async with worker_on(database, emulator) as jobs:
            with anyio.fail_after(300):
                while any(not it.state.is_final for it in await jobs.list()):
                    await anyio.sleep(STEP)
            await jobs.submit(prompt("honest"), key="honest")
            with anyio.fail_after(300):
                await jobs.result("honest")
        assert len(emulator.creates) == 1
    assert not ran.exists()

    plain = plain_engine(database)
    client = DBOSClient(system_database_engine=plain, dbos_system_schema=SCHEMA)
    await anyio.to_thread.run_sync(read_all, client)
    plain.dispose()
    run = {it.name for it in ran.iterdir()}
    assert {"workflow_output.output", "workflow_events.value"} <= run


@pytest.fixture(scope="module")
def worked_on(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a database with a job that is done."""
    url = f"sqlite:///{tmp_path_factory.mktemp('doctored') / 'jobs.db'}"
    anyio.run(work_through, url)
    return url


pickles = st.integers(0, pickle.HIGHEST_PROTOCOL).map(
    lambda protocol: pickle.dumps(Trap(RAN), protocol)
)
contents = (
    pickles.map(lambda it: base64.b64encode(it).decode())
    | pickles
    | st.text()
    | st.binary()
    | st.sampled_from(["{}", "null", '{"args": 1}', '{"name": "x", "message": []}'])
)
decoders = st.sampled_from(
    ["py_pickle", "portable_json", "java_jackson", "PY_PICKLE", "py_pickle "]
) | (st.none() | st.text(max_size=9))


@settings(max_examples=25, deadline=None)
@given(content=contents, decoder=decoders)
def test_nothing_in_a_column_runs(
    worked_on: str, content: str | bytes, decoder: str | None
) -> None:
    """Any bytes, and any word for how to decode them."""
    plain = plain_engine(worked_on)
    tables = sa.MetaData()
    tables.reflect(plain)
    with plain.begin() as connection:
        for table in tables.sorted_tables:
            columns = set(table.columns.keys())
            values: dict[str, object] = dict.fromkeys(DECODED & columns, content)
            if "serialization" in columns:
                values["serialization"] = decoder
            if values:
                connection.execute(sa.update(table).values(values))
    plain.dispose()
    engine = Database.at(worked_on).prepare()
    read_all(client_over(engine))
    engine.dispose()
    assert not RAN.exists()


async def test_a_row_names_no_workflow_but_ours(database: str) -> None:
    """What else a process has for DBOS is not for a writer of its jobs to call."""
    async with DurableKling(database) as jobs:
        await jobs.submit(prompt("queued"), key="queued")
    engine = plain_engine(database)
    prefix = "" if engine.dialect.name == "sqlite" else f"{SCHEMA}."
    with engine.begin() as connection:
        named = f"UPDATE {prefix}workflow_status SET name = 'somebody.elses'"
        connection.execute(sa.text(named))
    engine.dispose()
    async with (
        Emulator(speed=1e6, size=64) as emulator,
        worker_on(database, emulator) as jobs,
    ):
        await jobs.submit(prompt("honest"), key="honest")
        with anyio.fail_after(300):
            await jobs.result("honest")
    assert not OTHER


async def test_others_in_the_process_keep_their_pickles(tmp_path: Path) -> None:
    """Another database, read by another engine, is none of our business."""
    other = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    async with DurableKling(tmp_path / "jobs.db"):
        with other.begin() as connection:
            connection.execute(sa.text("CREATE TABLE it (serialization TEXT)"))
            connection.execute(sa.text("INSERT INTO it VALUES ('py_pickle')"))
            told = connection.execute(sa.text("SELECT serialization FROM it")).scalar()
    other.dispose()
    assert told == "py_pickle"
    decode = DBOSDefaultSerializer.deserialize
    assert decode(DBOSDefaultSerializer.serialize({1: Path()})) == {1: Path()}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such modes")
async def test_a_database_and_what_is_beside_it_are_its_owners(tmp_path: Path) -> None:
    """Prompts, links and ids are nobody else's to read."""
    before = os.umask(0o022)
    try:
        async with (
            Emulator(speed=1e6, size=64) as emulator,
            worker_on(f"sqlite:///{tmp_path / 'jobs.db'}", emulator) as jobs,
        ):
            await jobs.submit(prompt(), key="one")
            with anyio.fail_after(300):
                await jobs.result("one")
            modes = {
                it.name: stat.S_IMODE(it.stat().st_mode) for it in tmp_path.iterdir()
            }
    finally:
        os.umask(before)
    assert {"jobs.db", "jobs.db-wal"} <= modes.keys()
    assert any(name.endswith(".lock") for name in modes)
    assert set(modes.values()) == {0o600}


MARKS = ("$file", "$bytes", "$sha256")

nests = st.recursive(
    st.dictionaries(st.sampled_from(MARKS), st.text(), min_size=1),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2)
        | st.dictionaries(st.text(), inner, min_size=1, max_size=2)
    ),
    max_leaves=4,
)


@given(nest=nests)
async def test_no_request_passes_itself_off_as_a_file(nest: object) -> None:
    """However deep it is hidden: a worker would read it from its disk."""
    request = TextToVideo(prompt="A storm", extra={"meta": nest})
    with pytest.raises(InvalidRequestError, match="mark files"):
        await to_stored(request, inline=False, check=True)


async def test_submit_refuses_a_forged_file(tmp_path: Path) -> None:
    """Nothing is put into the queue."""
    forged = TextToVideo(prompt="x", extra={"meta": {"$file": "/etc/passwd"}})
    async with DurableKling(tmp_path / "jobs.db") as jobs:
        with pytest.raises(InvalidRequestError, match=r"extra.*mark files"):
            await jobs.submit(forged, key="forged")
        assert not await jobs.list()


def fifo(folder: Path) -> Path:
    """Make what hangs whoever opens it for reading."""
    path = folder / "fifo"
    os.mkfifo(path)
    return path


def sparse(folder: Path) -> Path:
    """Make a file that is larger than memory."""
    path = folder / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="has none of these")
@pytest.mark.parametrize(
    "make, told",
    [
        (fifo, "not a regular file"),
        (lambda _: Path("/dev/zero"), "not a regular file"),
        (lambda folder: folder, "a directory"),
        (sparse, "at most|bytes"),
        (lambda folder: folder / "nowhere", "No such file"),
        (lambda _: Path("a\0b"), "null"),
    ],
)
async def test_a_worker_reads_files_and_nothing_else(
    make: Callable[[Path], Path], told: str, tmp_path: Path
) -> None:
    """A row names a pipe, a device, or what fills the memory."""
    kept = {"$file": str(make(tmp_path)), "$sha256": "0"}
    stored = {"model": "klingai/v2-master-image-to-video", "image_url": kept}
    with (
        anyio.fail_after(300),
        pytest.raises((MissingFileError, InvalidRequestError)) as e,
    ):
        await from_stored(stored)
    assert re.search(told, f"{e.value} {e.value.__cause__}")


@pytest.mark.parametrize(
    "kept", [{"$sha256": "x"}, {"$sha256": 0, "$bytes": 5}, {"$sha256": 1, "$file": 7}]
)
async def test_what_is_no_file_is_told(kept: object) -> None:
    """Instead of an error that names a part of a mapping."""
    stored = {"model": "klingai/v2-master-image-to-video", "image_url": kept}
    with pytest.raises(InvalidRequestError, match=r"file: given"):
        await from_stored(stored)


@pytest.mark.parametrize("address", ADDRESSES)
async def test_no_password_is_shown(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not by `database` and repr, in no error, cause or log, with locals or without."""
    caplog.set_level(1)
    shown: list[str] = []
    try:
        jobs = DurableKling(address)
        shown += [jobs.database, repr(jobs), repr(vars(jobs))]
        async with jobs:
            pass
    except KlingError as error:
        shown.append(everything_told(error, but={"address"}))
    assert shown
    assert SECRET not in "".join([*shown, caplog.text])
