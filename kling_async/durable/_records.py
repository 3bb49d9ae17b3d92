"""What is kept of a job, as values that are JSON and back, and of its batch, in tables.

Of a job: how far it is, what is to be done, what became of it. Of a batch: its money,
and where its files go. A create is begun only when its price fits into what is left,
checked and set aside in one transaction, so that workers on many machines cannot
overdraw it together. One row for each attempt: nothing is counted twice by a replay.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa
from attrs import define, evolve, field, frozen
from sqlalchemy.dialects import postgresql, sqlite

from kling_async._errors import (
    ConfigurationError,
    DecodeError,
    GenerationFailedError,
    JobError,
    SubmissionUncertainError,
)
from kling_async._generation import Generation
from kling_async._http.wire import Response, decode_polled
from kling_async.durable._database import SCHEMA

JSON: TypeAlias = Mapping[str, object]

# What comes of an entry that somebody else has written, or written over.
MALFORMED = (
    AttributeError,
    DecodeError,
    LookupError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
)


class JobState(enum.StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    """Nothing has been sent yet."""
    RUNNING = "running"
    """A worker has it: it is being created, waited for, or downloaded."""
    DONE = "done"
    """The video is there, and written if the job has an output."""
    FAILED = "failed"
    """It ended without a video; `DurableKling.resubmit` would pay for a new one."""
    UNCERTAIN = "uncertain"
    """A create was sent, its answer was lost, and the vendor's log shows no outcome."""
    HELD = "held"
    """Something has to be fixed first (budget, key, disk); nothing is lost or sent."""
    CANCELLED = "cancelled"
    """It was cancelled. A created generation goes on at the server, and is billed."""

    @property
    def is_final(self) -> bool:
        """Whether it stays so until somebody decides otherwise."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@frozen(kw_only=True)
class Intent:
    """The decision to send one create, written down before it is sent.

    Attributes:
        client_request_id: What the create is sent with.
        at: When it was decided (UTC).
    """

    client_request_id: str
    at: dt.datetime

    def to_json(self) -> dict[str, object]:
        """Give it as JSON."""
        return {
            "client_request_id": self.client_request_id,
            "at": self.at.isoformat(),
        }

    @classmethod
    def from_json(cls, value: JSON) -> Intent:
        """Read what `to_json` gave."""
        return cls(
            client_request_id=str(value["client_request_id"]),
            at=dt.datetime.fromisoformat(str(value["at"])),
        )


@frozen(kw_only=True)
class JobInput:
    """One attempt at a job: what a worker is to do.

    Attributes:
        workflow_id: Which, in the engine.
        batch: The batch it belongs to, and whose budget it is paid from.
        request: The request as `_stored` keeps it.
        output: The file to write the video to.
        adopt: The id of a generation that is there already: none is created.
        resolve: A create whose answer was lost: the vendor's log is asked for it,
            and nothing is sent.
        instead_of: The attempt whose generation this one goes on with, and whose
            place it takes in the batch's account.
    """

    workflow_id: str
    batch: str
    request: JSON
    output: str | None = None
    adopt: str | None = None
    resolve: Intent | None = None
    instead_of: str | None = None

    def to_json(self) -> dict[str, object]:
        """Give it as JSON."""
        return {
            "workflow_id": self.workflow_id,
            "batch": self.batch,
            "request": self.request,
            "output": self.output,
            "adopt": self.adopt,
            "settle": self.resolve.to_json() if self.resolve else None,
            "instead_of": self.instead_of,
        }

    @classmethod
    def from_json(cls, value: JSON) -> JobInput:
        """Read what `to_json` gave."""
        return cls(
            workflow_id=str(value["workflow_id"]),
            batch=str(value["batch"]),
            request=_as_mapping(value.get("request")) or {},
            output=_text(value.get("output")),
            adopt=_text(value.get("adopt")),
            resolve=_intent(value.get("settle")),
            instead_of=_text(value.get("instead_of")),
        )


@frozen(kw_only=True)
class AttemptResult:
    """What became of an attempt.

    Attributes:
        state: How it ended.
        error: Why there is no video, in words.
        kind: The name of the error's class.
        generation_id: The generation, where one is known to exist.
        generation: The generation as last seen.
        intent: The create that it hangs on, where its answer was lost.
        unsent: Whether a create certainly did not reach the server, so that it
            may be sent again.
        is_delivered: Whether its video is in its place.
    """

    state: JobState
    error: str | None = None
    kind: str | None = None
    generation_id: str | None = None
    generation: Generation | None = None
    intent: Intent | None = None
    unsent: bool = False
    is_delivered: bool = False

    def to_json(self) -> dict[str, object]:
        """Give it as JSON."""
        seen = self.generation
        return {
            "state": self.state.value,
            "error": self.error,
            "kind": self.kind,
            "generation_id": self.generation_id,
            "generation": dict(seen.raw) if seen else None,
            "client_request_id": seen.client_request_id if seen else None,
            "intent": self.intent.to_json() if self.intent else None,
            "unsent": self.unsent,
            "delivered": self.is_delivered,
        }

    @classmethod
    def from_json(cls, value: JSON) -> AttemptResult:
        """Read what `to_json` gave."""
        return cls(
            state=JobState(str(value["state"])),
            error=_text(value.get("error")),
            kind=_text(value.get("kind")),
            generation_id=_text(value.get("generation_id")),
            generation=_generation(value),
            intent=_intent(value.get("intent")),
            unsent=value.get("unsent") is True,
            is_delivered=value.get("delivered") is True,
        )


def _generation(value: JSON) -> Generation | None:
    """Read the server's answer again, as it came."""
    generation_id = _text(value.get("generation_id"))
    raw = _as_mapping(value.get("generation"))
    if generation_id is None or not raw:
        return None
    answer = Response(status_code=200, headers={}, content=json.dumps(raw).encode())
    seen = decode_polled(answer, generation_id)
    return evolve(seen, client_request_id=_text(value.get("client_request_id")))


