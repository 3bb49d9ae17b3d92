# pyright: reportPrivateUsage=false
"""Faults that the library once had, put back one at a time into today's code.

Found by reading in an earlier review of it; here they show that the simulation finds
such by itself. Each says what its users met.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import anyio
import httpcore
import httpx
from attrs import evolve, frozen

from kling_async import (
    DownloadError,
    Generation,
    TransportError,
    _batch,
    _client,
)
from kling_async._billing import log_search, submission
from kling_async._billing.money import LogRow
from kling_async._billing.rows import Page
from kling_async._files import download
from kling_async._files.part import InterruptionError, Part
from kling_async._http import session, transport
from kling_async._polling import creations, watch
from kling_async._polling.schedules import PollState
from kling_async._runtime import limiter, tasks

T = TypeVar("T")

Patch = tuple[object, str, object]


@frozen
class Fault:
    """One of them.

    Attributes:
        name: A short one.
        harm: What users met.
        patches: What to put in the place of what: an object, a name in it, and that.
        seed: What found it before.
    """

    name: str
    harm: str
    patches: tuple[Patch, ...]
    seed: int = 0

    @contextmanager
    def put_back(self) -> Generator[None]:
        """Have it until the end of the block."""
        with ExitStack() as stack:
            for place, name, stand_in in self.patches:
                stack.enter_context(patch.object(place, name, stand_in))
            yield


_may_repeat = submission.Submission._may_repeat
_take = log_search.LostCreate.take
_is_over = log_search.LostCreate.is_over
_due = watch.PollLoop.due
_acquire = limiter.Limiter.acquire
_begin = limiter.Limiter._begin


def _send_again_what_failed(sent: submission.Submission, error: BaseException) -> bool:
    return getattr(error, "is_unbilled", False) or _may_repeat(sent, error)


def _forget_after_an_hour(lost: log_search.LostCreate) -> bool:
    if anyio.current_time() - lost.sent_at > 3600:
        lost.verdict = "failed"
        return True
    return bool(_is_over.fget(lost))  # type: ignore[attr-defined]


def _trust_httpcore_below(error: BaseException) -> bool:
    return isinstance(error.__cause__, httpcore.ConnectError)


def _trust_the_name(error: BaseException) -> bool:
    """Trust what an error is called, as long as it is of our request."""
    is_ours = "metrics" not in str(getattr(error, "_request", ""))
    return is_ours and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


def _take_young_rows(
    lost: log_search.LostCreate,
    page: Page[LogRow],
    **how: Any,  # noqa: ANN401
) -> None:
    """Leave out rows that are older than the create, by this machine's clock."""
    since = lost.since.timestamp() - 600
    rows = tuple(
        row
        for row in page.rows
        if row.created is None or row.created.timestamp() >= since
    )
    _take(lost, evolve(page, rows=rows), **how)


def _is_first_sight(loop: watch.PollLoop, watcher: watch.Watch) -> float:
    """Take what a watcher brings for new, however old it is."""
    if loop._polls or watcher.last is None:
        return _due(loop, watcher)
    state = PollState(polls=0, elapsed=0.0, status=watcher.last.status)
    return min(loop._started + watcher.polling.delay(state), watcher.deadline)


def _hold_all_back_alike(
    gate: limiter.Limiter,
    pause: float,
    *,
    is_news: bool,  # noqa: ARG001 (as it is called)
) -> None:
    gate._resume_at = max(gate._resume_at, gate.loop.time() + pause)


def _refuse_without_excuse(slot: limiter.Slot, pause: float) -> None:
    slot._limiter._slow_down(pause, is_news=False)


async def _drain_all(scope: tasks.ClientTasks) -> None:
    for job in list(scope._jobs):
        await job.wait()


async def _pass_the_gate(
    gate: limiter.Limiter, kind: limiter.Kind, until: float = math.inf
) -> limiter.Slot:
    if kind is not limiter.Kind.DOWNLOAD:
        return await _acquire(gate, kind, until)
    slot = limiter.Slot(gate, kind, 0, False)  # noqa: FBT003 (its own order)
    slot._is_taken = False
    return slot


