"""One create: sent, and sent again only where the first certainly never arrived.

The billing rule at work. Knows no HTTP; which failure means what is decided in
`_failures`, what the vendor's log proves in `log_search`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import partial

import anyio
from attrs import define, evolve, field

from kling_async._billing.account import BillingClient
from kling_async._billing.log_search import LostCreate, Verdict
from kling_async._checks import is_drawn
from kling_async._errors import (
    ClientClosedError,
    ConnectionFailedError,
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
from kling_async._hooks import (
    CreatedEvent,
    Reporter,
    UncertainEvent,
    UncertainOutcome,
    warn_abandoned,
)
from kling_async._http.session import Session
from kling_async._http.wire import decode_created, same_generation
from kling_async._runtime.limiter import Kind, Slot

# How long to ask for the status of what was found; its id is safe by then.
_STATUS_LIMIT = 10.0

# Read so far back for what was sent in the future, by a clock that was wrong.
_DAY = 24 * 3600.0


async def search(account: BillingClient, session: Session, lost: LostCreate) -> Verdict:
    """Look for a create in the log; to be called in the client's scope."""
    read_page = partial(account.read_log_page, session)
    return await account.shared.search.look_for(lost, read_page)


def placeholder(generation_id: str, client_request_id: str) -> Generation:
    """Make the generation that an id stands for whose status nobody has told."""
    return Generation(
        id=generation_id,
        status=Status.UNKNOWN,
        inference_id=generation_id,
        client_request_id=client_request_id,
    )


async def fetch_status(
    account: BillingClient, session: Session, generation: Generation
) -> Generation:
    """Ask once how a generation is; to be called in the client's scope.

    Raises:
        KlingError: The server does not tell.
        TimeoutError: There was no place in flight to ask from.
    """
    limit = min(_STATUS_LIMIT, account.transport.settings.timeout)

    until = anyio.current_time() + _STATUS_LIMIT
    with await session.limiter.acquire(Kind.AWAITED, until) as slot:
        told = await account.transport.poll(session, slot, generation.id, limit)
    request_id = generation.client_request_id
    return evolve(told, id=generation.id, client_request_id=request_id)


async def try_fetch_status(
    account: BillingClient, session: Session, generation: Generation
) -> Generation | None:
    """Ask once how a generation is; None if the server does not tell."""
    try:
        return await fetch_status(account, session, generation)
    except (KlingError, TimeoutError):
        return None


async def find(
    account: BillingClient,
    client_request_id: str,
    *,
    since: dt.datetime,
    timeout: float,
) -> Generation | None:
    """Look for a create that another process sent; a cancelled caller leaves.

    Raises:
        KlingError: The log of the whole time could not be read, or lists what may be
            another create's.
    """
    session = account.transport.connections.current_session()
    now = anyio.current_time()
    age = (dt.datetime.now(dt.UTC) - since).total_seconds()
    lost = LostCreate(
        client_request_id,
        since=since,
        sent_at=now - (age if age > 0 else _DAY),
        deadline=now + timeout,
        is_unique=is_drawn(client_request_id),
        max_retry_after=account.transport.settings.retry.max_retry_after,
    )

    async def look() -> Generation | None:
        await search(account, session, lost)
        if lost.generation_id is None:
            raise_unless_read(lost)
            return None
        generation = placeholder(lost.generation_id, client_request_id)
        return await try_fetch_status(account, session, generation) or generation

    try:
        return await session.scope.start(look).result()
    finally:
        lost.give_up()


def raise_unless_read(lost: LostCreate) -> None:
    """Raise what keeps the log from proving that there is no generation."""
    how_far = _describe_reading(lost)
    if lost.failure is not None and not lost.is_read:
        lost.failure.add_note(how_far)
        raise lost.failure
    if lost.others or not lost.is_read:
        raise SubmissionUncertainError(
            client_request_id=lost.client_request_id, since=lost.since, reason=how_far
        )


