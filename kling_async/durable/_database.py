"""Which database: its URL made sense of, reached, brought up to date, waited for.

What is wrong with it at the start is told here, before a job is touched; which of
its failures pass, and what is done meanwhile, is decided here as well. Holds no
jobs: those are the engine's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias, TypeVar, cast

import anyio
import sqlalchemy as sa
from anyio import to_thread
from attrs import define, field, frozen
from dbos import DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.exc import (
    DBAPIError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError as PoolTimeoutError,
)

from kling_async._config import Secret, without_secrets
from kling_async._errors import ConfigurationError, drop_frames
from kling_async._hooks import logger

T = TypeVar("T")

APPLICATION = "kling_async"

SCHEMA = "kling_async"

# How a job goes from step to step. A worker takes only jobs of its own format, so
# it changes when a running job could not go on with the steps as they are now.
FORMAT = 1

_JSON = DBOSPortableJSONSerializer().name()

# Of the worker's own, and of DBOS's loop and threads.
_CONNECTIONS = 13

_IDLE_LIMIT = 60_000

_VERSION = re.compile(rf"{APPLICATION}-([0-9]{{1,9}})")

# What jobs ask for, and their videos' links, are their owner's alone.
PRIVATE = 0o600


_ALLOWED = "sqlite:///jobs.db, a path, or postgresql://user@host/name"


# The engine's statements need it; Python 3.11 needs no more than SQLite 3.7.
_OLDEST_SQLITE = (3, 35)

# Since then SQLite tells the time in milliseconds itself.
_SUBSEC_SQLITE = (3, 42)

_ASKS_SQLITE_FOR_TIME: Final = sys.version_info >= (3, 12)

_BUSY_MS: Final = 10_000

# BUSY, LOCKED, IOERR, FULL, CANTOPEN: https://www.sqlite.org/rescode.html
_PASSING_SQLITE = frozenset({5, 6, 10, 13, 14})

_CANCELLED_STATEMENT = "57014"

# Serialization failures and deadlocks: the server is there, and wants it again.
_ROLLED_BACK = "40"

# The pauses between two tries, in seconds: short, since it is a person who waits.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 3.0


class DatabaseClosedError(Exception):
    """These jobs are being closed, and their database cannot be reached."""


def is_transient(error: BaseException | None) -> bool:
    """Whether a statement that failed so can be repeated with success later."""
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0)
        return code & 0xFF in _PASSING_SQLITE
    state = getattr(error.orig, "sqlstate", None)
    is_operational = isinstance(error, OperationalError)
    return error.connection_invalidated or (
        is_operational and state != _CANCELLED_STATEMENT
    )


async def persist(work: Callable[..., T], *args: object) -> T:
    """Run a statement in a thread, again and again while the database is away.

    It must do no harm twice: one that is cancelled may still be carried out.
    """
    for attempt in itertools.count():
        try:
            return await to_thread.run_sync(work, *args, abandon_on_cancel=True)
        except SQLAlchemyError as error:
            if not is_transient(error):
                raise
        await anyio.sleep(_pause_after(attempt))
    raise AssertionError


def _pause_after(attempt: int) -> float:
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 10))


Connect: TypeAlias = Callable[
    [sa.Dialect, object, list[object], dict[str, object]], object
]


@define(eq=False)
class Outage:
    """Waits for a database that is away, for all who use it, and says so once.

    Connections to a server are waited for where they are made, so that neither the
    engine nor we notice more of an outage than the statement it interrupted.

    Attributes:
        is_awaited: Whether it is waited for; not at the start, nor at the end.
    """

    is_awaited: bool = False
    _is_closed: threading.Event = field(factory=threading.Event)
    _began: float | None = None
    _lock: threading.Lock = field(factory=threading.Lock)

    def close(self) -> None:
        """Wait no longer."""
        self._is_closed.set()

    def begin(self, error: BaseException) -> None:
        """Note that the database is away."""
        with self._lock:
            if self._began is None:
                self._began = time.monotonic()
                logger.warning(
                    "the database is away (%s); the jobs continue when it is back",
                    _cause(error),
                )

    def end(self) -> None:
        """Note that it is there."""
        with self._lock:
            if self._began is not None:
                took = time.monotonic() - self._began
                self._began = None
                logger.warning("the database is back after %.0f s", took)

    def on_error(self, context: ExceptionContext) -> None:
        """Take in that a statement failed."""
        error = context.sqlalchemy_exception
        if not self.is_awaited or context.is_pre_ping or not is_transient(error):
            return
        if error is not None and not self._is_closed.is_set():
            if not str(getattr(error.orig, "sqlstate", "")).startswith(_ROLLED_BACK):
                self.begin(error)
            # The engine repeats what failed so, whatever it would make of the error.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False

    def around(self, connect: Connect) -> Connect:
        """Make connections in the same way, as soon as that is possible."""

        def connect_patiently(
            dialect: sa.Dialect,
            record: object,
            args: list[object],
            params: dict[str, object],
        ) -> object:
            for attempt in itertools.count():
                try:
                    connection = connect(dialect, record, args, params)
                except dialect.loaded_dbapi.Error as error:
                    if not self.is_awaited:
                        raise
                    self.begin(error)
                else:
                    self.end()
                    return connection
                if self._is_closed.wait(_pause_after(attempt)):
                    raise DatabaseClosedError
            raise AssertionError

        return connect_patiently


def version_name(number: int = FORMAT) -> str:
    """Name a format, as the engine keeps it."""
    return f"{APPLICATION}-{number}"


@frozen
class Database:
    """A database that can hold jobs.

    Attributes:
        url: Where it is, as SQLAlchemy writes it, without what is secret in it.
        secrets: That, by libpq's names.
    """

    url: sa.URL
    secrets: Mapping[str, Secret] = field(factory=dict[str, Secret], repr=False)

    @classmethod
    def at(cls, given: str | os.PathLike[str]) -> Database:
        """Make sense of a URL or a path.

        Raises:
            ConfigurationError: It is neither SQLite nor PostgreSQL.
        """
        if isinstance(given, os.PathLike):
            return cls(sa.URL.create("sqlite", database=os.fspath(given)))
        if "://" not in given and given.endswith((".db", ".sqlite", ".sqlite3")):
            return cls(sa.URL.create("sqlite", database=given))
        found = _parse(given)
        # What is refused is in no frame of the traceback either.
        given = without_secrets(given)
        if found is None:
            raise ConfigurationError(f"database: given {given!r}; allowed: {_ALLOWED}")
        return found

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path:
        """The file of an SQLite database."""
        return Path(str(self.url.database)).absolute()

    def __str__(self) -> str:
        return self.url.render_as_string().replace("+psycopg", "", 1)

    def prepare(self, outage: Outage | None = None) -> sa.Engine:
        """Reach it, create or migrate the tables in it, and give connections to it.

        Blocks; to be run in a thread.

        Args:
            outage: Who waits for it once it was reached.

        Raises:
            ConfigurationError: It cannot be reached, is no database, or was
                written by a newer version of this library.
        """
        if self.is_sqlite and not self.file.parent.is_dir():
            raise ConfigurationError(
                f"database {self}: there is no directory {self.file.parent}; "
                "make it first"
            )
        if self.is_sqlite:
            _refuse_old_sqlite()
        outage = outage or Outage()
        engine = self._engine(outage)
        event.listen(engine, "handle_error", outage.on_error)
        try:
            if self.is_sqlite and not str(self.url.database).startswith("file:"):
                _create_private(self.file)
            engine.connect().close()
            # Over our connections: a URL of DBOS's own would need the password.
            _migrate(engine)
            self._refuse_newer(engine)
        except (SQLAlchemyError, OSError) as error:
            close(engine)
            raise ConfigurationError(
                f"database {self} cannot be used: {_cause(error)}"
            ) from error
        except BaseException:
            close(engine)
            raise
        outage.is_awaited = True
        return engine

    def _engine(self, outage: Outage) -> sa.Engine:
        if self.is_sqlite:
            engine = sa.create_engine(self.url, pool_size=_CONNECTIONS)
            event.listen(engine, "connect", _prepare_sqlite)
        else:
            engine = sa.create_engine(
                self.url,
                pool_size=_CONNECTIONS,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10},
            )
            event.listen(engine, "do_connect", outage.around(self._connect))
            event.listen(engine, "connect", _prepare_postgresql)
        _read_all_as_json(engine)
        return engine

    def _connect(
        self,
        dialect: sa.Dialect,
        _record: object,
        args: list[object],
        params: dict[str, object],
    ) -> object:
        """Connect with the secrets; no frame of an error shows them."""
        revealed = (it.reveal() for it in self.secrets.values())
        try:
            return dialect.connect(
                *args, **params, **dict(zip(self.secrets, revealed, strict=True))
            )
        except Exception as error:
            drop_frames(error)
            raise

    def _refuse_newer(self, engine: sa.Engine) -> None:
        client = client_over(engine)
        versions = [it["version_name"] for it in client.list_application_versions()]
        found = [int(it[1]) for it in map(_VERSION.fullmatch, versions) if it]
        if max(found, default=FORMAT) > FORMAT:
            raise ConfigurationError(
                f"database {self} was written by a newer kling_async (job format "
                f"{max(found)}, this version knows {FORMAT}): upgrade kling_async here"
            )


def client_over(engine: sa.Engine) -> DBOSClient:
    """Give the engine's own client, which reads and enqueues but runs nothing."""
    return DBOSClient(
        system_database_engine=engine,
        dbos_system_schema=SCHEMA,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
    )


