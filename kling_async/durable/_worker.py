"""A worker: the steps of a job, in the order in which the engine repeats them.

A step is run again unless its completion was recorded. `create` is the one that must
not be repeated blindly.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import itertools
import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal
from attrs import define, evolve, field
from dbos import DBOS, DBOSClient, StepOptions, WorkflowHandleAsync
from sqlalchemy.exc import SQLAlchemyError

from kling_async._checks import DrawnId, client_request_id_from
from kling_async._client import AsyncKling
from kling_async._config import WhenUncertain
from kling_async._errors import (
    AuthenticationError,
    ClientClosedError,
    InvalidRequestError,
    KlingError,
    PermissionDeniedError,
    WaitTimeoutError,
)
from kling_async._failures import Fate, Healing, meaning_of
from kling_async._files.storage import is_url
from kling_async._generation import Generation
from kling_async._hooks import logger
from kling_async.durable._database import DatabaseClosedError, persist
from kling_async.durable._records import (
    JSON,
    Account,
    AttemptResult,
    BudgetStore,
    Intent,
    JobInput,
    JobState,
)
from kling_async.durable._store import (
    PERMIT,
    PERMITS,
    WORKFLOW,
    Store,
    permit_id,
    place_of,
)
from kling_async.durable._submit import MissingFileError, from_stored
from kling_async.durable._webhook import Webhook, enqueue, message_of

T = TypeVar("T")

# What an operator mends, after which the job can go on from where it is.
_MENDABLE = (AuthenticationError, PermissionDeniedError, WaitTimeoutError)

# Seconds between two looks at a queue that somebody waits for.
QUEUE_POLL = 0.5

# By how much the clock of another worker, which noted when it sent, may be ahead.
_CLOCK_ERROR = dt.timedelta(hours=12)


class HandedOverError(Exception):
    """The worker stops; another one goes on with this job."""


@define(eq=False)
class FleetRateLimiter:
    """Creates at the rate of the whole fleet: each takes a permit from a queue."""

    client: DBOSClient
    # Those that wait ask the database: a few do, the others wait for them.
    _turns: anyio.Semaphore = field(factory=lambda: anyio.Semaphore(16))

    async def acquire(self, workflow_id: str, number: int) -> None:
        """Wait until the queue lets one more create begin."""
        async with self._turns:
            handle: WorkflowHandleAsync[str] = await self.client.enqueue_async(
                {
                    "workflow_name": PERMIT,
                    "queue_name": PERMITS,
                    # The same again after a crash: no second permit for one create.
                    "workflow_id": permit_id(workflow_id, number),
                }
            )
            await handle.get_result(polling_interval_sec=QUEUE_POLL)


@define(eq=False, kw_only=True)
class Worker:
    """A worker's settings, and its running jobs.

    Attributes:
        client: The client.
        store: Records created generations.
        budget: Keeps the budgets.
        pace: How often a create may begin; None for as often as there are jobs.
        on_uncertain: What is done when nothing tells whether a create arrived.
        wait_timeout: How long one generation is waited for, in seconds.
        reconcile_timeout: How long the vendor's log is asked for a create whose
            worker died, in seconds.
        webhook: Who is told of jobs that end.
        check_mp4: Whether a video has to be an MP4 that opens.
        is_draining: Whether nothing new is begun.
    """

    client: AsyncKling
    store: Store
    budget: BudgetStore
    pace: FleetRateLimiter | None
    on_uncertain: WhenUncertain
    wait_timeout: float
    reconcile_timeout: float
    webhook: Webhook | None = None
    check_mp4: bool = True
    is_draining: bool = False
    _waits: set[anyio.CancelScope] = field(factory=set[anyio.CancelScope])

    def drain(self) -> None:
        """Begin nothing new, and leave what can be left: creates are not torn."""
        self.is_draining = True
        for wait in list(self._waits):
            wait.cancel()

    async def intend(
        self, job_input: JobInput, request_id: str, number: int
    ) -> Intent | AttemptResult:
        """Decide to send a create, as soon as pace and budget allow it."""
        return await self._interruptible(
            lambda: self._intend(job_input, request_id, number)
        )

    async def create(
        self, job_input: JobInput, intent: Intent, *, is_own: bool
    ) -> AttemptResult:
        """Send a create once, after its intent was written.

        Args:
            job_input: What to create.
            intent: The decision.
            is_own: Whether this run took it. If not, a worker died since, and may
                have sent it: it is looked for, never sent again.
        """
        if is_own:
            with anyio.CancelScope(shield=True):
                return self._by_policy(await self._create(job_input, intent))
        resolved = await self._interruptible(lambda: self._resolve(job_input, intent))
        return self._by_policy(resolved)

    async def follow(
        self, job_input: JobInput, created: AttemptResult
    ) -> AttemptResult:
        """Wait for the end of a generation, and write its video to its file."""

        async def follow() -> AttemptResult:
            result = await self._follow(job_input, created)
            return await self._deliver(job_input, result)

        return await self._interruptible(follow)

    async def deliver(
        self, job_input: JobInput, result: AttemptResult
    ) -> AttemptResult:
        """Write the video to its file."""
        return await self._interruptible(lambda: self._deliver(job_input, result))

    async def report(self, job_input: JobInput, result: AttemptResult) -> AttemptResult:
        """Have whoever wants it told that a job has ended."""
        message = message_of(job_input, result)
        await enqueue(self.store.client, job_input.workflow_id, message)
        return result

    async def _interruptible(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work that may be cancelled at any moment: another worker can repeat it."""
        if self.is_draining:
            raise HandedOverError
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                return await work()
            except ClientClosedError as error:
                raise HandedOverError from error
            finally:
                self._waits.discard(scope)
        raise HandedOverError

    async def _intend(
        self, job_input: JobInput, request_id: str, number: int
    ) -> Intent | AttemptResult:
        if self.pace is not None:
            await self.pace.acquire(job_input.workflow_id, number)
        try:
            refused = await self._reserve(job_input)
        except MissingFileError as error:
            return _hold(f"a file is not on this machine: {error}", error)
        except InvalidRequestError as error:
            return _end(JobState.FAILED, error)
        if refused is not None:
            return _hold(_out_of_budget(job_input.batch, refused))
        return Intent(client_request_id=request_id, at=dt.datetime.now(dt.UTC))

    async def _reserve(self, job_input: JobInput) -> Account | None:
        batch, workflow_id = job_input.batch, job_input.workflow_id
        if not await persist(self.budget.is_bounded, batch):
            return None
        price = await self._price(job_input)
        return await persist(self.budget.reserve, batch, workflow_id, price)

    async def _price(self, job_input: JobInput) -> float:
        """Ask what it will cost; where the vendor is silent, nothing is set aside."""
        request = await from_stored(job_input.request)
        try:
            quote = await self.client.price(request)
        except KlingError as error:
            logger.warning("no price for %s: %s", job_input.workflow_id, error)
            return 0.0
        return float(quote.credits or 0)

    async def _create(self, job_input: JobInput, intent: Intent) -> AttemptResult:
        try:
            request = await from_stored(job_input.request)
            generation = await self.client.create(
                request, client_request_id=DrawnId(intent.client_request_id)
            )
        except MissingFileError as error:
            return _hold(f"a file is not on this machine: {error}", error)
        except KlingError as error:
            return _classify_create_error(error, intent)
        return await self._record_created(job_input, intent, generation.id)

    async def _resolve(self, job_input: JobInput, intent: Intent) -> AttemptResult:
        """Find the outcome of a create that another worker may have sent."""
        recorded_id = await self.store.recorded_id(job_input.workflow_id)
        if recorded_id is not None:
            return await self._record_created(job_input, intent, recorded_id)
        try:
            found = await self.client.reconcile(
                DrawnId(intent.client_request_id),
                since=intent.at - _CLOCK_ERROR,
                timeout=self.reconcile_timeout,
            )
        except KlingError as error:
            return _uncertain(intent, error)
        if found is None:
            return _uncertain(intent)
        logger.warning(
            "adopted generation %s, whose create was cut off (client request id %s)",
            found.id,
            intent.client_request_id,
        )
        return await self._record_created(job_input, intent, found.id)

    async def _record_created(
        self, job_input: JobInput, intent: Intent, generation_id: str
    ) -> AttemptResult:
        # Before the engine's own entry: also a job that was called off meanwhile
        # knows its id, and a worker that dies between the two need not search.
        await self.store.record_id(job_input.workflow_id, generation_id)
        return AttemptResult(
            state=JobState.RUNNING, generation_id=generation_id, intent=intent
        )

    def _by_policy(self, result: AttemptResult) -> AttemptResult:
        if result.state is not JobState.UNCERTAIN or self.on_uncertain == "ask":
            return result
        if self.on_uncertain == "give_up":
            return evolve(
                result, state=JobState.FAILED, error=f"given up: {result.error}"
            )
        return evolve(result, unsent=True)

    async def _follow(
        self, job_input: JobInput, created: AttemptResult
    ) -> AttemptResult:
        generation_id = str(created.generation_id)
        last: Generation | None = None
        changes = self.client.watch(generation_id, timeout=self.wait_timeout)
        try:
            async with aclosing(changes):
                async for last in changes:  # noqa: B007 (the last one counts)
                    pass
        except ClientClosedError:
            raise
        except KlingError as error:
            state = JobState.HELD if isinstance(error, _MENDABLE) else JobState.FAILED
            return _end(state, error, generation_id, last)
        if last is None or not last.is_terminal:
            raise HandedOverError
        if created.intent is not None:
            last = evolve(last, client_request_id=created.intent.client_request_id)
        return await self._settle_cost(job_input, last)

    async def _settle_cost(
        self, job_input: JobInput, generation: Generation
    ) -> AttemptResult:
        spent = 0.0 if generation.failed else generation.credits_used
        if spent is not None:
            settle = functools.partial(
                self.budget.settle, instead_of=job_input.instead_of
            )
            await persist(settle, job_input.batch, job_input.workflow_id, spent)
        result = AttemptResult(
            state=JobState.DONE, generation_id=generation.id, generation=generation
        )
        if generation.succeeded:
            return result
        why = str(generation.error or "") or "the server gave no reason"
        return evolve(
            result,
            state=JobState.FAILED,
            error=f"the generation failed: {why}",
            kind="GenerationFailedError",
        )

    async def _deliver(
        self, job_input: JobInput, result: AttemptResult
    ) -> AttemptResult:
        generation = result.generation
        is_due = result.state is JobState.DONE and job_input.output
        if generation is None or not is_due:
            return result
        named = await self.store.output_of(job_input.workflow_id) or job_input.output
        folder = await persist(self.budget.folder, job_input.batch)
        output = str(place_of(named, folder or Path()))
        try:
            if not is_url(output):
                await anyio.Path(output).parent.mkdir(parents=True, exist_ok=True)
            await self.client.download(generation, output, check_mp4=self.check_mp4)
        except ClientClosedError:
            raise
        except (OSError, ModuleNotFoundError) as error:
            why = getattr(error, "strerror", None) or error
            message = f"cannot write {output}: {why}"
            return evolve(
                result, state=JobState.HELD, error=message, kind="DownloadError"
            )
        except KlingError as error:
            return _end(JobState.HELD, error, generation.id, generation)
        return evolve(result, is_delivered=True)


