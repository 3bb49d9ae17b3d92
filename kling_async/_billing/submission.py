"""One create: sent, and sent again only where the first certainly never arrived.

The billing rule at work. Knows no HTTP; which failure means what is decided in
`_failures`, what the vendor's log proves in `log_search`.
"""

from __future__ import annotations

import datetime as dt
from functools import partial

import anyio
from attrs import define, evolve, field

from kling_async._billing.account import BillingClient
from kling_async._billing.log_search import LostCreate, Verdict
from kling_async._checks import is_drawn
from kling_async._config import Settings
from kling_async._errors import (
    ConnectionFailedError,
    KlingError,
    NotFoundError,
    SubmissionUncertainError,
    TransportError,
)
from kling_async._failures import (
    may_be_accepted,
    may_repeat_create,
    may_repeat_create_at_own_risk,
)
from kling_async._generation import Generation, Status
from kling_async._hooks import (
    CreatedEvent,
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


def placeholder(generation_id: str, client_request_id: str) -> Generation:
    """Make the generation that an id stands for whose status nobody has told."""
    return Generation(
        id=generation_id,
        status=Status.UNKNOWN,
        inference_id=generation_id,
        client_request_id=client_request_id,
    )


async def search(account: BillingClient, session: Session, lost: LostCreate) -> Verdict:
    """Look for a create in the log; to be called in the client's tasks."""
    read_page = partial(account.read_log_page, session)
    return await account.shared.search.look_for(lost, read_page)


async def refresh(
    account: BillingClient, session: Session, known: Generation
) -> Generation:
    """Ask once how a generation is; the very same one if the server does not tell.

    To be called in the client's tasks.
    """
    until = anyio.current_time() + _STATUS_LIMIT
    try:
        with await session.limiter.acquire(Kind.AWAITED, until) as slot:
            return await _poll(account, session, slot, known)
    except (KlingError, TimeoutError):
        return known


async def _poll(
    account: BillingClient, session: Session, slot: Slot, known: Generation
) -> Generation:
    """Ask once how a generation is that has just been created."""
    limit = min(_STATUS_LIMIT, account.transport.settings.timeout)
    told = await account.transport.poll(session, slot, known.id, limit)
    return evolve(told, id=known.id, client_request_id=known.client_request_id)


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
        client_request_id=client_request_id,
        since=since,
        sent_at=now - (age if age > 0 else _DAY),
        deadline=now + timeout,
        is_unique=is_drawn(client_request_id),
        max_retry_after=account.transport.settings.retry.max_retry_after,
    )

    async def look() -> Generation | None:
        await search(account, session, lost)
        if lost.generation_id is not None:
            found = placeholder(lost.generation_id, client_request_id)
            return await refresh(account, session, found)
        if lost.gap is None:
            return None
        if lost.failure is not None and not lost.is_read:
            lost.failure.add_note(lost.gap)
            raise lost.failure
        raise SubmissionUncertainError(
            client_request_id=client_request_id, since=since, reason=lost.gap
        )

    job = session.tasks.start(look)
    try:
        return await job.result()
    finally:
        job.cancel()


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
    since: dt.datetime = field(init=False)
    _sent_at: float = 0.0
    _posts: int = 0
    _is_caller_gone: bool = False
    _made: Generation | None = None
    _lost: SubmissionUncertainError | None = None

    @property
    def _settings(self) -> Settings:
        return self.account.transport.settings

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
            if self._made is not None:  # known, though the client was closed since
                return self._made
            if self._lost is None or self._lost is error:
                raise
            # Whatever became of a later attempt, the lost one may be running.
            raise self._lost from self._lost.__cause__ or error

    def _may_repeat(self, error: BaseException) -> bool:
        if getattr(error, "is_unbilled", False):
            return False  # its answer was lost all the same
        if self._settings.retry.uncertain == "retry":
            return may_repeat_create_at_own_risk(error)
        return may_repeat_create(error)

    async def _attempt(self) -> Generation:
        try:
            return await self.account.transport.in_own_task(self._send, self._resolve)
        except anyio.get_cancelled_exc_class():
            self._is_caller_gone = True
            if self._made is not None:  # the answer is there already
                warn_abandoned(self._made)
            raise

    async def _send(self, session: Session, slot: Slot) -> Generation:
        """Exchange once, in the client's own task: the caller may be gone."""
        self._posts += 1
        self.since, self._sent_at = dt.datetime.now(dt.UTC), anyio.current_time()
        before, self._lost = self._lost, self._uncertain()  # until there is an answer
        with self.account.shared.given_ids.use(self.client_request_id):
            try:
                generation = await self._exchange(session, slot)
            except KlingError as error:
                if not may_be_accepted(error):
                    self._lost = before
                if isinstance(error, TransportError) and not error.request_sent:
                    self._posts -= 1
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise ConnectionFailedError(what, request_sent=True) from error
            except BaseException:
                self._tell("lost")
                raise
            return await self._record_traced(session, slot, generation)

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

    async def _record_traced(
        self, session: Session, slot: Slot, told: Generation
    ) -> Generation:
        """Prefer the header's id, which the log lists, unless there is none such.

        A poll that fails otherwise says nothing about it.
        """
        generation, traced = told, told.inference_id or told.id
        try:
            if not same_generation(told.id, traced):
                generation = evolve(told, id=traced)
                generation = await _poll(self.account, session, slot, generation)
        except NotFoundError:
            generation = told
        except KlingError:
            pass
        finally:  # however this ends: it is paid for
            self._record_created(generation)
        return generation

    async def _resolve(self, session: Session, error: KlingError) -> Generation:
        """Find out what became of it, in the client's own task too."""
        if not may_be_accepted(error):
            raise error
        self._lost = self._uncertain(error)
        self._tell("lost")
        if self._settings.retry.uncertain != "reconcile":
            raise self._lost
        with self.account.shared.given_ids.use(self.client_request_id):
            if error.generation_id is not None:  # told by a header of the failure
                known = placeholder(error.generation_id, self.client_request_id)
                told = await refresh(self.account, session, known)
                if told is not known:
                    return self._adopt(told)
            return await self._look_up(session, error)

    async def _look_up(self, session: Session, error: KlingError) -> Generation:
        """Give what the log lists, or raise what it says; nothing is sent again."""
        now, retry = anyio.current_time(), self._settings.retry
        lost = LostCreate(
            client_request_id=self.client_request_id,
            since=self.since,
            sent_at=self._sent_at,
            lost_at=now,
            deadline=now + retry.reconcile_timeout,
            is_unique=self.is_unique,
            is_single=self._posts == 1,
            given_ids=self.account.shared.given_ids,
            max_retry_after=retry.max_retry_after,
        )
        verdict = await search(self.account, session, lost)
        self.since = lost.sent
        if lost.generation_id is not None:
            found = placeholder(lost.generation_id, self.client_request_id)
            return await refresh(self.account, session, self._adopt(found))
        self._tell(verdict)
        if verdict == "failed":
            self._lost, error.is_unbilled = None, True
            raise error
        self._lost = self._uncertain(error, lost.gap)
        raise self._lost

    def _adopt(self, generation: Generation) -> Generation:
        self._tell("found", generation.id)
        self._record_created(generation)
        return generation

    def _record_created(self, generation: Generation) -> None:
        if not self.is_unique:
            traced = generation.inference_id or generation.id
            self.account.shared.given_ids.add_answered(traced)
        event = CreatedEvent(generation=generation, model=self.model)
        self._settings.reporter.emit(event)
        self._made, self._lost = generation, None
        if self._is_caller_gone:
            warn_abandoned(generation)

    def _uncertain(
        self, error: KlingError | None = None, gap: str | None = None
    ) -> SubmissionUncertainError:
        uncertain = SubmissionUncertainError(
            client_request_id=self.client_request_id, since=self.since, reason=gap
        )
        uncertain.__cause__ = error
        if error is not None and error.generation_id is not None:
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
        self._settings.reporter.emit(event)
