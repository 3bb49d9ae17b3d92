"""What is decided on a job that has ended without a video.

Each decision is one more attempt, numbered: of two people who decide at the same
time one is told that the other was quicker. Nothing here is decided by itself.
"""

from __future__ import annotations

from anyio import to_thread
from attrs import evolve

from kling_async._errors import JobConflictError
from kling_async.durable._records import JobState
from kling_async.durable._store import Entry, JobStatus, Store
from kling_async.durable._stored import fingerprint

_UNSUCCESSFUL = (
    JobState.FAILED,
    JobState.HELD,
    JobState.UNCERTAIN,
    JobState.CANCELLED,
)


async def decide(
    store: Store,
    status: JobStatus,
    *,
    adopt: str | None = None,
    settle: bool = False,
) -> None:
    """Let a job be tried once more.

    Args:
        store: Its batch.
        status: The job.
        adopt: The generation to go on with; by default its own, if it has one that
            has not failed.
        settle: Whether the vendor's log is only asked again.

    Raises:
        JobConflictError: It is in another state, or somebody else was quicker.
    """
    _require(status, (JobState.UNCERTAIN,) if settle else _UNSUCCESSFUL)
    failed = status.generation is not None and status.generation.failed
    adopt = adopt or (None if failed else status.generation_id)
    before = await store.order_of(status)
    order = evolve(
        before,
        workflow_id=store.workflow_id(status.key, status.attempt + 1),
        adopt=adopt,
        settle=status.intent if settle else None,
        instead_of=before.workflow_id if settle or adopt else None,
    )
    mark = await to_thread.run_sync(fingerprint, order.request)
    entry = Entry(order=order, fingerprint=mark, model=status.model or "")
    if not await store.enqueue_first(entry):
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