def _hold(why: str, error: Exception | None = None) -> AttemptResult:
    kind = type(error).__name__ if error else None
    return AttemptResult(state=JobState.HELD, error=why, kind=kind)


def _end(
    state: JobState,
    error: KlingError,
    generation_id: str | None = None,
    generation: Generation | None = None,
) -> AttemptResult:
    return AttemptResult(
        state=state,
        error=error.reason,
        kind=type(error).__name__,
        generation_id=generation_id,
        generation=generation,
    )


def _classify_create_error(error: KlingError, intent: Intent) -> AttemptResult:
    meaning = meaning_of(error)
    if meaning.fate is Fate.UNKNOWN:
        return _uncertain(intent, error)
    if meaning.healing is Healing.NOTHING:
        return _end(JobState.FAILED, error)
    goes_again = meaning.healing is Healing.TIME or meaning.fate is Fate.UNSENT
    return evolve(_end(JobState.HELD, error), unsent=goes_again)


def _uncertain(intent: Intent, error: KlingError | None = None) -> AttemptResult:
    message = error.reason if error else "a worker died while it sent the create"
    return AttemptResult(
        state=JobState.UNCERTAIN,
        error=message,
        kind="SubmissionUncertainError",
        intent=intent,
    )


def _out_of_budget(batch: str, account: Account) -> str:
    return (
        f"the budget of batch {batch!r} does not allow it: {account.committed:,.0f} of "
        f"{account.budget or 0:,.0f} credits are spent or set aside"
    )


