"""Which workers are alive: each holds a lock that ends with it, however it ends.

On SQLite a lock on a file beside the database, on PostgreSQL an advisory lock of
a session. No heartbeats, no clocks: what the operating system or the server lets
go of is free, and its jobs may be taken over.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from attrs import define, field
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from kling_async.durable._database import Database


def new_worker_id() -> str:
    """Name this process, readably and never the same twice."""
    host = "".join(it if it.isalnum() else "-" for it in socket.gethostname())
    return f"{host[:40]}-{secrets.token_hex(4)}"


class Presence(Protocol):
    """The locks of the workers on one database. Its methods block."""

    def enter(self) -> None:
        """Show that this worker lives; to be repeated, which heals a lost session."""
        ...

    def gone(self, worker: str) -> contextlib.AbstractContextManager[bool]:
        """Tell whether a worker is gone; while inside, nobody else is told so."""
        ...

    def leave(self) -> None:
        """Let go."""
        ...


def presence_on(database: Database, engine: sa.Engine, worker: str) -> Presence:
    """Give the kind of locks that a database goes with."""
    if database.is_sqlite:
        return FilePresence(database.file, worker)
    return SessionPresence(engine, worker)


@define(eq=False)
class FilePresence:
    """Locks on files beside an SQLite database: all workers are on this machine."""

    file: Path
    worker: str
    _own: FileLock | None = None

    def enter(self) -> None:
        """Lock the worker's own file."""
        if self._own is None:
            self._own = self._lock(self.worker)
            self._own.acquire(blocking=False)

    @contextlib.contextmanager
    def gone(self, worker: str) -> Generator[bool]:
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

    def leave(self) -> None:
        """Remove the worker's own file."""
        own, self._own = self._own, None
        if own is not None:
            self._remove(own)

    def _lock(self, worker: str) -> FileLock:
        name = f"{self.file.name}.{worker}.lock"
        # Used from whichever thread is free, so not a lock of one thread.
        return FileLock(self.file.with_name(name), thread_local=False)

    def _remove(self, lock: FileLock) -> None:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@define(eq=False)
class SessionPresence:
    """Advisory locks of PostgreSQL sessions, as wide as the database."""

    engine: sa.Engine
    worker: str
    _session: sa.Connection | None = field(default=None)

    def enter(self) -> None:
        """Lock the worker's own name, again if the session was lost."""
        if self._session is not None:
            try:
                self._session.execute(sa.text("SELECT 1"))
            except SQLAlchemyError:
                self.leave()
            else:
                return
        session = self._connect()
        if self._try(session, self.worker):
            self._session = session
        else:  # somebody looks at this very moment whether it is gone
            session.close()

    @contextlib.contextmanager
    def gone(self, worker: str) -> Generator[bool]:
        """Try another's name."""
        with self._connect() as session:
            taken = self._try(session, worker)
            try:
                yield taken
            finally:
                if taken:
                    self._unlock(session, worker)

    def leave(self) -> None:
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