def _describe_reading(lost: LostCreate) -> str:
    """Say how far the log was read, and what it lists."""
    if lost.others:
        ids = ", ".join(sorted(lost.others))
        return f"the log lists under this id what may be another create's: {ids}"
    if lost.is_read:
        return "the whole log of the time was read"
    if lost.back_to is None:
        return "not a page of the log was read"
    back_to = lost.back_to.isoformat(timespec="seconds")
    return f"the log was read back to {back_to} only, in {lost.pages} pages"


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
        is_unique: Whether that was drawn for this create alone.
        since: When it was sent.
    """

    account: BillingClient
    content: bytes = field(repr=False)
    model: str
    client_request_id: str
    is_unique: bool
    since: dt.datetime = field(factory=_now)
    _sent_at: float = 0.0
    _posts: int = 0
    _caller_gone: bool = False
    _made: Generation | None = None
    _lost: SubmissionUncertainError | None = None

    @property
    def _policy(self) -> RetryPolicy:
        return self.account.transport.settings.retry

    @property
    def _reporter(self) -> Reporter:
        return self.account.transport.settings.reporter

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
        if getattr(error, "is_unbilled", False):
            return False  # its answer was lost all the same
        if self._policy.uncertain == "retry":
            return may_repeat_create_at_own_risk(error)
        return may_repeat_create(error)

    async def _attempt(self) -> Generation:
        posts = self._posts
        try:
            return await self.account.transport.in_scope(self._send, self._resolve)
        except ClientClosedError as error:
            if self._posts == posts:
                raise
            raise self._uncertain(error) from error
        except KlingError:
            raise
        except BaseException:  # the caller was cancelled
            self._caller_gone = True
            self._warn_if_gone()  # perhaps with the answer there already
            raise

    async def _send(self, session: Session, slot: Slot) -> Generation:
        """Exchange once, in the client's own task: the caller may be gone."""
        self._posts += 1
        self.since, self._sent_at = _now(), anyio.current_time()
        with self._in_use():
            try:
                generation = await self._exchange(session, slot)
            except KlingError as error:
                if isinstance(error, TransportError) and not error.request_sent:
                    self._posts -= 1
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise ConnectionFailedError(what, request_sent=True) from error
            except BaseException:
                self._tell("lost")
                raise
        traced = generation.inference_id or generation.id
        if not same_generation(generation.id, traced):
            raise _TwoIdsError(generation, traced)
        self._record_created(generation)
        return generation

    async def _resolve(self, session: Session, error: KlingError) -> Generation:
        """Find out what became of it, in the client's own task too."""
        with self._in_use():
            if isinstance(error, _TwoIdsError):
                return await self._resolve_two_ids(session, error.told, error.traced)
            if not may_be_accepted(error):
                raise error
            self._lost = self._uncertain(error)
            self._tell("lost")
            if self._policy.uncertain != "reconcile":
                raise self._lost from error
            if error.generation_id is not None:  # told by a header of the failure
                traced = self._placeholder(error.generation_id)
                if told := await try_fetch_status(self.account, session, traced):
                    return self._adopt(told)
            return await self._look_up(session, error)

    async def _resolve_two_ids(
        self, session: Session, told: Generation, traced: str
    ) -> Generation:
        """Take the header's id, which the log lists, unless the server knows none such.

        A poll that fails otherwise says nothing about it.
        """
        generation = evolve(told, id=traced)
        try:
            known = self._placeholder(traced)
            generation = await fetch_status(self.account, session, known)
        except NotFoundError:
            generation = told
        except (KlingError, TimeoutError):
            pass
        finally:  # however this ends: it is paid for
            self._record_created(generation)
        return generation

    async def _look_up(self, session: Session, error: KlingError) -> Generation:
        """Give what the log lists, or raise what it says; nothing is sent again."""
        now = anyio.current_time()
        lost = LostCreate(
            self.client_request_id,
            since=self.since,
            sent_at=self._sent_at,
            lost_at=now,
            deadline=now + self._policy.reconcile_timeout,
            is_unique=self.is_unique,
            is_single=self._posts == 1,
            given_ids=self.account.shared.given_ids,
            max_retry_after=self._policy.max_retry_after,
        )
        verdict = await search(self.account, session, lost)
        self.since = lost.sent
        if lost.generation_id is not None:
            generation = self._adopt(self._placeholder(lost.generation_id))
            told = await try_fetch_status(self.account, session, generation)
            return told or generation
        self._tell(verdict)
        if verdict == "failed":
            self._lost, error.is_unbilled = None, True
            raise error
        self._lost = self._uncertain(error, lost)
        raise self._lost from error

    def _adopt(self, generation: Generation) -> Generation:
        self._lost = None
        self._tell("found", generation.id)
        self._record_created(generation)
        return generation

    def _record_created(self, generation: Generation) -> None:
        if not self.is_unique:
            traced = generation.inference_id or generation.id
            self.account.shared.given_ids.add_answered(traced)
        self._reporter.emit(CreatedEvent(generation=generation, model=self.model))
        self._made = generation
        self._warn_if_gone()

    def _warn_if_gone(self) -> None:
        if self._caller_gone and self._made is not None:
            warn_abandoned(self._made)

    def _uncertain(
        self, error: KlingError, lost: LostCreate | None = None
    ) -> SubmissionUncertainError:
        reason = None
        if lost is not None and (lost.others or not lost.is_read):
            reason = _describe_reading(lost)
        uncertain = SubmissionUncertainError(
            client_request_id=self.client_request_id,
            since=self.since,
            reason=reason,
        )
        if lost is not None and lost.failure is not None and not lost.is_read:
            uncertain.add_note(f"its log could not be read: {lost.failure}")
        if error.generation_id is not None:
            uncertain.concerning(error.generation_id)
        return uncertain

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
        self._reporter.emit(event)

    def _placeholder(self, generation_id: str) -> Generation:
        return placeholder(generation_id, self.client_request_id)

    @contextmanager
    def _in_use(self) -> Generator[None]:
        """Count the id, if it is the caller's own and so may be in use twice."""
        ids = self.account.shared.given_ids
        with nullcontext() if self.is_unique else ids.use(self.client_request_id):
            yield

    async def _exchange(self, session: Session, slot: Slot) -> Generation:
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
        answer = await transport.exchange(session, slot, call)
        return decode_created(answer, self.client_request_id)