def _intent(value: object) -> Intent | None:
    given = _as_mapping(value)
    return Intent.from_json(given) if given else None


def _as_mapping(value: object) -> Mapping[str, object] | None:
    return value if isinstance(value, Mapping) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


@frozen(kw_only=True)
class JobStatus:
    """A job as it is now.

    Attributes:
        key: Its name within the batch.
        batch: The batch it belongs to.
        state: How far it is.
        attempt: The number of the attempt that this tells of, from 1.
        model: The model asked for.
        output: The file, or the URL of the object, that its video is written to.
        generation_id: The generation, as soon as one is known to exist.
        generation: The generation as last seen, once the job has ended.
        intent: For an uncertain job: the create that it hangs on.
        error: Why there is no video, in words.
        kind: The name of the error's class.
        worker: The worker that has it, or had it last.
        created_at: When it was submitted (UTC).
        started_at: When a worker last took it from the queue (UTC).
        ended_at: When it ended (UTC).
    """

    key: str
    batch: str
    state: JobState
    attempt: int
    model: str | None = None
    output: Path | str | None = None
    generation_id: str | None = None
    generation: Generation | None = None
    intent: Intent | None = None
    error: str | None = None
    kind: str | None = None
    worker: str | None = None
    created_at: dt.datetime | None = None
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None

    @property
    def credits_used(self) -> float | None:
        """What it cost, in credits (2,000,000 are 1 USD), once that is known."""
        return self.generation.credits_used if self.generation else None


@frozen(kw_only=True)
class QueueItem:
    """A job to be enqueued.

    Attributes:
        job_input: What is to be done.
        fingerprint: What an equal request shares with it.
        model: The model asked for.
    """

    job_input: JobInput
    fingerprint: str
    model: str


