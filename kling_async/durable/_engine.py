"""The engine in this process: DBOS started and stopped, workers that died noticed.

DBOS keeps to itself: an event loop and threads of its own, no console output, no
telemetry, no server.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import secrets
import socket
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final, Protocol

import anyio
import sqlalchemy as sa
from anyio import to_thread
from attrs import define, field, frozen
from dbos import (
    DBOS,
    DBOSClient,
    DBOSPortableJSONSerializer,
    error as dbos_error,
)
from dbos._dbos import _get_dbos_instance  # pyright: ignore[reportPrivateUsage]
from dbos._recovery import recover_pending_workflows
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from kling_async._errors import ConfigurationError
from kling_async._hooks import logger
from kling_async.durable._database import (
    APPLICATION,
    PRIVATE,
    SCHEMA,
    Database,
    Outage,
    is_transient,
    version_name,
)
from kling_async.durable._store import EVENT, PERMIT, PERMITS, QUEUE, WORKFLOW
from kling_async.durable._webhook import EVENTS, MESSENGERS, Messenger
from kling_async.durable._worker import CONTEXTS, QUEUE_POLL, WorkerContext


def new_worker_id() -> str:
    """Name this process, readably and never the same twice."""
    host = "".join(it if it.isalnum() else "-" for it in socket.gethostname())
    return f"{host[:40]}-{secrets.token_hex(4)}"


class WorkerLocks(Protocol):
    """The locks of the workers on one database. Its methods block."""

    def acquire(self) -> None:
        """Hold this worker's lock; call it repeatedly, since a session may be lost."""
        ...

    def try_claim(self, worker: str) -> contextlib.AbstractContextManager[bool]:
        """Tell whether a worker is gone; while inside, nobody else can."""
        ...

    def release(self) -> None:
        """Release the lock."""
        ...


def locks_on(database: Database, engine: sa.Engine, worker: str) -> WorkerLocks:
    """Give the kind of locks that a database goes with."""
    if database.is_sqlite:
        return FileLocks(database.file, worker)
    return SessionLocks(engine, worker)


@define(eq=False)
class FileLocks:
    """Locks on files beside an SQLite database: all workers are on this machine."""

    file: Path
    worker: str
    _own: FileLock | None = None

    def acquire(self) -> None:
        """Lock the worker's own file."""
        if self._own is None:
            self._own = self._lock(self.worker)
            self._own.acquire(blocking=False)

    @contextlib.contextmanager
    def try_claim(self, worker: str) -> Generator[bool]:
        """Try another's file; the file of one that is gone is removed."""
        lock = self._lock(worker)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            self._remove(lock)

    def release(self) -> None:
        """Remove the worker's own file."""
        own, self._own = self._own, None
        if own is not None:
            self._remove(own)

    def _lock(self, worker: str) -> FileLock:
        name = f"{self.file.name}.{worker}.lock"
        # Used from whichever thread is free, so not a lock of one thread.
        return FileLock(self.file.with_name(name), mode=PRIVATE, thread_local=False)

    def _remove(self, lock: FileLock) -> None:
        file = Path(lock.lock_file)
        try:
            # Removed while it is held, so that nobody locks a file without a name.
            file.unlink(missing_ok=True)
        except PermissionError:
            # Windows removes no open file; one that is open again by then stays.
            lock.release()
            with contextlib.suppress(OSError):
                file.unlink()
        lock.release()


