"""Which database: its URL made sense of, reached, and brought up to date.

Everything that can be wrong with it is told here, before a job is touched.
Holds no jobs: those are the engine's.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from attrs import frozen
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from kling_async._errors import ConfigurationError

APPLICATION = "kling_async"

SCHEMA = "kling_async"

# How a job goes from step to step. A worker takes only jobs of its own format, so
# it changes when a running job could not go on with the steps as they are now.
FORMAT = 1

_VERSION = re.compile(rf"{APPLICATION}-(\d+)")

_ALLOWED = "sqlite:///jobs.db, a path, or postgresql://user@host/name"


def version_name(number: int = FORMAT) -> str:
    """Name a format, as the engine keeps it."""
    return f"{APPLICATION}-{number}"


@frozen
class Database:
    """A database that can hold jobs.

    Attributes:
        url: Where it is, as SQLAlchemy writes it.
    """

    url: sa.URL

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
        try:
            url = sa.make_url(given)
        except (SQLAlchemyError, ValueError):
            raise ConfigurationError(
                f"database: given {_without_password(given)!r}; allowed: {_ALLOWED}"
            ) from None
        kind = url.get_backend_name()
        if kind == "sqlite" and url.database not in (None, "", ":memory:"):
            return cls(url)
        if kind in ("postgresql", "postgres") and url.database:
            return cls(url.set(drivername="postgresql+psycopg"))
        raise ConfigurationError(
            f"database: given {_without_password(given)!r}; allowed: {_ALLOWED}"
        )

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path:
        """The file of an SQLite database."""
        return Path(str(self.url.database)).absolute()

    @property
    def full_url(self) -> str:
        """The URL with its password: for the engine, not to be shown."""
        return self.url.render_as_string(hide_password=False)

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True).replace("+psycopg", "", 1)

    def prepare(self) -> sa.Engine:
        """Reach it, create or migrate the tables in it, and give connections to it.

        Blocks; to be run in a thread.

        Raises:
            ConfigurationError: It cannot be reached, is no database, or was
                written by a newer version of this library.
        """
        if self.is_sqlite and not self.file.parent.is_dir():
            raise ConfigurationError(
                f"database {self}: there is no directory {self.file.parent}; "
                "make it first"
            )
        engine = self._engine()
        try:
            engine.connect().close()
            DBOS.migrate(self.full_url.replace("+psycopg", "", 1), schema=SCHEMA)
            self._refuse_newer(engine)
        except SQLAlchemyError as error:
            engine.dispose()
            raise ConfigurationError(
                f"database {self} cannot be used: {_cause(error)}"
            ) from error
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _engine(self) -> sa.Engine:
        if not self.is_sqlite:
            return sa.create_engine(
                self.url,
                pool_size=5,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10},
            )
        engine = sa.create_engine(self.url)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine

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


def _prepare_sqlite(connection: object, _record: object) -> None:
    """Make writers queue up, and readers not wait for them.

    A commit is on the disk when it returns: ``synchronous`` is FULL by default,
    and an intent must not be forgotten by a power cut after its create was sent.
    """
    raw = cast("sqlite3.Connection", connection)
    raw.isolation_level = "IMMEDIATE"
    raw.execute("PRAGMA busy_timeout=30000")
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA foreign_keys=ON")


def _cause(error: SQLAlchemyError) -> str:
    told = str(getattr(error, "orig", None) or error).strip()
    return " ".join(told.split())


def _without_password(url: str) -> str:
    return re.sub(r"(?s)//.*@", "//***@", url)
