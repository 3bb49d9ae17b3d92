"""What a worker does for a job, step by step, on the client's event loop.

Each method is one step: it is repeated when it was not written down that it had
ended. Which of them may not be repeated blindly, `create` knows.
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
from typing import Literal, Protocol, TypeVar

import anyio
from anyio import to_thread
from anyio.from_thread import BlockingPortal
from attrs import define, evolve, field
from dbos import DBOS, StepOptions

from kling_async._checks import client_request_id_from
from kling_async._client import AsyncKling
from kling_async._errors import (
    AuthenticationError,
    ClientClosedError,
    DownloadError,
    InvalidRequestError,
    KlingError,
    PermissionDeniedError,
    RateLimitError,
    SubmissionUncertainError,
    TransportError,
    WaitTimeoutError,
)
from kling_async._generation import Generation
from kling_async._hooks import logger
from kling_async.durable._budget import Account, Budget
from kling_async.durable._store import (
    JSON,
    WORKFLOW,
    Intent,
    JobState,
    Order,
    Outcome,
    Store,
)
from kling_async.durable._submit import MissingFileError, from_stored

T = TypeVar("T")

Uncertain = Literal["ask", "resubmit", "give_up"]

# What an operator mends, after which the job can go on from where it is.
_MENDABLE = (AuthenticationError, PermissionDeniedError, WaitTimeoutError)


class HandedOverError(Exception):
    """The worker stops; another one goes on with this job."""


class Pace(Protocol):
    """Lets a create begin when the fleet's rate allows it."""

    async def turn(self, workflow_id: str, number: int) -> None:
        """Wait for it."""
        ...