def _begin_with_connection(gate: limiter.Limiter, kind: limiter.Kind) -> limiter.Slot:
    slot = _begin(gate, kind)
    slot.claim_connection()
    return slot


async def _just_create(
    _: _batch.Holdback, create: Callable[[], Awaitable[Generation]]
) -> Generation:
    return await create()


async def _count_every_drop(
    job: download.Download, at: session.Session, part: Part
) -> None:
    failure: Exception | None = None
    for number in range(1, job.settings.retry.attempts + 1):
        try:
            return await job._attempt(at, part)
        except (TransportError, InterruptionError) as error:
            failure = error
        await job._wait(failure, number, number)
    raise DownloadError("too many drops") from failure


def _note_unguarded(hook: Callable[[T], object], event: T) -> None:
    hook(event)


def _length_of_any_number(body: Mapping[str, object]) -> float | None:
    given = body.get("duration")
    return float(given) if isinstance(given, int) else None


async def _sleep_on(_: session.Session, seconds: float) -> None:
    await asyncio.sleep(seconds)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "forgotten hour",
        "a create in flight for an hour was told as failed without a look at the log",
        (
            (log_search.LostCreate, "is_over", property(_forget_after_an_hour)),
            (submission.Submission, "_may_repeat", _send_again_what_failed),
        ),
        139,
    ),
    Fault(
        "hook's own error",
        "a hook that could not connect let an accepted create be sent again",
        ((transport, "is_unsent", _trust_httpcore_below),),
        9,
    ),
    Fault(
        "foreign transport",
        "a transport that calls a lost answer a ConnectError had creates sent again",
        ((transport, "is_unsent", _trust_the_name),),
        102,
    ),
    Fault(
        "fast clock",
        "a clock 15 min fast hid the row of a generation, and None was the answer",
        ((log_search.LostCreate, "take", _take_young_rows),),
        502,
    ),
    Fault(
        "half-read log",
        "reconcile() said None for a log that it had not read to the end",
        ((log_search.LostCreate, "gap", None),),
        85,
    ),
    Fault(
        "late wait",
        "wait() of a generation created long ago did not poll at once",
        ((watch.PollLoop, "due", _is_first_sight),),
        58,
    ),
    Fault(
        "herd",
        "all requests held back by a 429 went out at once, and used up their attempts",
        (
            (limiter.Limiter, "_slow_down", _hold_all_back_alike),
            (limiter.Slot, "refuse", _refuse_without_excuse),
        ),
        224,
    ),
    Fault(
        "close from inside",
        "aclose() called from a batch's own source never returned",
        ((tasks.ClientTasks, "_drain", _drain_all),),
        490,
    ),
    Fault(
        "downloads without a limit",
        "more downloads at once than connections made some fail",
        ((limiter.Limiter, "acquire", _pass_the_gate),),
        20,
    ),
    Fault(
        "drops in total",
        "a download that made progress each time was given up after a few drops",
        ((download.Download, "_fetch_all", _count_every_drop),),
        20,
    ),
    Fault(
        "unguarded note",
        "an absurd time in an answer raised an error after the paid create",
        (
            (_client, "notify", _note_unguarded),
            (creations, "video_length", _length_of_any_number),
        ),
        27,
    ),
    Fault(
        "concurrency",
        "an account that takes few at once failed most of a batch",
        ((_batch.Holdback, "create", _just_create),),
        7,
    ),
    Fault(
        "deaf pause",
        "a create held back by a 429 noticed aclose() only after the pause",
        ((session.Session, "sleep", _sleep_on),),
        690,
    ),
    Fault(
        "forgotten connection",
        "a client that was closed as a create was let in left its connection open",
        ((limiter.Limiter, "_begin", _begin_with_connection),),
        107609,
    ),
)
