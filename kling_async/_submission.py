"""One create: sent once, and again only where that cannot bill twice.

The billing rule at work. Knows no HTTP; which failure means what is decided in
`_retrying`, how a request travels in `_transport`.
"""

from __future__ import annotations

import datetime as dt

from attrs import define, field

from kling_async._connections import Session
from kling_async._errors import (
    ClientClosedError,
    KlingError,
    SubmissionUncertainError,
)
from kling_async._generation import Generation
from kling_async._hooks import CreatedEvent, logger
from kling_async._retrying import (
    is_uncertain,
    may_repeat_create,
    may_repeat_create_at_own_risk,
)
from kling_async._transport import Transport
from kling_async._wire import decode_created


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@define(eq=False, kw_only=True)
class Submission:
    """A create on its way.

    Attributes:
        transport: How it is sent.
        content: The body.
        model: The model asked for.
        client_request_id: The id that it is sent with, each time.
        since: When it began.
    """

    transport: Transport
    content: bytes = field(repr=False)
    model: str
    client_request_id: str
    since: dt.datetime = field(factory=_now)
    _is_sent: bool = False
    _lost: SubmissionUncertainError | None = None

    async def run(self) -> Generation:
        """Send it, and give what the server made of it.

        Raises:
            SubmissionUncertainError: It was sent, and an answer was lost.
            KlingError: The server refused it, or it certainly never got there.
        """
        at_own_risk = self.transport.settings.retry.uncertain == "retry"
        may_repeat = may_repeat_create_at_own_risk if at_own_risk else may_repeat_create
        try:
            return await self.transport.repeat(self._attempt, may_repeat)
        except KlingError as error:
            if self._lost is None or self._lost is error:
                raise
            # Whatever became of a later attempt, the lost one may be running.
            raise self._lost from self._lost.__cause__

    async def _attempt(self) -> Generation:
        self._is_sent = False
        try:
            return await self.transport.in_scope(self._send, is_essential=True)
        except KlingError as error:
            was_cut_off = self._is_sent and isinstance(error, ClientClosedError)
            if not was_cut_off and not is_uncertain(error):
                raise
            self._lost = SubmissionUncertainError(
                client_request_id=self.client_request_id,
                since=self.since,
            )
            if error.generation_id is not None:
                self._lost.concerning(error.generation_id)
            raise self._lost from error

    async def _send(self, session: Session) -> Generation:
        """Exchange once, in the client's own task: the caller may be gone."""
        self._is_sent = True
        try:
            generation = await self._exchange(session)
        except BaseException as error:
            if is_uncertain(error) or not isinstance(error, KlingError):
                logger.warning(
                    "lost the answer to a create, which may be running and billed: "
                    "look for client request id %s since %s in the vendor's log",
                    self.client_request_id,
                    self.since.isoformat(timespec="seconds"),
                )
            raise
        event = CreatedEvent(generation=generation, model=self.model)
        self.transport.settings.reporter.created(event)
        return generation

    async def _exchange(self, session: Session) -> Generation:
        request = self.transport.request(
            session,
            "POST",
            content=self.content,
            headers={
                "content-type": "application/json",
                "x-client-request-id": self.client_request_id,
            },
        )
        limit = self.transport.settings.timeout
        answer = await self.transport.exchange(session, request, limit)
        return decode_created(answer, self.client_request_id)