def _migrate(engine: sa.Engine) -> None:
    client = client_over(engine)
    client._sys_db.run_migrations()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _read_all_as_json(engine: sa.Engine) -> None:
    """Let no row of the database choose how it is decoded.

    DBOS obeys the column ``serialization`` of each row, and unpickles where it says
    so: whoever can write a row could run code in every worker and in everyone who
    lists jobs. All our rows are JSON, so over this engine all are read as JSON, and
    what is none is refused by the parser. Other users of DBOS in the process, who
    have engines of their own, are left alone.
    """
    dialect = engine.dialect
    bases = (_PlainJSON, dialect.execution_ctx_cls)
    dialect.execution_ctx_cls = type("PlainJSONContext", bases, {})


class _PlainJSON(DefaultExecutionContext):
    """What a statement runs in, with its say on how columns are read."""

    def get_result_processor(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, type_: sa.types.TypeEngine[object], colname: str, coltype: object
    ) -> Callable[[object], object] | None:
        # By any spelling: the writer of an SQLite file also wrote its schema.
        if "serialization" in colname.lower():
            return _plain_json
        return super().get_result_processor(type_, colname, coltype)


def _plain_json(_told: object) -> str:
    return _JSON


def _prepare_postgresql(connection: object, _record: object) -> None:
    """End a session that is left in the middle of a transaction, and its locks."""
    raw = cast("sa.engine.interfaces.DBAPIConnection", connection)
    cursor = raw.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = {_IDLE_LIMIT}")
    cursor.close()
    raw.commit()