@define(eq=False)
class SessionLocks:
    """Advisory locks of PostgreSQL sessions, as wide as the database."""

    engine: sa.Engine
    worker: str
    _session: sa.Connection | None = field(default=None)

    def acquire(self) -> None:
        """Lock the worker's own name, again if the session was lost."""
        if self._session is not None:
            try:
                self._session.execute(sa.text("SELECT 1"))
            except SQLAlchemyError:
                self.release()
            else:
                return
        session = self._connect()
        if self._try(session, self.worker):
            self._session = session
        else:  # somebody looks at this very moment whether it is gone
            session.close()

    @contextlib.contextmanager
    def try_claim(self, worker: str) -> Generator[bool]:
        """Try another's name."""
        with self._connect() as session:
            taken = self._try(session, worker)
            try:
                yield taken
            finally:
                if taken:
                    self._unlock(session, worker)

    def release(self) -> None:
        """Let go of the worker's own name, and of the session."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            self._unlock(session, self.worker)
        except SQLAlchemyError:
            session.invalidate()  # it is lost, and the lock with it
        finally:
            session.close()

    def _unlock(self, session: sa.Connection, worker: str) -> None:
        query = "SELECT pg_advisory_unlock(hashtextextended(:name, 0))"
        session.execute(sa.text(query), {"name": _name(worker)})

    def _connect(self) -> sa.Connection:
        # Without a transaction: an idle one would hold back the server's clean-up.
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def _try(self, session: sa.Connection, worker: str) -> bool:
        query = "SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"
        return bool(session.execute(sa.text(query), {"name": _name(worker)}).scalar())


def _name(worker: str) -> str:
    return f"kling_async worker {worker}"


# How often it is looked whether another worker is gone, in seconds.
LOOK_OUT: Final = 5.0

# How long a stop waits for creates under way to get their ids, in seconds.
_GRACE = 60.0

_THREADS = 16

# A look costs as much as a job does: where nobody waits for it, it is taken less often.
_CALM_POLL = 2 * QUEUE_POLL

_MINUTE = 60.0

# How long a queue may take over what it is at when the engine stops, in seconds.
_QUEUE_PATIENCE = 10.0

# Without a handler of its own the engine would write to the console.
logging.getLogger("dbos").addHandler(logging.NullHandler())


@frozen(kw_only=True)
class FleetLimits:
    """What all workers on a database keep to together.

    Attributes:
        max_in_flight: How many jobs may be between create and end.
        creates_per_minute: How many creates may begin in any minute.
    """

    max_in_flight: int
    creates_per_minute: int | None = None


@define(eq=False)
class Engine:
    """DBOS on one database; there can be one in a process."""

    database: Database
    connections: sa.Engine
    limits: FleetLimits
    client: DBOSClient
    outage: Outage
    worker: str = field(factory=new_worker_id)
    _locks: WorkerLocks = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._locks = locks_on(self.database, self.connections, self.worker)

    async def start(self, context: WorkerContext) -> None:
        """Begin to take jobs from the queue.

        Args:
            context: What they run with.

        Raises:
            ConfigurationError: DBOS is in use in this process already.
        """
        _refuse_second()
        await to_thread.run_sync(self._locks.acquire)
        CONTEXTS.append(context)
        queues, webhook = [QUEUE], context.worker.webhook
        if self.limits.creates_per_minute is not None:
            queues.append(PERMITS)
        if webhook is not None:
            queues.append(EVENTS)
            MESSENGERS.append(Messenger(webhook, context.portal))
        try:
            await to_thread.run_sync(self._launch, queues)
        except BaseException:
            await self.stop(context)
            raise

    async def stop(self, context: WorkerContext) -> None:
        """Let creates get their ids, leave the waits to others, and stop."""
        with anyio.CancelScope(shield=True):
            context.worker.drain()
            with anyio.move_on_after(_GRACE):
                await context.no_create()
            self.outage.close()
            await to_thread.run_sync(_stop_engine)
            CONTEXTS.remove(context)
            MESSENGERS.clear()
            await to_thread.run_sync(self._locks.release)

    async def look_out(self) -> None:
        """Take over from workers that are gone, until cancelled."""
        while True:
            try:
                await to_thread.run_sync(self._locks.acquire, abandon_on_cancel=True)
                await self._take_over()
                await to_thread.run_sync(self._resume_dropped, abandon_on_cancel=True)
                self.outage.end()
            except Exception as error:  # noqa: BLE001 (the next look may succeed)
                if is_transient(error):
                    self.outage.begin(error)
                else:
                    logger.warning("could not look for lost workers: %s", error)
            await anyio.sleep(LOOK_OUT)

    def _resume_dropped(self) -> None:
        """Queue jobs again that the database failed; also shows that it writes."""
        with self.connections.begin() as connection:
            connection.execute(sa.text(self._probe))
        jobs = _get_dbos_instance()._sys_db  # noqa: SLF001 (no other way)  # pyright: ignore[reportPrivateUsage]
        for context in CONTEXTS:
            while context.dropped:
                jobs.reenqueue_for_recovery(context.dropped[0], [self.worker], QUEUE)
                del context.dropped[0]

    @property
    def _probe(self) -> str:
        schema = "" if self.database.is_sqlite else f"{SCHEMA}."
        return f"UPDATE {schema}kling_budgets SET credits = credits"  # noqa: S608 (a constant)

    async def _take_over(self) -> None:
        rows = await self.client.list_workflows_async(
            status="PENDING",
            name=[WORKFLOW, PERMIT, EVENT],
            load_input=False,
            load_output=False,
        )
        others = {row.executor_id for row in rows} - {self.worker, None}
        for other in sorted(str(it) for it in others):
            await to_thread.run_sync(
                self._take_over_from, other, abandon_on_cancel=True
            )

    def _take_over_from(self, other: str) -> None:
        with self._locks.try_claim(other) as is_gone:
            if is_gone:
                # Back into the queue, if they are still that worker's.
                jobs = recover_pending_workflows(_get_dbos_instance(), [other])
                logger.warning("worker %s is gone; took over %d jobs", other, len(jobs))

    def _launch(self, queues: Sequence[str]) -> None:
        DBOS(
            config={
                "name": APPLICATION,
                # Whose rows are read as JSON, and which brings the password itself.
                "system_database_engine": self.connections,
                "dbos_system_schema": SCHEMA,
                "application_version": version_name(),
                "executor_id": self.worker,
                "serializer": DBOSPortableJSONSerializer(),
                "log_level": "ERROR",
                "enable_otlp": False,
                "max_executor_threads": _THREADS,
            }
        )
        _run_only_ours()
        # Before the launch: the engine looks for new queues only now and then.
        self._register_queues()
        DBOS.listen_queues(queues)  # each that is listened to is asked all the time
        DBOS.launch()

    def _register_queues(self) -> None:
        self.client.register_queue(
            QUEUE,
            global_concurrency=self.limits.max_in_flight,
            polling_interval_sec=QUEUE_POLL,
            on_conflict="always_update",
        )
        rate = self.limits.creates_per_minute
        self.client.register_queue(
            PERMITS,
            limiter={"limit": rate, "period": _MINUTE} if rate else None,
            polling_interval_sec=QUEUE_POLL if rate else _CALM_POLL,
            on_conflict="always_update",
        )
        self.client.register_queue(
            EVENTS, polling_interval_sec=_CALM_POLL, on_conflict="always_update"
        )


def _stop_engine() -> None:
    """Let the queues end first: DBOS would close the loop that they start jobs on."""
    running = _current_engine()
    if running is not None:
        for ended in running.background_thread_stop_events:
            ended.set()
    for thread in threading.enumerate():
        # One that is only being started will see that it is to end.
        if thread.name.startswith("queue-worker-") and thread.is_alive():
            thread.join(_QUEUE_PATIENCE)
    DBOS.destroy()


def _run_only_ours() -> None:
    """Let rows name our workflows alone, not what else the process has for DBOS."""
    engine = vars(_get_dbos_instance())
    ours = copy.copy(engine["_registry"])
    names = (WORKFLOW, PERMIT, EVENT)
    ours.workflow_info_map = {it: ours.workflow_info_map[it] for it in names}
    engine["_registry"] = ours


def _current_engine() -> DBOS | None:
    try:
        return _get_dbos_instance()
    except dbos_error.DBOSException:
        return None


def _refuse_second() -> None:
    if _current_engine() is None:
        return
    raise ConfigurationError(
        "DBOS is running in this process already, and it can only run once: use the "
        "DurableKling that is open, or another process"
    )