@define(eq=False, kw_only=True)
class Work:
    """A worker's means, and the jobs it is busy with.

    Attributes:
        client: Who talks to the API.
        store: Where it is noted what was created.
        budget: Who may still spend.
        pace: How often a create may begin; None for as often as there are jobs.
        on_uncertain: What is done when nothing tells whether a create arrived.
        wait_timeout: How long one generation is waited for, in seconds.
        reconcile_timeout: How long the vendor's log is asked for a create whose
            worker died, in seconds.
        is_draining: Whether nothing new is begun.
    """

    client: AsyncKling
    store: Store
    budget: Budget
    pace: Pace | None
    on_uncertain: Uncertain
    wait_timeout: float
    reconcile_timeout: float
    is_draining: bool = False
    _waits: set[anyio.CancelScope] = field(factory=set[anyio.CancelScope])

    def drain(self) -> None:
        """Begin nothing new, and leave what can be left: creates are not torn."""
        self.is_draining = True
        for wait in list(self._waits):
            wait.cancel()

    async def intend(
        self, order: Order, request_id: str, number: int
    ) -> Intent | Outcome:
        """Decide to send a create, as soon as pace and budget allow it."""
        return await self._leaving(lambda: self._intend(order, request_id, number))

    async def create(self, order: Order, intent: Intent, *, is_own: bool) -> Outcome:
        """Send the create that was decided on, once.

        Args:
            order: What to create.
            intent: The decision.
            is_own: Whether this run took it. If not, a worker died since, and may
                have sent it: it is looked for, never sent again.
        """
        if is_own:
            with anyio.CancelScope(shield=True):
                return self._by_policy(await self._create(order, intent))
        settled = await self._leaving(lambda: self._settle(order, intent))
        return self._by_policy(settled)

    async def follow(self, order: Order, created: Outcome) -> Outcome:
        """Wait for the end of a generation."""
        return await self._leaving(lambda: self._follow(order, created))

    async def deliver(self, outcome: Outcome, output: str) -> Outcome:
        """Write the video to its file."""
        return await self._leaving(lambda: self._deliver(outcome, Path(output)))

    async def _leaving(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may be left at any moment, since another worker can repeat it."""
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
        self, order: Order, request_id: str, number: int
    ) -> Intent | Outcome:
        if self.pace is not None:
            await self.pace.turn(order.workflow_id, number)
        try:
            refused = await self._reserve(order)
        except MissingFileError as error:
            return _held(f"a file is not on this machine: {error}", error)
        except InvalidRequestError as error:
            return _ended(JobState.FAILED, error)
        if refused is not None:
            return _held(_out_of_budget(order.batch, refused))
        return Intent(client_request_id=request_id, at=dt.datetime.now(dt.UTC))

    async def _reserve(self, order: Order) -> Account | None:
        batch, workflow_id = order.batch, order.workflow_id
        if await to_thread.run_sync(self.budget.enter, batch, workflow_id):
            return None
        price = await self._price(order)
        return await to_thread.run_sync(self.budget.reserve, batch, workflow_id, price)

    async def _price(self, order: Order) -> float:
        """Ask what it will cost; where the vendor is silent, nothing is set aside."""
        request = await from_stored(order.request)
        try:
            quote = await self.client.price(request)
        except KlingError as error:
            logger.warning("no price for %s: %s", order.workflow_id, error)
            return 0.0
        return float(quote.credits or 0)

    async def _create(self, order: Order, intent: Intent) -> Outcome:
        try:
            request = await from_stored(order.request)
            generation = await self.client.create(
                request, client_request_id=intent.client_request_id
            )
        except MissingFileError as error:
            return _held(f"a file is not on this machine: {error}", error)
        except KlingError as error:
            return _not_created(error, intent)
        return await self._created(order, intent, generation.id)

    async def _settle(self, order: Order, intent: Intent) -> Outcome:
        """Find out what became of a create that another worker may have sent."""
        noted = await self.store.noted(order.workflow_id)
        if noted is not None:
            return await self._created(order, intent, noted)
        try:
            found = await self.client.reconcile(
                intent.client_request_id,
                since=intent.at,
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
        return await self._created(order, intent, found.id)

    async def _created(
        self, order: Order, intent: Intent, generation_id: str
    ) -> Outcome:
        # Before the engine's own entry: also a job that was called off meanwhile
        # knows its id, and a worker that dies between the two need not search.
        await self.store.note(order.workflow_id, generation_id)
        return Outcome(
            state=JobState.RUNNING, generation_id=generation_id, intent=intent
        )

    def _by_policy(self, outcome: Outcome) -> Outcome:
        if outcome.state is not JobState.UNCERTAIN or self.on_uncertain == "ask":
            return outcome
        if self.on_uncertain == "give_up":
            return evolve(
                outcome, state=JobState.FAILED, error=f"given up: {outcome.error}"
            )
        return evolve(outcome, unsent=True)

    async def _follow(self, order: Order, created: Outcome) -> Outcome:
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
            return _ended(state, error, generation_id, last)
        if last is None or not last.is_terminal:
            raise HandedOverError
        if created.intent is not None:
            last = evolve(last, client_request_id=created.intent.client_request_id)
        return await self._finished(order, last)

    async def _finished(self, order: Order, generation: Generation) -> Outcome:
        spent = 0.0 if generation.failed else generation.credits_used
        if spent is not None:
            settle = functools.partial(self.budget.settle, instead_of=order.instead_of)
            await to_thread.run_sync(settle, order.batch, order.workflow_id, spent)
        outcome = Outcome(
            state=JobState.DONE, generation_id=generation.id, generation=generation
        )
        if generation.succeeded:
            return outcome
        why = str(generation.error or "") or "the server gave no reason"
        return evolve(
            outcome,
            state=JobState.FAILED,
            error=f"the generation failed: {why}",
            kind="GenerationFailedError",
        )

    async def _deliver(self, outcome: Outcome, output: Path) -> Outcome:
        generation = outcome.generation
        if generation is None:
            return outcome
        try:
            await anyio.Path(output.parent).mkdir(parents=True, exist_ok=True)
            await self._download(generation, output)
        except ClientClosedError:
            raise
        except OSError as error:
            told = f"cannot write {output}: {error.strerror or error}"
            return evolve(
                outcome, state=JobState.HELD, error=told, kind="DownloadError"
            )
        except KlingError as error:
            return _ended(JobState.HELD, error, generation.id, generation)
        return outcome

    async def _download(self, generation: Generation, output: Path) -> None:
        try:
            await self.client.download(generation, output)
        except DownloadError:
            # The link may have expired since: a fresh one comes with a poll.
            fresh = await self.client.get(generation.id)
            if fresh.video is None or fresh.video == generation.video:
                raise
            await self.client.download(fresh, output)


def _held(why: str, error: Exception | None = None) -> Outcome:
    kind = type(error).__name__ if error else None
    return Outcome(state=JobState.HELD, error=why, kind=kind)


def _ended(
    state: JobState,
    error: KlingError,
    generation_id: str | None = None,
    generation: Generation | None = None,
) -> Outcome:
    return Outcome(
        state=state,
        error=str(error),
        kind=type(error).__name__,
        generation_id=generation_id,
        generation=generation,
    )


def _not_created(error: KlingError, intent: Intent) -> Outcome:
    if isinstance(error, SubmissionUncertainError):
        return _uncertain(intent, error)
    outcome = _ended(JobState.HELD, error)
    if isinstance(error, TransportError | RateLimitError | ClientClosedError):
        return evolve(outcome, unsent=True)
    if isinstance(error, AuthenticationError | PermissionDeniedError):
        return outcome
    return evolve(outcome, state=JobState.FAILED)


def _uncertain(intent: Intent, error: KlingError | None = None) -> Outcome:
    told = str(error) if error else "a worker died while it sent the create"
    return Outcome(
        state=JobState.UNCERTAIN,
        error=told,
        kind="SubmissionUncertainError",
        intent=intent,
    )


def _out_of_budget(batch: str, account: Account) -> str:
    return (
        f"the budget of batch {batch!r} does not allow it: {account.committed:,.0f} of "
        f"{account.budget or 0:,.0f} credits are spent or set aside"
    )


PERMIT = "kling.permit"

# How often a create that cannot reach the server is begun anew, and the longest
# pause between: about an hour and a half in all.
_ATTEMPTS = 100

_LONGEST_PAUSE = 60.0


@define(eq=False)
class Running:
    """What the jobs of this process run with; the engine allows one at a time.

    Attributes:
        work: The steps.
        portal: The way to the client's event loop.
        creating: How many jobs are between intent and id.
    """

    work: Work
    portal: BlockingPortal
    creating: int = 0

    async def do(self, step: Callable[..., Awaitable[T]], *args: object) -> T:
        """Do a step's work on the client's event loop.

        Raises:
            asyncio.CancelledError: The worker stops. The engine writes nothing
                down, and the job is taken over from its last step.
        """
        try:
            future = self.portal.start_task_soon(step, *args)
            return await asyncio.wrap_future(future)
        except HandedOverError:
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


RUNNING: list[Running] = []


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
async def run_job(given: dict[str, object]) -> dict[str, object]:
    """Do one attempt at a job."""
    running = _running()
    order = Order.from_json(given)
    outcome = await _created(running, order)
    if outcome.state is JobState.RUNNING:
        outcome = await _step("follow", running, running.work.follow, order, outcome)
    if outcome.state is JobState.DONE and order.output:
        outcome = await _step(
            "deliver", running, running.work.deliver, outcome, order.output
        )
    return outcome.to_json()


@DBOS.workflow(name=PERMIT, max_recovery_attempts=None)
async def permit() -> str:
    """Count as one create in the queue that limits their rate."""
    return "granted"


async def _created(running: Running, order: Order) -> Outcome:
    """Get to a generation's id, or to the reason why there is none."""
    if order.adopt is not None:
        return Outcome(state=JobState.RUNNING, generation_id=order.adopt)
    if order.settle is not None:
        outcome = await _sent(running, order, order.settle, is_own=False)
        if not outcome.unsent:
            return outcome
    for number in itertools.count(1):
        with running.between_intent_and_id():
            outcome = await _attempt(running, order, number)
        if not outcome.unsent or number >= _ATTEMPTS:
            return outcome
        await DBOS.sleep_async(min(_LONGEST_PAUSE, 2.0**number))
    raise AssertionError


async def _attempt(running: Running, order: Order, number: int) -> Outcome:
    request_id = _request_id(order)

    async def intend() -> dict[str, JSON]:
        answer = await running.do(running.work.intend, order, request_id, number)
        is_intent = isinstance(answer, Intent)
        return {"intent" if is_intent else "held": answer.to_json()}

    # A job that is called off is not waited for, unless its create is under way.
    options: StepOptions = {"name": "intent", "preemptible": True}
    written = await DBOS.run_step_async(options, intend)
    if "held" in written:
        return Outcome.from_json(written["held"])
    intent = Intent.from_json(written["intent"])
    # The id is drawn anew in each run: one that reads back another's is not the
    # run that decided, and does not know whether the create was sent.
    return await _sent(
        running, order, intent, is_own=intent.client_request_id == request_id
    )


async def _sent(
    running: Running, order: Order, intent: Intent, *, is_own: bool
) -> Outcome:
    create = functools.partial(running.work.create, is_own=is_own)
    return await _step("create", running, create, order, intent)


async def _step(
    name: str,
    running: Running,
    work: Callable[..., Awaitable[Outcome]],
    *args: object,
) -> Outcome:
    async def do() -> JSON:
        return (await running.do(work, *args)).to_json()

    options: StepOptions = {"name": name, "preemptible": name != "create"}
    return Outcome.from_json(await DBOS.run_step_async(options, do))


def _request_id(order: Order) -> str:
    """Draw an id that the vendor keeps, and that a person finds the job by."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", order.workflow_id)[:80]
    return f"{readable}-{client_request_id_from(None).removeprefix('kling-')}"


def _running() -> Running:
    if not RUNNING:
        raise asyncio.CancelledError
    return RUNNING[0]