# How often a create that cannot reach the server is begun anew, and the longest
# pause between: about an hour and a half in all.
_ATTEMPTS = 100

_LONGEST_PAUSE = 60.0


@define(eq=False)
class WorkerContext:
    """What the jobs of this process run with; the engine allows one at a time.

    Attributes:
        worker: The steps.
        portal: The way to the client's event loop.
        creating: How many jobs are between intent and id.
        dropped: The attempts that the database failed, to be taken up again.
    """

    worker: Worker
    portal: BlockingPortal
    creating: int = 0
    dropped: list[str] = field(factory=list[str])

    async def do(self, step: Callable[..., Awaitable[T]], *args: object) -> T:
        """Do a step's work on the client's event loop.

        Raises:
            asyncio.CancelledError: The worker stops. The engine writes nothing
                down, and the job is taken over from its last step.
        """
        try:
            future = self.portal.start_task_soon(step, *args)
            return await asyncio.wrap_future(future)
        except (HandedOverError, DatabaseClosedError):
            raise asyncio.CancelledError from None

    @contextlib.contextmanager
    def between_intent_and_id(self) -> Generator[None]:
        """Count a create that is not to be torn."""
        self.creating += 1
        try:
            yield
        finally:
            self.creating -= 1

    async def no_create(self) -> None:
        """Wait, on the client's event loop, until none is under way."""
        while self.creating:  # noqa: ASYNC110 (it is counted on another event loop)
            await anyio.sleep(0.02)


