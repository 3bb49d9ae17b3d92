"""Jobs in: each key once, however often it is submitted.

The same request again is the same job; another request under a key that is taken
is refused, and then nothing is submitted at all.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from anyio import to_thread
from attrs import frozen

from kling_async._errors import ConfigurationError, JobConflictError
from kling_async._requests import Request
from kling_async.durable._records import Order
from kling_async.durable._store import Entry, Store, fingerprint_of, status_of
from kling_async.durable._stored import differing, fingerprint, to_stored

LONGEST_KEY = 200
# As many go into one transaction, and as many keys into one question.
_CHUNK = 500


@frozen(kw_only=True)
class NewJob:
    """A job to submit, one of many.

    Attributes:
        request: What to generate.
        key: Its name within the batch; the same key again is the same job.
        output: The file to write the video to.
    """

    request: Request
    key: str
    output: str | os.PathLike[str] | None = None


@frozen
class Intake:
    """Takes jobs into a batch.

    Attributes:
        store: The batch.
        inline: Whether local files are kept as bytes.
        check: Whether the documented limits are held against local files.
    """

    store: Store
    inline: bool
    check: bool

    async def take(self, jobs: Iterable[NewJob]) -> list[str]:
        """Enqueue what is new, and give all keys.

        Raises:
            JobConflictError: A key is taken by another request.
            InvalidRequestError: A local file cannot be sent.
        """
        entries: dict[str, Entry] = {}
        for job in jobs:
            entry = await self._entry(job)
            self._refuse_other(job.key, entries.get(job.key), entry)
            entries[job.key] = entry
        known = await self._refuse_conflicts(entries, entries.keys())
        new = [entry for key, entry in entries.items() if key not in known]
        for start in range(0, len(new), _CHUNK):
            await self.store.enqueue(new[start : start + _CHUNK])
        # Somebody else may have taken a key since.
        await self._refuse_conflicts(entries, entries.keys() - known)
        return list(entries)

    async def _entry(self, job: NewJob) -> Entry:
        _require_key(job.key)
        stored = await to_stored(job.request, inline=self.inline, check=self.check)
        output = None if job.output is None else os.fspath(job.output)
        order = Order(
            workflow_id=self.store.workflow_id(job.key, 1),
            batch=self.store.batch,
            request=stored,
            output=None if output is None else str(_absolute(output)),
        )
        return Entry(
            order=order,
            fingerprint=await to_thread.run_sync(fingerprint, stored),
            model=job.request.model,
        )

    def _refuse_other(self, key: str, first: Entry | None, second: Entry) -> None:
        if first is not None and first.fingerprint != second.fingerprint:
            fields = differing(first.order.request, second.order.request)
            raise self._conflict([(key, fields)])

    async def _refuse_conflicts(
        self, entries: Mapping[str, Entry], keys: Collection[str]
    ) -> set[str]:
        """Compare with what the batch holds, and give the keys that it knows."""
        if not keys:
            return set()
        rows = await self.store.rows(keys if len(keys) < _CHUNK else None)
        known = rows.keys() & set(keys)
        taken: list[tuple[str, list[str]]] = []
        for key in sorted(known):
            if fingerprint_of(rows[key]) != entries[key].fingerprint:
                order = await self.store.order_of(status_of(rows[key]))
                fields = differing(order.request, entries[key].order.request)
                taken.append((key, fields))
        if taken:
            raise self._conflict(taken)
        return known

    def _conflict(self, taken: Sequence[tuple[str, list[str]]]) -> JobConflictError:
        told = "; ".join(
            f"job {key!r} of batch {self.store.batch!r} is there already with another "
            f"request (they differ in: {', '.join(fields)})"
            for key, fields in taken
        )
        return JobConflictError(
            f"{told}; take another key, or give the same request again",
            key=taken[0][0],
        )


def _absolute(path: str) -> Path:
    """Say where a file is, whatever the worker's working directory."""
    return Path(path).absolute()


def _require_key(key: str) -> None:
    if not key or len(key) > LONGEST_KEY or not key.isprintable():
        raise ConfigurationError(
            f"key: given {key[:80]!r}; allowed: 1 to {LONGEST_KEY} printable characters"
        )