def result_of(status: JobStatus) -> Generation:
    """Give the generation of a job that has ended.

    Raises:
        KlingError: It has none, for the reason that the job has.
    """
    generation, intent = status.generation, status.intent
    if status.state is JobState.DONE and generation is not None:
        return generation
    if status.state is JobState.UNCERTAIN and intent is not None:
        raise SubmissionUncertainError(
            client_request_id=intent.client_request_id, since=intent.at
        )
    if generation is not None and generation.failed:
        raise GenerationFailedError(generation)
    reason = status.error or "no reason was noted"
    error = JobError(
        f"job {status.key!r} is {status.state}: {reason}",
        key=status.key,
        state=status.state,
    )
    if status.generation_id is not None:
        error.concerning(status.generation_id, generation)
    raise error


def state_from(given: JobState | str) -> JobState:
    """Read the name of a state.

    Raises:
        ConfigurationError: There is none of that name.
    """
    try:
        return JobState(given)
    except ValueError:
        raise ConfigurationError(
            f"state: given {given!r}; allowed: {', '.join(JobState)}"
        ) from None


@frozen(kw_only=True)
class Account:
    """A batch's money, in credits (2,000,000 are 1 USD).

    Attributes:
        budget: What it may cost in all; None for no bound.
        committed: What its jobs have cost, and what those under way will cost.
    """

    budget: float | None
    committed: float


