"""Jobs in: a request as JSON and back, each key once, decisions on a job that ended.

A local file is kept as its path and its SHA-256, or, when asked, as its bytes. Sends
nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from anyio import to_thread
from attrs import evolve, field, fields, frozen
from dbos import WorkflowStatus

from kling_async._checks import require
from kling_async._config import BATCH_LETTERS, LONGEST_BATCH
from kling_async._errors import (
    InvalidRequestError,
    JobConflictError,
    Problem,
)
from kling_async._files.media import encode_local_files, read_file, type_of
from kling_async._files.storage import BucketObject, StorageError, is_url
from kling_async._requests.classes import Request, build_request
from kling_async._requests.fields import is_local
from kling_async._text import short_repr
from kling_async.durable._records import JSON, JobInput, JobState, JobStatus, QueueItem
from kling_async.durable._store import Store, fingerprint_of, place_of, status_of

_FILE = "$file"

_BYTES = "$bytes"

_DIGEST = "$sha256"

_MARKS = frozenset({_FILE, _BYTES, _DIGEST})


class MissingFileError(Exception):
    """A local file that a job needs is not on this machine."""


async def to_stored(request: Request, *, inline: bool, check: bool) -> JSON:
    """Give a request as JSON.

    Args:
        request: Which.
        inline: Whether files are kept as bytes, for workers on other machines,
            instead of as paths.
        check: Whether the documented limits are held against the files.

    Raises:
        InvalidRequestError: A file is missing, or is not what the model takes, or
            something in the request passes itself off as a file.
    """
    _refuse_marks(request)
    if _has_local_media(request.to_body()):
        await encode_local_files(request.to_body(), check=check)
    return await to_thread.run_sync(_serialize, request, inline)


async def from_stored(stored: JSON) -> Request:
    """Give the request again, its files read.

    Raises:
        MissingFileError: A file is not there.
        InvalidRequestError: A file has changed since.
    """
    return await to_thread.run_sync(_request, stored)


def fingerprint(stored: JSON) -> str:
    """Give what two equal requests share: files by content, wherever they lie."""
    alike = _map_nested(stored, _is_kept, lambda kept: {_DIGEST: _entry(kept)[_DIGEST]})
    text = json.dumps(alike, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differing_fields(one: JSON, other: JSON) -> list[str]:
    """Name the fields in which two stored requests differ."""
    first, second = _by_field(one), _by_field(other)
    return sorted(
        name
        for name in first.keys() | second.keys()
        if first.get(name) != second.get(name)
    )


def _by_field(stored: JSON) -> dict[str, str]:
    flat = {name: it for name, it in stored.items() if name != "extra"}
    extra = stored.get("extra")
    if isinstance(extra, Mapping):
        flat |= cast("JSON", extra)
    return {name: fingerprint({name: it}) for name, it in flat.items()}


def _values_of(request: Request) -> dict[str, object]:
    values = {it.name: getattr(request, it.name) for it in fields(type(request))}
    return {name: value for name, value in values.items() if value is not None}


def _refuse_marks(request: Request) -> None:
    """Refuse what a worker would take for a file to be read from its disk."""
    forged: list[object] = []
    problems: list[Problem] = []
    for name, value in _values_of(request).items():
        _map_nested(value, _is_marked, forged.append)
        if forged:
            allowed = f"a mapping without {', '.join(sorted(_MARKS))}: they mark files"
            problems.append(Problem(name, short_repr(forged[0]), allowed))
            forged.clear()
    if problems:
        raise InvalidRequestError(problems, model=request.model)


def _is_marked(value: object) -> bool:
    return isinstance(value, Mapping) and not _MARKS.isdisjoint(value)


def _serialize(request: Request, inline: bool) -> JSON:
    given = _values_of(request)
    kept = _map_nested(given, is_local, lambda it: _store_media(it, inline=inline))
    return cast("JSON", kept)


def _request(stored: JSON) -> Request:
    params = _map_nested(stored, _is_kept, _content)
    return build_request(cast("Mapping[str, object]", params))


def _store_media(value: object, *, inline: bool) -> object:
    content = _bytes_of(value)
    if isinstance(value, os.PathLike) and not inline:
        path = Path(cast("os.PathLike[str]", value)).absolute()
        kept = {_FILE: str(path)}
    else:
        kept = {_BYTES: base64.b64encode(content).decode("ascii")}
    return kept | {_DIGEST: _digest(content)}


def _content(value: object) -> object:
    kept = _entry(value)
    try:
        if _FILE not in kept:
            return base64.b64decode(kept[_BYTES], validate=True)
        content = read_file(Path(kept[_FILE]))
        is_same = _digest(content) == kept[_DIGEST]
    except OSError as error:
        raise MissingFileError(f"{kept[_FILE]}: {error.strerror or error}") from error
    except (LookupError, TypeError, ValueError) as error:
        allowed = "what submit() writes down for one"
        problem = Problem("file", short_repr(value), allowed)
        raise InvalidRequestError([problem]) from error
    if not is_same:
        hint = "Submit it under another key to send the file as it is now."
        allowed = "the file as it was when the job was submitted"
        problem = Problem("file", f"{kept[_FILE]}, which has changed", allowed, hint)
        raise InvalidRequestError([problem])
    return content


def _entry(value: object) -> Mapping[str, str]:
    return cast("Mapping[str, str]", value)


def _is_kept(value: object) -> bool:
    return isinstance(value, Mapping) and _DIGEST in value


def _has_local_media(body: object) -> bool:
    found: list[object] = []
    _map_nested(body, is_local, found.append)
    return bool(found)


def _map_nested(
    value: object,
    matches: Callable[[object], bool],
    change: Callable[[object], object],
) -> object:
    """Copy a nest of mappings and lists, with some of its values changed."""
    if matches(value):
        return change(value)
    if isinstance(value, Mapping):
        return {
            str(name): _map_nested(it, matches, change) for name, it in value.items()
        }
    if isinstance(value, list | tuple):
        return [_map_nested(it, matches, change) for it in value]
    return value


LONGEST_KEY = 200

# As many go into one transaction.
_CHUNK = 500


@frozen(kw_only=True)
class NewJob:
    """A job to submit, one of many.

    Attributes:
        request: What to generate.
        key: Its name within the batch; the same key again is the same job.
        output: The file to write the video to, or the URL of an object in a bucket.
    """

    request: Request
    key: str
    output: str | os.PathLike[str] | None = None


@frozen(kw_only=True)
class Comparison:
    """What is asked for beside the jobs that a batch has.

    Attributes:
        new: The keys that it does not have.
        unchanged: The jobs that it has just so.
        changed: The jobs of which nothing was sent, and whose request is another now.
        conflicts: The jobs that were begun with another request, and the fields.
        moved: The jobs whose video is to go elsewhere, and where to.
        absent: The jobs that nobody asks for any more.
    """

    new: list[str] = field(factory=list[str])
    unchanged: list[JobStatus] = field(factory=list[JobStatus])
    changed: list[JobStatus] = field(factory=list[JobStatus])
    conflicts: dict[str, list[str]] = field(factory=dict[str, list[str]])
    moved: list[tuple[JobStatus, str]] = field(factory=list[tuple[JobStatus, str]])
    absent: list[JobStatus] = field(factory=list[JobStatus])


@frozen
class Submitter:
    """Takes jobs into a batch.

    Attributes:
        store: The batch.
        inline: Whether local files are kept as bytes.
        check: Whether the documented limits are held against local files.
        inputs: The folder of a bucket that local files are uploaded to.
        is_relative: Whether outputs stay relative, to the batch's folder.
    """

    store: Store
    inline: bool
    check: bool
    inputs: str | None = None
    is_relative: bool = False

    async def submit(self, jobs: Iterable[NewJob]) -> list[str]:
        """Enqueue what is new, and give all keys.

        Raises:
            JobConflictError: A key is taken by another request.
            InvalidRequestError: A local file cannot be sent.
        """
        items = await self._items(jobs)
        known = await self._refuse_conflicts(items, items.keys())
        new = [item for key, item in items.items() if key not in known]
        for start in range(0, len(new), _CHUNK):
            await self.store.enqueue(new[start : start + _CHUNK])
        # Somebody else may have taken a key since.
        await self._refuse_conflicts(items, items.keys() - known)
        return list(items)

    async def compare(self, jobs: Iterable[NewJob]) -> Comparison:
        """Compare what is asked for with what the batch has; nothing is changed."""
        items = await self._items(jobs, uploads=False)
        rows = await self.store.rows()
        found = Comparison()
        for key, item in items.items():
            if key not in rows:
                found.new.append(key)
                continue
            status = status_of(rows[key], self.store.folder)
            output = item.job_input.output
            if fingerprint_of(rows[key]) == item.fingerprint:
                found.unchanged.append(status)
                if output and status.output != place_of(output, self.store.folder):
                    found.moved.append((status, output))
            elif _is_unsent(status):
                found.changed.append(status)
            else:
                found.conflicts[key] = await self._difference(rows[key], item)
        gone = rows.keys() - items.keys()
        found.absent.extend(
            status_of(row, self.store.folder)
            for key, row in rows.items()
            if key in gone
        )
        return found

    async def replace(self, jobs: Iterable[NewJob]) -> None:
        """Put other requests in place of jobs of which nothing was sent.

        Raises:
            JobConflictError: One has begun meanwhile.
        """
        items = await self._items(jobs)
        statuses = await self.store.statuses(items.keys())
        for key, item in items.items():
            if statuses[key].state is JobState.QUEUED:
                await self.store.hold(statuses[key], "replaced")
            status = (await self.store.statuses([key]))[key]
            if not _is_unsent(status):
                raise JobConflictError(
                    f"job {key!r} has just begun with its former request",
                    key=key,
                    state=status.state,
                )
            number = status.attempt + 1
            job_input = evolve(
                item.job_input, workflow_id=self.store.workflow_id(key, number)
            )
            await self.store.enqueue([evolve(item, job_input=job_input)])

    async def _items(
        self, jobs: Iterable[NewJob], *, uploads: bool = True
    ) -> dict[str, QueueItem]:
        items: dict[str, QueueItem] = {}
        for job in jobs:
            item = await self._item(job, uploads=uploads)
            self._refuse_other(job.key, items.get(job.key), item)
            items[job.key] = item
        return items

    async def _difference(self, row: WorkflowStatus, item: QueueItem) -> list[str]:
        written = await self.store.input_of(status_of(row))
        return differing_fields(written.request, item.job_input.request)

    async def _item(self, job: NewJob, *, uploads: bool) -> QueueItem:
        _require_key(job.key)
        output = None if job.output is None else os.fspath(job.output)
        if output is not None and is_url(output):
            await BucketObject(output).folder()  # told before anything is paid
        request = job.request
        if self.inputs is not None:
            await encode_local_files(request.to_body(), check=self.check)
            request = await _with_inputs(request, self.inputs, uploads=uploads)
        stored = await to_stored(request, inline=self.inline, check=self.check)
        job_input = JobInput(
            workflow_id=self.store.workflow_id(job.key, 1),
            batch=self.store.batch,
            request=stored,
            output=None if output is None else self._output(output),
        )
        return QueueItem(
            job_input=job_input,
            fingerprint=await to_thread.run_sync(fingerprint, stored),
            model=job.request.model,
        )

    def _output(self, output: str) -> str:
        return output if self.is_relative else _absolute(output)

    def _refuse_other(
        self, key: str, first: QueueItem | None, second: QueueItem
    ) -> None:
        if first is not None and first.fingerprint != second.fingerprint:
            fields = differing_fields(first.job_input.request, second.job_input.request)
            raise self._conflict([(key, fields)])

    async def _refuse_conflicts(
        self, items: Mapping[str, QueueItem], keys: Collection[str]
    ) -> set[str]:
        """Compare with what the batch holds, and give the keys that it knows."""
        if not keys:
            return set()
        rows = await self.store.rows(keys)
        known = rows.keys() & set(keys)
        taken = [
            (key, await self._difference(rows[key], items[key]))
            for key in sorted(known)
            if fingerprint_of(rows[key]) != items[key].fingerprint
        ]
        if taken:
            raise self._conflict(taken)
        return known

    def _conflict(self, taken: Sequence[tuple[str, list[str]]]) -> JobConflictError:
        message = "; ".join(
            f"job {key!r} of batch {self.store.batch!r} is there already with another "
            f"request (they differ in: {', '.join(fields)})"
            for key, fields in taken
        )
        return JobConflictError(
            f"{message}; take another key, or give the same request again",
            key=taken[0][0],
        )


async def _with_inputs(request: Request, inputs: str, *, uploads: bool) -> Request:
    """Give a request whose local files are in a bucket, named by their content."""
    given = _values_of(request)
    local: list[object] = []
    _map_nested(given, is_local, local.append)
    if not local:
        return request
    urls = iter([await _input_url(it, inputs, uploads=uploads) for it in local])
    params = _map_nested(given, is_local, lambda _: next(urls))
    return build_request(cast("Mapping[str, object]", params))


async def _input_url(value: object, inputs: str, *, uploads: bool) -> str:
    """Put a file where any worker has it; what is there already stays."""
    content = await to_thread.run_sync(_bytes_of, value)
    url = f"{inputs.rstrip('/')}/{await to_thread.run_sync(_digest, content)}"
    there = BucketObject(url)
    try:
        if uploads and not await there.exists():
            media_type = type_of(content) or "application/octet-stream"
            await there.upload(content, media_type)
    except StorageError as error:
        problem = Problem("file", url, "an object that can be written", str(error))
        raise InvalidRequestError([problem]) from error
    return url


def _bytes_of(value: object) -> bytes:
    if isinstance(value, os.PathLike):
        return read_file(Path(cast("os.PathLike[str]", value)).absolute())
    return bytes(cast("bytes", value))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_unsent(status: JobStatus) -> bool:
    """Whether nothing was sent for a job, so that it may still be another."""
    is_waiting = status.state in (JobState.QUEUED, JobState.HELD)
    return is_waiting and status.generation_id is None and status.intent is None


def _absolute(path: str) -> str:
    """Say where a file is, whatever the worker's working directory."""
    return path if is_url(path) else str(Path(path).absolute())