def _prepare_sqlite(connection: object, _record: object) -> None:
    """Make writers queue up, and readers not wait for them.

    A commit is on the disk when it returns: ``synchronous`` is FULL by default,
    and an intent must not be forgotten by a power cut after its create was sent.
    """
    raw = cast("sqlite3.Connection", connection)
    raw.isolation_level = "IMMEDIATE"
    raw.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA foreign_keys=ON")
    # Triggers and views of somebody else's file call nothing beyond the built-in.
    raw.execute(f"PRAGMA trusted_schema={'ON' if _needs_time() else 'OFF'}")
    if _needs_time():
        raw.create_function("unixepoch", -1, _unix_epoch)


def _needs_time() -> bool:
    """Whether the engine asks SQLite for a time that this one does not tell."""
    return _ASKS_SQLITE_FOR_TIME and sqlite3.sqlite_version_info < _SUBSEC_SQLITE


def _unix_epoch(*modifiers: str) -> float:
    return time.time() if "subsec" in modifiers else int(time.time())


def _refuse_old_sqlite() -> None:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise ConfigurationError(
            f"this Python comes with SQLite {sqlite3.sqlite_version}, and durable "
            f"jobs need {needed}: use a newer Python, or PostgreSQL"
        )


def close(engine: sa.Engine) -> None:
    """Close its connections, and those that the threads of DBOS still have."""
    event.listen(engine, "checkin", _forget)
    engine.dispose()


def _forget(_connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
    record.invalidate()


def _create_private(file: Path) -> None:
    """Create the file where there is none; SQLite's own beside it will be like it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))


def _cause(error: BaseException) -> str:
    told = str(getattr(error, "orig", None) or error).strip()
    return " ".join(told.split())


# What libpq takes that is no secret. All else is kept as one: a slip may hold it.
_SHOWN = frozenset(
    {
        "application_name",
        "client_encoding",
        "connect_timeout",
        "dbname",
        "host",
        "hostaddr",
        "keepalives",
        "port",
        "sslmode",
        "sslrootcert",
        "target_session_attrs",
        "user",
    }
)


def _parse(given: str) -> Database | None:
    """Read a URL; None where it is of no kind that is known, or has a slip in it."""
    try:
        url = sa.make_url(given)
        url.render_as_string()  # halves of characters have no place in one
    except (SQLAlchemyError, ValueError):
        return None
    kind = url.get_backend_name()
    if kind == "sqlite":
        is_file = url.database not in (None, "", ":memory:")
        return Database(url) if is_file and url.password is None else None
    if kind not in ("postgresql", "postgres") or not url.database:
        return None
    # Parts of a password that was not escaped, or of one after an escaped colon.
    if re.search("[@:;&=]", url.database) or "@" in (url.host or ""):
        return None
    if ":" in (url.username or ""):
        return None
    secrets = {
        name: Secret(value if isinstance(value, str) else ",".join(value))
        for name, value in url.query.items()
        if name not in _SHOWN
    }
    if url.password is not None:
        secrets["password"] = Secret(str(url.password))
    url = sa.URL.create(
        "postgresql+psycopg",
        username=url.username,
        host=url.host,
        port=url.port,
        database=url.database,
        query={it: value for it, value in url.query.items() if it in _SHOWN},
    )
    return Database(url, secrets)
