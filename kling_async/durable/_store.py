"""The jobs of a database as a caller sees them: records over the engine's tables.

Reads, enqueues and cancels through the engine's own client, and runs nothing. A
job is a key; each attempt at it is one workflow of the engine, numbered.
"""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import anyio
import sqlalchemy as sa
from anyio import to_thread
from attrs import define, evolve, field, frozen
from dbos import DBOSClient, EnqueueOptions, WorkflowStatus, error as dbos_error

from kling_async._errors import DecodeError, JobError
from kling_async._files.storage import is_url
from kling_async._generation import Generation
from kling_async._http.wire import Response, decode_polled
from kling_async.durable._database import APPLICATION, SCHEMA, client_over, persist

JSON: TypeAlias = Mapping[str, object]

# What comes of an entry that somebody else has written, or written over.
_MALFORMED = (
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
    """Nothing was sent yet."""
    RUNNING = "running"
    """A worker has it: it is being created, waited for, or downloaded."""
    DONE = "done"
    """The video is there, and written if the job has an output."""
    FAILED = "failed"
    """It ended without a video; `DurableKling.resubmit` would pay for a new one."""
    UNCERTAIN = "uncertain"
    """A create was sent, its answer was lost, and the vendor's log does not tell."""
    HELD = "held"
    """Something has to be mended first (budget, key, disk); nothing is lost or sent."""
    CANCELLED = "cancelled"
    """Somebody called it off. What was created goes on at the server, and is billed."""

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
    """

    state: JobState
    error: str | None = None
    kind: str | None = None
    generation_id: str | None = None
    generation: Generation | None = None
    intent: Intent | None = None
    unsent: bool = False

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


QUEUE = "kling-jobs"

WORKFLOW = "kling.job"

_WORKFLOW_ID = re.compile(r"kling:([^:]+):(.+):([0-9]{1,9})", re.DOTALL)

_UNREADABLE = "its entry in the database is none of this library's: it was not read"

_STATES: Mapping[str, JobState] = {
    "ENQUEUED": JobState.QUEUED,
    "DELAYED": JobState.QUEUED,
    "PENDING": JobState.RUNNING,
    "SUCCESS": JobState.DONE,
    "ERROR": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": JobState.FAILED,
}


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


@frozen(eq=False)
class Store:
    """The jobs of one batch."""

    engine: sa.Engine
    client: DBOSClient
    batch: str
    folder: Path = Path()

    @classmethod
    def open(cls, engine: sa.Engine, batch: str, folder: Path = Path()) -> Store:
        """Open the jobs of a batch, whose outputs are named from a folder."""
        return cls(engine, client_over(engine), batch, folder)

    def workflow_id(self, key: str, attempt: int) -> str:
        """Name an attempt at a job, as the engine knows it."""
        return f"kling:{self.batch}:{key}:{attempt}"

    async def enqueue(self, items: Sequence[QueueItem]) -> None:
        """Put jobs into the queue in one transaction; what is there stays."""
        await to_thread.run_sync(self._enqueue, items)

    def _enqueue(self, items: Iterable[QueueItem]) -> None:
        with self.engine.begin() as connection:
            for item in items:
                self.client.enqueue_in_transaction(
                    connection, _options(item), item.job_input.to_json()
                )

    async def enqueue_first(self, item: QueueItem) -> bool:
        """Put an attempt into the queue, or tell that it is there already."""
        options = _options(item)
        options["workflow_id_reuse_policy"] = "reject"
        try:
            await self.client.enqueue_async(options, item.job_input.to_json())
        except dbos_error.DBOSWorkflowIDInUseError:
            return False
        return True

    async def rows(
        self, keys: Collection[str] | None = None, **filters: object
    ) -> dict[str, WorkflowStatus]:
        """Give the engine's row of the latest attempt at each job, by key.

        Args:
            keys: Which jobs; all by default.
            **filters: Further ones of the engine's own; with them a row may not
                be the latest.
        """
        if keys is None:
            filters["workflow_id_prefix"] = f"kling:{self.batch}:"
            return _latest(await self._list(**filters))
        latest: dict[str, WorkflowStatus] = {}
        wanted, first = list(keys), 1
        while wanted:
            # By whole ids, which the index finds; few jobs have many attempts.
            numbers = range(first, first + _ATTEMPTS_AT_ONCE)
            for start in range(0, len(wanted), _KEYS_AT_ONCE):
                part = wanted[start : start + _KEYS_AT_ONCE]
                ids = [self.workflow_id(key, n) for key in part for n in numbers]
                latest |= _latest(await self._list(workflow_ids=ids, **filters))
            wanted = [
                key
                for key in wanted
                if key in latest and _parts(latest[key].workflow_id)[1] == numbers[-1]
            ]
            first += _ATTEMPTS_AT_ONCE
        return latest

    async def _list(self, **filters: object) -> list[WorkflowStatus]:
        given = cast("dict[str, Any]", {"load_input": False, **filters})
        return await self.client.list_workflows_async(name=WORKFLOW, **given)

    async def keys(self, limit: int | None, offset: int) -> list[str]:
        """Name jobs, those submitted first in front: each has one first attempt."""
        table = self.attempts
        own_id, prefix = table.c.workflow_uuid, f"kling:{self.batch}:"
        # Those of one transaction have one time.
        is_sqlite = self.engine.dialect.name == "sqlite"
        tie = sa.literal_column("rowid") if is_sqlite else own_id
        query = (
            sa.select(own_id)
            .where(own_id.startswith(prefix, autoescape=True), own_id.endswith(":1"))
            .where(table.c.name == WORKFLOW)
            .order_by(table.c.created_at, tie)
            .limit(limit)
            .offset(offset)
        )
        return [_parts(str(it[0]))[0] for it in await persist(self._read, query)]

    @property
    def attempts(self) -> sa.TableClause:
        """The engine's table of attempts."""
        schema = None if self.engine.dialect.name == "sqlite" else SCHEMA
        columns = ("workflow_uuid", "name", "created_at")
        return sa.table("workflow_status", *map(sa.column, columns), schema=schema)

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    async def statuses(
        self, keys: Collection[str] | None = None, **filters: object
    ) -> dict[str, JobStatus]:
        """Give each job as it is now, by key."""
        rows = await self.rows(keys, **filters)
        return {key: status_of(row, self.folder) for key, row in rows.items()}

    async def batches(self) -> list[str]:
        """Name all batches of the database."""
        table = self.attempts
        column = table.c.workflow_uuid
        if self.engine.dialect.name == "sqlite":
            rest = sa.func.substr(column, len("kling:") + 1)
            name = sa.func.substr(rest, 1, sa.func.instr(rest, ":") - 1)
        else:
            name = sa.func.split_part(column, ":", 2)
        query = sa.select(name).where(table.c.name == WORKFLOW)
        return sorted(str(it[0]) for it in await persist(self._read, query.distinct()))

    async def changed_since(self, since: dt.datetime | None) -> dict[str, JobStatus]:
        """Give the jobs that run, or were submitted or have ended since."""
        if since is None:
            return await self.statuses()
        parts = [
            await self.statuses(start_time=since.isoformat()),
            await self.statuses(status="PENDING", load_output=False),
            await self.statuses(completed_after=since.isoformat()),
        ]
        latest: dict[str, JobStatus] = {}
        for status in itertools.chain.from_iterable(it.values() for it in parts):
            known = latest.get(status.key)
            if known is None or known.attempt <= status.attempt:
                latest[status.key] = status
        return latest

    async def input_of(self, status: JobStatus) -> JobInput:
        """Give what an attempt was to do."""
        workflow_id = self.workflow_id(status.key, status.attempt)
        (row,) = await self.client.list_workflows_async(workflow_ids=[workflow_id])
        try:
            given = cast("Mapping[str, Sequence[JSON]]", row.input)
            written = JobInput.from_json(given["args"][0])
        except _MALFORMED as error:
            told = f"job {status.key!r}: {_UNREADABLE}"
            raise JobError(told, key=status.key, state=status.state) from error
        return evolve(written, output=_attribute(row, "output"))

    async def output_of(self, workflow_id: str) -> str | None:
        """Give where an attempt is to write its video: it may have been changed."""
        rows = await self._list(workflow_ids=[workflow_id], load_output=False)
        return _attribute(rows[0], "output") if rows else None

    async def set_output(self, status: JobStatus, output: str) -> None:
        """Let an attempt write its video elsewhere."""
        await self._update(status, {"output": output})

    async def hold(self, status: JobStatus, reason: str) -> None:
        """Keep an attempt that has not begun from being sent."""
        await self._update(status, {"held": reason})
        await self.cancel(status)

    async def _update(self, status: JobStatus, attributes: dict[str, str]) -> None:
        workflow_id = self.workflow_id(status.key, status.attempt)
        await self.client.update_workflow_attributes_async(
            workflow_id, attributes, merge=True
        )

    async def delete(self, statuses: Iterable[JobStatus]) -> None:
        """Forget jobs, with all attempts at them."""
        ids = [
            self.workflow_id(it.key, number)
            for it in statuses
            for number in range(1, it.attempt + 1)
        ]
        for start in range(0, len(ids), _KEYS_AT_ONCE):
            await self.client.delete_workflows_async(ids[start : start + _KEYS_AT_ONCE])

    async def cancel(self, status: JobStatus) -> None:
        """Call an attempt off, unless it has ended."""
        if status.state is JobState.HELD:
            await self._update(status, {"held": ""})
        workflow_id = self.workflow_id(status.key, status.attempt)
        await self.client.cancel_workflow_async(workflow_id)

    async def give_up(self, status: JobStatus) -> None:
        """Write down that nobody looks for an uncertain create any more."""
        await self._update(status, {"given_up": "yes"})

    async def record_id(self, workflow_id: str, generation_id: str) -> None:
        """Write down that an attempt has its generation."""
        await self.client.update_workflow_attributes_async(
            workflow_id, {"generation_id": generation_id}, merge=True
        )

    async def recorded_id(self, workflow_id: str) -> str | None:
        """Give the generation that was recorded for an attempt."""
        rows = await self._list(workflow_ids=[workflow_id], load_output=False)
        return _attribute(rows[0], "generation_id") if rows else None


# A key has this many attempts, before it is asked whether it has more.
_ATTEMPTS_AT_ONCE = 4

_KEYS_AT_ONCE = 500


def _latest(rows: Iterable[WorkflowStatus]) -> dict[str, WorkflowStatus]:
    latest: dict[str, WorkflowStatus] = {}
    attempts: dict[str, int] = {}
    for row in rows:
        key, attempt = _parts(row.workflow_id)
        if attempt > attempts.get(key, 0):
            latest[key], attempts[key] = row, attempt
    return latest


def _options(item: QueueItem) -> EnqueueOptions:
    return {
        "workflow_name": WORKFLOW,
        "queue_name": QUEUE,
        "workflow_id": item.job_input.workflow_id,
        "application_name": APPLICATION,
        "attributes": {
            "fingerprint": item.fingerprint,
            "model": item.model,
            "output": item.job_input.output,
        },
    }


def place_of(output: str | None, folder: Path) -> Path | str | None:
    """Give where a video goes: a file, or an object in a bucket."""
    return output if output is None or is_url(output) else folder / output


def fingerprint_of(row: WorkflowStatus) -> str | None:
    """Give the fingerprint that a job was enqueued with."""
    return _attribute(row, "fingerprint")


def status_of(row: WorkflowStatus, folder: Path = Path()) -> JobStatus:
    """Read one row of the engine."""
    key, attempt = _parts(row.workflow_id)
    output = _attribute(row, "output")
    status = JobStatus(
        key=key,
        batch=row.workflow_id.split(":")[1],
        state=_STATES.get(row.status, JobState.FAILED),
        attempt=attempt,
        model=_attribute(row, "model"),
        output=place_of(output, folder),
        generation_id=_attribute(row, "generation_id"),
        worker=row.executor_id,
        created_at=_time(row.created_at),
        started_at=_time(row.dequeued_at),
        ended_at=_time(row.completed_at),
        error=str(row.error) if row.error else None,
        kind=type(row.error).__name__ if row.error else None,
    )
    held = _attribute(row, "held")
    if held and status.state is JobState.CANCELLED:
        return evolve(status, state=JobState.HELD, error=held)
    if row.output is None:
        return status
    try:
        result = AttemptResult.from_json(cast("JSON", row.output))
    except _MALFORMED:
        return evolve(status, state=JobState.FAILED, error=_UNREADABLE, kind="JobError")
    if _attribute(row, "given_up"):
        result = evolve(
            result, state=JobState.FAILED, error=f"given up: {result.error}"
        )
    return evolve(
        status,
        state=result.state,
        generation_id=result.generation_id or status.generation_id,
        generation=result.generation,
        intent=result.intent,
        error=result.error,
        kind=result.kind,
    )


def _parts(workflow_id: str) -> tuple[str, int]:
    found = _WORKFLOW_ID.fullmatch(workflow_id)
    return (found[2], int(found[3])) if found else (workflow_id, 0)


def _attribute(row: WorkflowStatus, name: str) -> str | None:
    attributes: object = row.attributes
    value = attributes.get(name) if isinstance(attributes, Mapping) else None
    return value if isinstance(value, str) else None


def _time(milliseconds: int | None) -> dt.datetime | None:
    if milliseconds is None:
        return None
    try:
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    except _MALFORMED:
        return None


# A row is written a moment after its time was taken, by another machine's clock.
_OVERLAP = dt.timedelta(seconds=10)

# A look may take this share of the time, but is never put off for long.
_SHARE, _LONGEST_PAUSE = 0.05, 5.0


@define(eq=False)
class StatusCache:
    """What is known of each job.

    Attributes:
        store: Where news come from.
        interval: The least time between two looks, in seconds.
    """

    store: Store
    interval: float
    statuses: dict[str, JobStatus] = field(factory=dict[str, JobStatus])
    version: int = 0
    _due: float = -math.inf
    _since: dt.datetime | None = None
    _turn: anyio.Lock = field(factory=anyio.Lock)

    async def refresh(self) -> None:
        """Wait for the next look at the database, or take it."""
        version = self.version
        async with self._turn:
            if self.version > version:
                return
            await anyio.sleep(max(0.0, self._due - anyio.current_time()))
            now, began = dt.datetime.now(dt.UTC), anyio.current_time()
            changed = await self._list_changed()
            self.statuses |= {
                key: status
                for key, status in changed.items()
                if not self._is_older(status)
            }
            self._since = now - _OVERLAP
            took = anyio.current_time() - began
            pause = min(_LONGEST_PAUSE, took / _SHARE)
            self._due = anyio.current_time() + max(self.interval, pause)
            self.version += 1

    async def _list_changed(self) -> dict[str, JobStatus]:
        changed = await self.store.changed_since(self._since)
        # A row that was written late, after an outage, bears a time that has passed.
        missed = [
            key
            for key, it in self.statuses.items()
            if it.state is JobState.RUNNING and key not in changed
        ]
        return changed | (await self.store.statuses(missed) if missed else {})

    def _is_older(self, status: JobStatus) -> bool:
        known = self.statuses.get(status.key)
        return known is not None and known.attempt > status.attempt
