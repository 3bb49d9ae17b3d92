"""One create: sent once, and again only where that cannot bill twice.

The billing rule at work. Knows no HTTP; which failure means what is decided in
`_retrying`, what the vendor's log proves in `_tracing`.
"""

from __future__ import annotations

import datetime as dt
from typing import NoReturn

import anyio
from attrs import define, evolve, field

from kling_async._billing.account import Account
from kling_async._billing.log_search import Sent, Trace
from kling_async._billing.money import LogRow
from kling_async._billing.rows import Page
from kling_async._errors import (
    ClientClosedError,
    KlingError,
    NotFoundError,
    SubmissionUncertainError,
    TransportError,
)
from kling_async._failures import (
    RetryPolicy,
    may_be_accepted,
    may_repeat_create,
    may_repeat_create_at_own_risk,
)
from kling_async._generation import Generation, Status
from kling_async._hooks import CreatedEvent, Reporter, UncertainEvent, UncertainOutcome
from kling_async._http.session import Session
from kling_async._http.transport import in_place
from kling_async._http.wire import decode_created, same_generation

# How long to ask for the status of what was found; its id is safe by then.
_STATUS_LIMIT = 10.0


async def search(account: Account, session: Session, trace: Trace) -> None:
    """Look for a create in the log; to be called in the client's scope."""

    async def read_page(period: str, offset: int, left: float) -> Page[LogRow]:
        return await account.read_log_page(session, period, offset, left)

    await account.shared.tracer.look_for(trace, read_page)


def adopted(generation_id: str, client_request_id: str) -> Generation:
    """Make the generation that a row of the log stands for: it tells no status."""
    return Generation(
        id=generation_id,
        status=Status.UNKNOWN,
        inference_id=generation_id,
        client_request_id=client_request_id,
    )


async def asked(
    account: Account, session: Session, generation: Generation
) -> Generation:
    """Ask once how an adopted generation is; to be called in the client's scope.

    Raises:
        KlingError: The server does not tell.
        TimeoutError: There was no place in flight to ask from.
    """
    limit = min(_STATUS_LIMIT, account.transport.settings.timeout)

    async def poll(session: Session) -> Generation:
        return await account.transport.poll(session, generation.id, limit)

    with anyio.fail_after(_STATUS_LIMIT):
        await session.take_place()
    told = await in_place(session, poll)
    request_id = generation.client_request_id
    return evolve(told, id=generation.id, client_request_id=request_id)


async def seen(
    account: Account, session: Session, generation: Generation
) -> Generation | None:
    """Ask once how an adopted generation is; None if the server does not tell."""
    try:
        return await asked(account, session, generation)
    except (KlingError, TimeoutError):
        return None


async def find(
    account: Account, client_request_id: str, *, since: dt.datetime, timeout: float
) -> Generation | None:
    """Look for a create that another process sent; a cancelled caller leaves.

    Raises:
        KlingError: The log could not be read.
    """
    session = account.transport.connections.here()
    deadline = anyio.current_time() + timeout
    longest = account.transport.settings.retry.max_retry_after
    trace = Trace(
        client_request_id, since=since, deadline=deadline, max_retry_after=longest
    )

    async def look() -> Generation | None:
        await search(account, session, trace)
        if trace.found is not None and trace.found.inference_id is not None:
            generation = adopted(trace.found.inference_id, client_request_id)
            return await seen(account, session, generation) or generation
        if trace.failure is not None and not trace.is_read:
            raise trace.failure
        return None

    try:
        return await session.scope.start(look).result()
    finally:
        trace.give_up()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class _TwoIdsError(KlingError):
    """A create was answered with one id in the body, and another in its header."""

    def __init__(self, told: Generation, traced: str) -> None:
        super().__init__(f"answered for {told.id}, and for {traced} in the header")
        self.told = told
        self.traced = traced


