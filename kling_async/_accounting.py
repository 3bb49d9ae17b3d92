"""The half of `AsyncKling` that has to do with money and traces.

Checks what it is given and passes on; `_account` asks, `_reconciling` looks.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Literal

from kling_async._account import Account, stamp
from kling_async._errors import InvalidRequestError, Problem
from kling_async._generation import Generation
from kling_async._ids import client_request_id_from
from kling_async._money import Balance, LogRow, Price, Transaction
from kling_async._reconciling import find
from kling_async._requests import Request
from kling_async._settings import require_timeout

# "The window cannot exceed 92 days" (the vendor's page on usage).
_LONGEST = dt.timedelta(days=92)
_DAY = dt.timedelta(days=1)


class Accounting(ABC):
    """What the account behind a client's key has, costs and has done."""

    @abstractmethod
    def _account(self) -> Account:
        """Give the account that the client's key is for."""

    async def balance(self) -> Balance:
        """Ask what the account holds.

        Raises:
            KlingError: It could not be asked.
        """
        return await self._account().balance()

    async def price(self, request: Request | Mapping[str, object]) -> Price:
        """Ask what a request will cost, as far as the vendor quotes it.

        A price list is asked for once in a quarter of an hour.

        Args:
            request: The request, or a mapping with its ``model`` and the fields
                that the price hangs on, such as ``duration``; a mapping is not
                checked.

        Returns:
            The price. It is false, and its ``usd`` None, where nobody can say.

        Raises:
            InvalidRequestError: No model is named.
            KlingError: The vendor could not be asked.
        """
        body = request.to_body() if isinstance(request, Request) else dict(request)
        if not isinstance(body.get("model"), str):
            told = repr(body.get("model"))[:80]
            raise InvalidRequestError([Problem("model", told, "the id of a model")])
        return await self._account().price(body)

    async def request_log(
        self,
        *,
        since: dt.datetime | dt.timedelta = _DAY,
        until: dt.datetime | None = None,
        model: str | None = None,
        status: Literal["succeeded", "failed"] | None = None,
    ) -> AsyncGenerator[LogRow, None]:
        """Read the vendor's log of the key's requests, newest first.

        It is read as it is iterated, no faster than the vendor allows: 200 pages
        of 100 rows in a minute. Rows may appear late, and the charge of a video
        does only once it is completed.

        Args:
            since: Where to begin: a time with its zone, or how long ago. At most
                92 days before ``until``.
            until: Where to end; now by default.
            model: Only requests of this model.
            status: Only those that succeeded, or only those that failed.

        Raises:
            InvalidRequestError: A time without a zone, or too long a window.
            KlingError: The vendor could not be asked.
        """
        end = _time("until", until or dt.timedelta())
        start = _time("since", since, before=end)
        filters = {"model": model, "status": status}
        rows = self._account().log(start, end, _given(filters))
        async with aclosing(rows):
            async for row in rows:
                yield row

    async def transactions(
        self,
        *,
        since: dt.datetime | dt.timedelta | None = None,
        until: dt.datetime | None = None,
        direction: Literal["TOPUP", "CHARGE"] | None = None,
        type: str | None = None,  # noqa: A002 (the API's own word)
    ) -> AsyncGenerator[Transaction, None]:
        """Read the account's ledger, newest first, as it is iterated.

        A charge is entered after its generation has completed.

        Args:
            since: Where to begin: a time with its zone, or how long ago; the
                beginning of the account by default.
            until: Where to end; now by default.
            direction: Only money in (``TOPUP``), or only money out (``CHARGE``).
            type: Only entries of this type, such as ``MODEL_USAGE``.

        Raises:
            InvalidRequestError: A time without a zone.
            KlingError: The vendor could not be asked.
        """
        times = {"from": since, "to": until}
        stamps = {
            name: None if given is None else stamp(_time(name, given))
            for name, given in times.items()
        }
        filters = {**stamps, "direction": direction, "type": type}
        rows = self._account().transactions(_given(filters))
        async with aclosing(rows):
            async for row in rows:
                yield row

    async def reconcile(
        self,
        client_request_id: str,
        *,
        since: dt.datetime | dt.timedelta | None = None,
        timeout: float | None = None,
    ) -> Generation | None:
        """Find the generation that a create whose answer was lost did start.

        `create` does this by itself before it raises `SubmissionUncertainError`;
        this is for later, and for the id of a process that has crashed.

        Args:
            client_request_id: The id that the create was sent with.
            since: When it was sent: a time with its zone, or how long ago; at
                most 92 days. A day ago by default.
            timeout: How long to look, in seconds; a row may come late. By
                default the retry policy's ``reconcile_timeout``.

        Returns:
            The generation as it is now. None when the vendor's log was read and
            lists none: the create failed, which costs nothing, or never came.

        Raises:
            InvalidRequestError: The id or the time cannot be right.
            KlingError: The log could not be read.
        """
        client_request_id_from(client_request_id)
        start = _time("since", since or _DAY, before=dt.datetime.now(dt.UTC))
        account = self._account()
        if timeout is None:
            timeout = account.transport.settings.retry.reconcile_timeout
        else:
            require_timeout("timeout", timeout)
        return await find(account, client_request_id, since=start, timeout=timeout)


def _given(filters: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in filters.items() if value is not None}


def _time(
    name: str, given: object, *, before: dt.datetime | None = None
) -> dt.datetime:
    """Take a time, or how long ago; not too long before another, where given."""
    if isinstance(given, dt.timedelta):
        time = dt.datetime.now(dt.UTC) - given
    elif isinstance(given, dt.datetime) and given.tzinfo is not None:
        time = given
    else:
        allowed = "a datetime with its time zone, or a timedelta: how long ago"
        hint = "Such as datetime.now(UTC), or timedelta(hours=24)"
        raise InvalidRequestError([Problem(name, repr(given)[:80], allowed, hint)])
    if before is not None and not dt.timedelta() <= before - time <= _LONGEST:
        told = time.isoformat(timespec="seconds")
        end = before.isoformat(timespec="seconds")
        allowed = f"at most {_LONGEST.days} days before {end}, and not after it"
        hint = "Ask for a longer time in several parts"
        raise InvalidRequestError([Problem(name, told, allowed, hint)])
    return time