_BATCH = re.compile(f"[{BATCH_LETTERS}]{{1,{LONGEST_BATCH}}}")


def require_batch(batch: object) -> None:
    """Refuse what no batch may be called."""
    fits = isinstance(batch, str) and _BATCH.fullmatch(batch) is not None
    allowed = f"1 to {LONGEST_BATCH} of A-Z a-z 0-9 . _ -"
    require("batch", batch, allowed, fits=fits)


def _require_key(key: object) -> None:
    fits = isinstance(key, str) and 0 < len(key) <= LONGEST_KEY and key.isprintable()
    require("key", key, f"1 to {LONGEST_KEY} printable characters", fits=fits)


_UNSUCCESSFUL = (
    JobState.FAILED,
    JobState.HELD,
    JobState.UNCERTAIN,
    JobState.CANCELLED,
)


async def retry_job(
    store: Store,
    status: JobStatus,
    *,
    adopt: str | None = None,
    resolve: bool = False,
) -> None:
    """Let a job be tried once more.

    Args:
        store: Its batch.
        status: The job.
        adopt: The generation to go on with; by default its own, if it has one that
            has not failed.
        resolve: Whether the vendor's log is only asked again.

    Raises:
        JobConflictError: It is in another state, or somebody else was quicker.
    """
    _require(status, (JobState.UNCERTAIN,) if resolve else _UNSUCCESSFUL)
    failed = status.generation is not None and status.generation.failed
    adopt = adopt or (None if failed else status.generation_id)
    before = await store.input_of(status)
    job_input = evolve(
        before,
        workflow_id=store.workflow_id(status.key, status.attempt + 1),
        adopt=adopt,
        resolve=status.intent if resolve else None,
        instead_of=before.workflow_id if resolve or adopt else None,
    )
    mark = await to_thread.run_sync(fingerprint, job_input.request)
    item = QueueItem(job_input=job_input, fingerprint=mark, model=status.model or "")
    if not await store.enqueue_first(item):
        raise JobConflictError(
            f"job {status.key!r}: somebody else has just decided on it",
            key=status.key,
            state=status.state,
        )


async def give_up(store: Store, status: JobStatus) -> None:
    """Let an uncertain job fail.

    Raises:
        JobConflictError: It is not uncertain.
    """
    _require(status, (JobState.UNCERTAIN,))
    await store.give_up(status)


def _require(status: JobStatus, states: tuple[JobState, ...]) -> None:
    if status.state not in states:
        raise JobConflictError(
            f"job {status.key!r} is {status.state}; this is for one that is "
            f"{' or '.join(states)}",
            key=status.key,
            state=status.state,
        )
