"""A create whose answer was lost: adopted where the vendor's log lists it.

Joins what `_tracing` finds out with the account that is asked. Nothing is ever
sent again from here.
"""

from __future__ import annotations

import datetime as dt

import anyio
from attrs import evolve

from kling_async._account import Account
from kling_async._connections import Session
from kling_async._errors import KlingError
from kling_async._generation import Generation, Status
from kling_async._money import LogRow
from kling_async._tracing import Trace
from kling_async._transport import in_place
from kling_async._wire_account import Page

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
