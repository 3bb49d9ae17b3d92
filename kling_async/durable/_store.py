"""The jobs of a database as a caller sees them: records over the engine's tables.

Reads, enqueues and cancels through the engine's own client, and runs nothing. A
job is a key; each attempt at it is one workflow of the engine, numbered.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import sqlalchemy as sa
from anyio import to_thread
from attrs import define, evolve, field, frozen
from dbos import DBOSClient, EnqueueOptions, WorkflowStatus, error as dbos_error

from kling_async._errors import JobError
from kling_async._files.storage import is_url
from kling_async.durable._database import APPLICATION, SCHEMA, client_over, persist
from kling_async.durable._records import (
    JSON,
    MALFORMED,
    AttemptResult,
    JobInput,
    JobState,
    JobStatus,
    QueueItem,
)

QUEUE = "kling-jobs"

WORKFLOW = "kling.job"

# What is counted and told beside a job, in workflows of its own.
PERMIT, EVENT = "kling.permit", "kling.event"

PERMITS = "kling-creates"

_WORKFLOW_ID = re.compile(r"kling:([^:]+):(.+):([0-9]{1,9})", re.DOTALL)

_UNREADABLE = "its entry in the database is not from this library: it was not read"

_STATES: Mapping[str, JobState] = {
    "ENQUEUED": JobState.QUEUED,
    "DELAYED": JobState.QUEUED,
    "PENDING": JobState.RUNNING,
    "SUCCESS": JobState.DONE,
    "ERROR": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": JobState.FAILED,
}


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
        return sa.table(
            "workflow_status",
            *(sa.column(it) for it in ("workflow_uuid", "name", "created_at")),
            sa.column("attributes", sa.JSON),
            schema=schema,
        )

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
        """Name all batches that have jobs."""
        table = self.attempts
        column = table.c.workflow_uuid
        if self.engine.dialect.name == "sqlite":
            rest = sa.func.substr(column, len("kling:") + 1)
            name = sa.func.substr(rest, 1, sa.func.instr(rest, ":") - 1)
        else:
            name = sa.func.split_part(column, ":", 2)
        query = sa.select(name).where(table.c.name == WORKFLOW)
        return [str(it[0]) for it in await persist(self._read, query.distinct())]

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
        except MALFORMED as error:
            told = f"job {status.key!r}: {_UNREADABLE}"
            raise JobError(told, key=status.key, state=status.state) from error
        return evolve(written, output=_attribute(row, "output"))

    async def output_of(self, workflow_id: str) -> str | None:
        """Give where an attempt is to write its video: it may have been changed."""
        return await self._attribute_of(workflow_id, "output")

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
        """Forget jobs, with all attempts at them and what was beside these."""
        ids = [
            self.workflow_id(it.key, number)
            for it in statuses
            for number in range(1, it.attempt + 1)
        ]
        attempts = set(ids)
        # A key that comes again would take them for its own.
        rows = await self.client.list_workflows_async(
            name=[PERMIT, EVENT], load_input=False, load_output=False
        )
        beside = (it.workflow_id for it in rows)
        ids += [it for it in beside if attempt_beside(it) in attempts]
        for start in range(0, len(ids), _KEYS_AT_ONCE):
            await self.client.delete_workflows_async(ids[start : start + _KEYS_AT_ONCE])

    async def cancel(self, status: JobStatus) -> None:
        """Call an attempt off, unless it has ended."""
        if status.state is JobState.HELD:
            await self._update(status, {"held": "", "called_off": "yes"})
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
        return await self._attribute_of(workflow_id, "generation_id")

    async def _attribute_of(self, workflow_id: str, name: str) -> str | None:
        table = self.attempts
        query = sa.select(table.c.attributes).where(
            table.c.workflow_uuid == workflow_id
        )
        rows = await persist(self._read, query)
        return _text(rows[0][0], name) if rows else None


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
    except MALFORMED:
        return evolve(status, state=JobState.FAILED, error=_UNREADABLE, kind="JobError")
    if _attribute(row, "given_up"):
        result = evolve(
            result, state=JobState.FAILED, error=f"given up: {result.error}"
        )
    if _attribute(row, "called_off"):
        result = evolve(result, state=JobState.CANCELLED)
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


def permit_id(workflow_id: str, number: int) -> str:
    """Name the permit of a create: the same after a crash, so one for each."""
    return f"permit:{number}:{workflow_id}"


def event_id(workflow_id: str, round_: int) -> str:
    """Name the delivery of an attempt's end."""
    return f"event:{round_}:{workflow_id}"


def attempt_beside(beside: str) -> str:
    """Give the attempt that a permit or a delivery belongs to."""
    return beside.split(":", 2)[-1]


def _attribute(row: WorkflowStatus, name: str) -> str | None:
    return _text(row.attributes, name)


def _text(attributes: object, name: str) -> str | None:
    value = attributes.get(name) if isinstance(attributes, Mapping) else None
    return value if isinstance(value, str) else None


def _time(milliseconds: int | None) -> dt.datetime | None:
    if milliseconds is None:
        return None
    try:
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    except MALFORMED:
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

    def forget(self, keys: Iterable[str]) -> None:
        """Forget jobs that were deleted: a key may come again, with a first attempt."""
        for key in keys:
            self.statuses.pop(key, None)

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
        """Whether a later attempt is known: of this job, not of one purged since."""
        known = self.statuses.get(status.key)
        if known is None or known.attempt <= status.attempt:
            return False
        ended, created = known.ended_at, status.created_at
        return ended is None or created is None or created <= ended
