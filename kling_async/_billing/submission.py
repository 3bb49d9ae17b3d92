"""One create: sent again only if it certainly was not accepted.

This is the billing rule. Knows no HTTP; `_failures` decides what a failure means,
`log_search` what the vendor's log proves.
"""

from __future__ import annotations

import datetime as dt

import anyio
from attrs import define, evolve, field

from kling_async._billing.account import BillingClient
from kling_async._billing.log_search import LostCreate
from kling_async._checks import is_drawn
from kling_async._config import Settings
from kling_async._errors import (
    ConnectionFailedError,
    KlingError,
    NotFoundError,
    SubmissionUncertainError,
)
from kling_async._failures import (
    Fate,
    may_be_accepted,
    may_repeat_create,
    may_repeat_create_at_own_risk,
    meaning_of,
)
from kling_async._generation import Generation, Status
from kling_async._hooks import (
    CreatedEvent,
    UncertainEvent,
    UncertainOutcome,
    warn_abandoned,
)
from kling_async._http.session import Session
from kling_async._http.wire import same_generation
from kling_async._runtime.limiter import Kind, Slot

# How long to poll a generation that was found, in seconds; its id is safe by then.
_STATUS_LIMIT = 10.0

# How far back to read for a create that was sent in the future by a wrong clock.
_DAY = 24 * 3600.0


def placeholder(generation_id: str, client_request_id: str) -> Generation:
    """Make the generation of an id whose status is not known yet."""
    return Generation(
        id=generation_id,
        status=Status.UNKNOWN,
        inference_id=generation_id,
        client_request_id=client_request_id,
    )


async def refresh(
    account: BillingClient,
    session: Session,
    known: Generation,
    if_unknown: Generation | None = None,
) -> Generation:
    """Ask once how a generation is that may have been paid for.

    To be called in the client's tasks, outside of a slot.

    Args:
        account: Whose it is.
        session: Where to ask.
        known: The generation; the very same is returned if the server does not tell.
        if_unknown: What to return in its place where the server knows no such id.
    """
    until = anyio.current_time() + _STATUS_LIMIT
    try:
        with await session.limiter.acquire(Kind.AWAITED, until) as slot:
            poll = account.transport.poll(session, slot, known.id, _STATUS_LIMIT)
            told = await poll
    except NotFoundError:
        return if_unknown or known
    except Exception:  # noqa: BLE001 (nothing stands between a paid id and its caller)
        return known
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
    session = account.transport.session
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
        await account.search_log(session, lost)
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


@define(eq=False, kw_only=True, repr=False)
class Submission:
    """One create in flight.

    Attributes:
        account: The account that pays, and its transport.
        content: The body.
        model: The model.
        client_request_id: The id that each attempt is sent with.
        is_unique: Whether that id was made for this create alone.
        since: When it was sent.
        sent_at: The same, on the event loop's clock.
    """

    account: BillingClient
    content: bytes = field(repr=False)
    model: str
    client_request_id: str
    is_unique: bool
    since: dt.datetime = field(init=False)
    sent_at: float = 0.0
    _was_refused: bool = False
    _is_caller_gone: bool = False
    _made: Generation | None = None
    _lost: SubmissionUncertainError | None = None

    @property
    def _settings(self) -> Settings:
        return self.account.transport.settings

    async def run(self) -> Generation:
        """Send it, and return its generation.

        Raises:
            SubmissionUncertainError: It was sent, its answer was lost, and the
                vendor's log does not show the outcome.
            KlingError: The server refused it, it certainly never got there, or
                the log lists it as failed.
        """
        try:
            return await self.account.transport.repeat(self._attempt, self._may_repeat)
        except Exception as error:
            if self._made is not None:  # known, though the client was closed since
                return self._made
            if self._lost is None or self._lost is error:
                raise
            # Whatever happened to a later attempt, the lost one may be running.
            raise self._lost from self._lost.__cause__ or error

    def _may_repeat(self, error: BaseException) -> bool:
        if getattr(error, "is_unbilled", False):
            return False  # its answer was still lost
        if self._settings.retry.uncertain == "retry":
            return may_repeat_create_at_own_risk(error)
        return may_repeat_create(error)

    async def _attempt(self) -> Generation:
        try:
            return await self.account.transport.in_own_task(self._send_or_resolve)
        except anyio.get_cancelled_exc_class():
            self._is_caller_gone = True
            if self._made is not None:  # the answer is there already
                warn_abandoned(self._made)
            raise

    async def _send_or_resolve(self, session: Session, slot: Slot) -> Generation:
        """Create once, in the client's own task: the caller may be gone."""
        with self.account.shared.given_ids.use(self.client_request_id):
            try:
                with slot:
                    told = await self._send(session, slot)
            except KlingError as error:
                return await self._resolve(session, error)
            return await self._record_traced(session, told)

    async def _send(self, session: Session, slot: Slot) -> Generation:
        self.since, self.sent_at = dt.datetime.now(dt.UTC), anyio.current_time()
        before, self._lost = self._lost, self._uncertain()  # until there is an answer
        transport = self.account.transport
        try:
            return await transport.create(
                session, slot, self.content, self.client_request_id
            )
        except KlingError as error:
            if not may_be_accepted(error):
                self._lost = before
                self._was_refused |= meaning_of(error).fate is Fate.REFUSED
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ConnectionFailedError(what, request_sent=True) from error
        except BaseException:
            self._tell("lost")
            raise

    async def _record_traced(self, session: Session, told: Generation) -> Generation:
        """Prefer the header's id, which the log lists, unless it is unknown there."""
        generation, traced = told, told.inference_id or told.id
        try:
            if not same_generation(told.id, traced):
                generation = evolve(told, id=traced)
                generation = await refresh(self.account, session, generation, told)
        finally:  # however this ends: it is paid for
            self._record_created(generation)
        return generation

    async def _resolve(self, session: Session, error: KlingError) -> Generation:
        """Find its outcome in the log."""
        if not may_be_accepted(error):
            raise error
        self._lost = self._uncertain(error)
        self._tell("lost")
        if self._settings.retry.uncertain != "reconcile":
            raise self._lost
        if error.generation_id is not None:  # from a header of the failure
            known = placeholder(error.generation_id, self.client_request_id)
            told = await refresh(self.account, session, known)
            if told is not known:
                return self._adopt(told)
        return await self._look_up(session, error)

    async def _look_up(self, session: Session, error: KlingError) -> Generation:
        """Return the generation in the log, or raise its outcome; do not resend."""
        now, retry = anyio.current_time(), self._settings.retry
        lost = LostCreate(
            client_request_id=self.client_request_id,
            since=self.since,
            sent_at=self.sent_at,
            lost_at=now,
            deadline=now + retry.reconcile_timeout,
            is_unique=self.is_unique,
            is_single=not self._was_refused,
            given_ids=self.account.shared.given_ids,
            max_retry_after=retry.max_retry_after,
        )
        verdict = await self.account.search_log(session, lost)
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
            self.account.shared.given_ids.answered.append(traced)
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