CONTEXTS: list[WorkerContext] = []


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
async def run_job(given: dict[str, object]) -> dict[str, object]:
    """Do one attempt at a job."""
    context, job_input = _current_context(), JobInput.from_json(given)
    try:
        return (await _run(context, job_input)).to_json()
    except DatabaseClosedError:
        raise asyncio.CancelledError from None
    except SQLAlchemyError as error:
        # What the server was asked for is paid, so this is no end of the job.
        logger.error("the database failed job %s: %s", job_input.workflow_id, error)
        context.dropped.append(job_input.workflow_id)
        raise asyncio.CancelledError from error


async def _run(context: WorkerContext, job_input: JobInput) -> AttemptResult:
    result = await _obtain_id(context, job_input)
    if result.state is JobState.RUNNING:
        result = await _step(
            "follow", context, context.worker.follow, job_input, result
        )
        if not result.is_delivered:  # version 0.1 wrote this down before it was
            result = await context.do(context.worker.deliver, job_input, result)
    if context.worker.webhook is not None:
        # Before the job is told as ended: killed in between, it does so again.
        await _step("report", context, context.worker.report, job_input, result)
    return result


@DBOS.workflow(name=PERMIT, max_recovery_attempts=None)
async def permit() -> str:
    """Count as one create in the queue that limits their rate."""
    return "granted"


async def _obtain_id(context: WorkerContext, job_input: JobInput) -> AttemptResult:
    """Get to a generation's id, or to the reason why there is none."""
    if job_input.adopt is not None:
        return AttemptResult(state=JobState.RUNNING, generation_id=job_input.adopt)
    if job_input.resolve is not None:
        result = await _run_create(context, job_input, job_input.resolve, is_own=False)
        if not result.unsent:
            return result
    for number in itertools.count(1):
        with context.between_intent_and_id():
            result = await _attempt(context, job_input, number)
        if not result.unsent or number >= _ATTEMPTS:
            return result
        await DBOS.sleep_async(min(_LONGEST_PAUSE, 2.0**number))
    raise AssertionError


async def _attempt(
    context: WorkerContext, job_input: JobInput, number: int
) -> AttemptResult:
    request_id = _request_id(job_input)

    async def intend() -> dict[str, JSON]:
        answer = await context.do(context.worker.intend, job_input, request_id, number)
        is_intent = isinstance(answer, Intent)
        return {"intent" if is_intent else "held": answer.to_json()}

    # A job that is called off is not waited for, unless its create is under way.
    options: StepOptions = {"name": "intent", "preemptible": True}
    written = await DBOS.run_step_async(options, intend)
    if "held" in written:
        return AttemptResult.from_json(written["held"])
    intent = Intent.from_json(written["intent"])
    # The id is drawn anew in each run: one that reads back another's is not the
    # run that decided, and does not know whether the create was sent.
    return await _run_create(
        context, job_input, intent, is_own=intent.client_request_id == request_id
    )


async def _run_create(
    context: WorkerContext, job_input: JobInput, intent: Intent, *, is_own: bool
) -> AttemptResult:
    create = functools.partial(context.worker.create, is_own=is_own)
    return await _step("create", context, create, job_input, intent)


async def _step(
    name: str,
    context: WorkerContext,
    work: Callable[..., Awaitable[AttemptResult]],
    *args: object,
) -> AttemptResult:
    async def do() -> JSON:
        return (await context.do(work, *args)).to_json()

    options: StepOptions = {"name": name, "preemptible": name != "create"}
    return AttemptResult.from_json(await DBOS.run_step_async(options, do))


def _request_id(job_input: JobInput) -> str:
    """Draw an id that the vendor keeps, and that a person finds the job by."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", job_input.workflow_id)[:80]
    return f"{readable}-{client_request_id_from(None).removeprefix('kling-')}"


def _current_context() -> WorkerContext:
    if not CONTEXTS:
        raise asyncio.CancelledError
    return CONTEXTS[0]