@define(eq=False)
class BudgetStore:
    """The ledger of all batches of a database. Its methods block."""

    engine: sa.Engine
    _budgets: sa.Table = field(init=False)
    _entries: sa.Table = field(init=False)
    _folders: sa.Table = field(init=False)
    _upsert: sa.Insert = field(init=False)
    _budget_of: sa.Select[Any] = field(init=False)
    _folder_of: sa.Select[Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        schema = None if self._is_sqlite else SCHEMA
        tables = sa.MetaData(schema=schema)
        self._budgets = sa.Table(
            "kling_budgets",
            tables,
            sa.Column("batch", sa.Text, primary_key=True),
            sa.Column("credits", sa.Float, nullable=False),
        )
        self._entries = sa.Table(
            "kling_costs",
            tables,
            sa.Column("workflow_id", sa.Text, primary_key=True),
            sa.Column("batch", sa.Text, nullable=False, index=True),
            sa.Column("credits", sa.Float, nullable=False),
        )
        self._folders = sa.Table(
            "kling_folders",
            tables,
            sa.Column("batch", sa.Text, primary_key=True),
            sa.Column("folder", sa.Text, nullable=False),
        )
        insert = sqlite.insert if self._is_sqlite else postgresql.insert
        put = insert(self._entries)
        # Made once, which takes longer than to carry them out.
        self._budget_of, self._folder_of = (
            sa.select(column).where(column.table.c.batch == sa.bindparam("batch"))
            for column in (self._budgets.c.credits, self._folders.c.folder)
        )
        self._upsert = put.on_conflict_do_update(
            index_elements=["workflow_id"], set_={"credits": put.excluded.credits}
        )
        tables.create_all(self.engine)

    @property
    def _home(self) -> Path:
        """Where a database that is a file lies: folders beside it move with it."""
        url = self.engine.url
        in_memory = url.database in {None, "", ":memory:"}
        is_file = self._is_sqlite and not in_memory
        return Path(str(url.database)).absolute().parent if is_file else Path("/")

    def folder(self, batch: str) -> Path | None:
        """Tell where the files of a batch go that are named relatively."""
        with self.engine.connect() as connection:
            folder = connection.execute(self._folder_of, {"batch": batch}).scalar()
        return None if folder is None else self._home / folder

    def batches_in(self, folder: Path) -> list[str]:
        """Name the batches whose files go to a folder, however it is written."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(self._folders)).all()
        there = folder.resolve()
        return [it.batch for it in rows if (self._home / it.folder).resolve() == there]

    def set_folder(self, batch: str, folder: Path) -> None:
        """Say where the files of a batch go."""
        table, folder = self._folders, folder.absolute()
        if self._is_sqlite and folder.is_relative_to(self._home):
            folder = folder.relative_to(self._home)
        row = {"batch": batch, "folder": str(folder)}
        with self.engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.c.batch == batch))
            connection.execute(sa.insert(table).values(row))

    @property
    def _is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def set_limit(self, batch: str, credits_: float | None) -> None:
        """Set what a batch may cost in all, or lift the bound."""
        table = self._budgets
        with self.engine.begin() as connection:
            self._lock_batch(connection, batch)
            connection.execute(sa.delete(table).where(table.c.batch == batch))
            if credits_ is not None:
                row = {"batch": batch, "credits": credits_}
                connection.execute(sa.insert(table).values(row))

    def batches(self) -> list[str]:
        """Name the batches that have cost something, also where no job is left."""
        query = sa.select(self._entries.c.batch).distinct()
        with self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def account(self, batch: str) -> Account:
        """Tell how a batch stands."""
        with self.engine.begin() as connection:
            return self._read_account(connection, batch)

    def is_bounded(self, batch: str) -> bool:
        """Tell whether a batch has a budget; what costs nothing is not set aside."""
        with self.engine.connect() as connection:
            return self._read_budget(connection, batch) is not None

    def reserve(self, batch: str, workflow_id: str, price: float) -> Account | None:
        """Set a price aside, unless it does not fit: then tell how it stands.

        An attempt that has its money already keeps it.
        """
        entries = self._entries
        mine = sa.select(entries).where(entries.c.workflow_id == workflow_id)
        with self.engine.begin() as connection:
            self._lock_batch(connection, batch)
            if connection.execute(mine).first() is not None:
                return None
            account = self._read_account(connection, batch)
            if account.budget is not None:
                spent = account.committed >= account.budget
                if spent or account.committed + price > account.budget:
                    return account
            self._put(connection, batch, workflow_id, price)
            return None

    def settle(
        self,
        batch: str,
        workflow_id: str,
        credits_: float,
        *,
        instead_of: str | None = None,
    ) -> None:
        """Put what an attempt did cost in place of what was set aside for it.

        Args:
            batch: Its batch.
            workflow_id: The attempt.
            credits_: What it cost.
            instead_of: The attempt whose generation it went on with: one bill.
        """
        with self.engine.begin() as connection:
            self._put(connection, batch, workflow_id, credits_)
            if instead_of is not None:
                self._drop(connection, instead_of)

    def _put(
        self, connection: sa.Connection, batch: str, workflow_id: str, credits_: float
    ) -> None:
        row = {"workflow_id": workflow_id, "batch": batch, "credits": credits_}
        connection.execute(self._upsert, row)

    def _drop(self, connection: sa.Connection, workflow_id: str) -> None:
        entries = self._entries
        connection.execute(
            sa.delete(entries).where(entries.c.workflow_id == workflow_id)
        )

    def _read_account(self, connection: sa.Connection, batch: str) -> Account:
        entries = self._entries
        total = sa.select(sa.func.sum(entries.c.credits)).where(
            entries.c.batch == batch
        )
        return Account(
            budget=self._read_budget(connection, batch),
            committed=connection.execute(total).scalar() or 0.0,
        )

    def _read_budget(self, connection: sa.Connection, batch: str) -> float | None:
        found = connection.execute(self._budget_of, {"batch": batch})
        credits_: float | None = found.scalar()
        return credits_

    def _lock_batch(self, connection: sa.Connection, batch: str) -> None:
        """Let one transaction at a time decide on a batch's money."""
        if self._is_sqlite:
            # The driver begins a transaction, and so takes the lock, at a write.
            connection.exec_driver_sql("UPDATE kling_budgets SET credits = credits")
            return
        digest = hashlib.sha256(f"kling_async budget {batch}".encode()).digest()
        key = int.from_bytes(digest[:8], signed=True)
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
