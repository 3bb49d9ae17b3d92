"""The order of a job's steps, as the engine repeats them after a crash.

    intent     written down before anything is sent
    create     the POST, once for each intent; its id written down after it
    follow     until the generation ends
    deliver    until its file is there

Runs on the engine's own event loop; the steps run on the client's. Changing the
order means a new `FORMAT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import re
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal
from attrs import define
from dbos import DBOS, StepOptions

from kling_async._ids import client_request_id_from
from kling_async.durable._records import JSON, Intent, JobState, Order, Outcome
from kling_async.durable._store import WORKFLOW
from kling_async.durable._work import HandedOverError, Work

T = TypeVar("T")

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