@define(eq=False, kw_only=True)
class Submission:
    """A create on its way.

    Attributes:
        account: Whose it is, and how it is sent.
        content: The body.
        model: The model asked for.
        client_request_id: The id that it is sent with, each time.
        since: When it began.
    """

    account: Account
    content: bytes = field(repr=False)
    model: str
    client_request_id: str
    since: dt.datetime = field(factory=_now)
    _is_sent: bool = False
    _is_left: bool = False
    _made: Generation | None = None
    _lost: SubmissionUncertainError | None = None
    _failed: KlingError | None = None

    @property
    def _policy(self) -> RetryPolicy:
        return self.account.transport.settings.retry

    @property
    def _reporter(self) -> Reporter:
        return self.account.transport.settings.reporter

    @property
    def _sent(self) -> Sent:
        return self.account.shared.tracer.sent_under(self.client_request_id)

    async def run(self) -> Generation:
        """Send it, and give what the server made of it.

        Raises:
            SubmissionUncertainError: It was sent, its answer was lost, and the
                vendor's log does not tell what became of it.
            KlingError: The server refused it, it certainly never got there, or
                the log lists it as failed.
        """
        try:
            return await self.account.transport.repeat(self._attempt, self._may_repeat)
        except KlingError as error:
            if self._lost is None or self._lost is error:
                raise
            # Whatever became of a later attempt, the lost one may be running.
            raise self._lost from self._lost.__cause__

    def _may_repeat(self, error: BaseException) -> bool:
        if error is self._failed:
            return True
        at_own_risk = self._policy.uncertain == "retry"
        may_repeat = may_repeat_create_at_own_risk if at_own_risk else may_repeat_create
        return may_repeat(error)

    async def _attempt(self) -> Generation:
        self._is_sent = False
        try:
            return await self.account.transport.in_scope(
                self._send, is_essential=True, on_error=self._settle
            )
        except ClientClosedError as error:
            if not self._is_sent:
                raise
            raise self._uncertain(error) from error
        except KlingError:
            raise
        except BaseException:  # the caller was cancelled
            self._is_left = True
            self._warn_if_left()  # perhaps with the answer there already
            raise

    async def _send(self, session: Session) -> Generation:
        """Exchange once, in the client's own task: the caller may be gone."""
        self._is_sent = True
        self._sent.posts += 1
        try:
            generation = await self._exchange(session)
        except KlingError as error:
            if isinstance(error, TransportError) and not error.request_sent:
                self._sent.posts -= 1
            raise
        except BaseException:
            self._tell("lost")
            raise
        traced = generation.inference_id or generation.id
        self._sent.generations.add(traced)
        if not same_generation(generation.id, traced):
            raise _TwoIdsError(generation, traced)
        self._accepted(generation)
        return generation

    async def _told_apart(
        self, session: Session, told: Generation, traced: str
    ) -> Generation:
        """Take the header's id, which the log lists, unless the server knows none such.

        A poll that fails otherwise says nothing about it.
        """
        generation = evolve(told, id=traced)
        try:
            known = adopted(traced, self.client_request_id)
            generation = await asked(self.account, session, known)
        except NotFoundError:
            generation = told
        except (KlingError, TimeoutError):
            pass
        finally:  # however this ends: it is paid for
            self._accepted(generation)
        return generation

    async def _settle(self, session: Session, error: KlingError) -> Generation:
        """Find out what became of it, in the client's own task too."""
        if isinstance(error, _TwoIdsError):
            return await self._told_apart(session, error.told, error.traced)
        if not may_be_accepted(error):
            raise error
        self._lost = self._uncertain(error)
        self._tell("lost")
        if self._policy.uncertain != "reconcile":
            raise self._lost from error
        if error.generation_id is not None:  # told by a header of the failure
            traced = adopted(error.generation_id, self.client_request_id)
            if (told := await seen(self.account, session, traced)) is not None:
                return self._adopted(told)
        trace = await self._searched(session)
        if trace.found is not None and trace.found.inference_id is not None:
            generation = adopted(trace.found.inference_id, self.client_request_id)
            self._adopted(generation)
            return await seen(self.account, session, generation) or generation
        return self._not_found(trace, error)

    async def _searched(self, session: Session) -> Trace:
        trace = Trace(
            self.client_request_id,
            since=self.since,
            deadline=anyio.current_time() + self._policy.reconcile_timeout,
            sent=self._sent,
            max_retry_after=self._policy.max_retry_after,
        )
        await search(self.account, session, trace)
        return trace

    def _not_found(self, trace: Trace, error: KlingError) -> NoReturn:
        """Raise what the log says: that it failed, or nothing."""
        self._tell(trace.verdict)
        if trace.verdict == "failed":
            self._lost, self._failed = None, error
            error.add_note("the vendor's log lists it as failed: nothing is billed")
            raise error
        lost = self._lost or self._uncertain(error)
        if trace.failure is not None and not trace.is_read:
            lost.add_note(f"its log could not be read: {trace.failure}")
        raise lost from error

    def _adopted(self, generation: Generation) -> Generation:
        self._lost = None
        self._sent.generations.add(generation.inference_id or generation.id)
        self._tell("found", generation.id)
        self._accepted(generation)
        return generation

    def _accepted(self, generation: Generation) -> None:
        self._reporter.created(CreatedEvent(generation=generation, model=self.model))
        self._made = generation
        self._warn_if_left()

    def _warn_if_left(self) -> None:
        if self._is_left and self._made is not None:
            self._reporter.left(self._made)

    def _uncertain(self, error: KlingError) -> SubmissionUncertainError:
        lost = SubmissionUncertainError(
            client_request_id=self.client_request_id,
            since=self.since,
        )
        if error.generation_id is not None:
            lost.concerning(error.generation_id)
        return lost

    def _tell(
        self, outcome: UncertainOutcome, generation_id: str | None = None
    ) -> None:
        event = UncertainEvent(
            client_request_id=self.client_request_id,
            model=self.model,
            since=self.since,
            outcome=outcome,
            generation_id=generation_id,
        )
        self._reporter.uncertain(event)

    async def _exchange(self, session: Session) -> Generation:
        transport = self.account.transport
        call = transport.call(
            "POST",
            transport.settings.timeout,
            content=self.content,
            headers={
                "content-type": "application/json",
                "x-client-request-id": self.client_request_id,
            },
        )
        answer = await transport.exchange(session, call)
        return decode_created(answer, self.client_request_id)
