"""The account behind a key: its balance, prices, request log and ledger.

Asks, page by page, by the rules of any GET; reads no JSON. The request log is
asked no faster than the vendor allows.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

import anyio
from attrs import define, field, frozen

from kling_async._billing.log_search import (
    LOG_CALLS,
    LOG_WINDOW,
    GivenIds,
    LostCreate,
    RequestLogSearch,
    Verdict,
)
from kling_async._billing.money import Balance, LogRow, Price, PriceList, Transaction
from kling_async._billing.rows import (
    Page,
    decode_balance,
    decode_log,
    decode_prices,
    decode_transactions,
)
from kling_async._checks import host_and_port, is_loopback
from kling_async._errors import RequestTimeoutError
from kling_async._failures import may_repeat_get
from kling_async._http.session import Session
from kling_async._http.transport import Transport
from kling_async._http.wire import Response
from kling_async._runtime.limiter import Kind, Slot
from kling_async._runtime.window import SlidingWindow

T = TypeVar("T")

_ROWS = 100  # the most that the vendor gives at once

_PRICES_LIVE = 900.0

# Seconds. A page of the log is small: if one takes longer, it is better to ask again.
_LOG_LIMIT, _LEAST = 10.0, 0.1


@define(eq=False, repr=False)
class Shared:
    """What all calls for one key share in one event loop.

    Attributes:
        log_limiter: Limits requests to the log.
        search: The search for lost creates.
        given_ids: The creates under ids that callers gave, in all event loops.
        prices: Price lists by model, each with when it was read (loop time).
    """

    given_ids: GivenIds

    log_limiter: SlidingWindow = field(
        factory=lambda: SlidingWindow(LOG_CALLS, LOG_WINDOW)
    )
    search: RequestLogSearch = field(factory=RequestLogSearch)
    prices: dict[str, tuple[float, PriceList]] = field(
        factory=dict[str, tuple[float, PriceList]]
    )


# The same URL may lead to another server over another client.
_GIVEN_IDS: WeakKeyDictionary[object, GivenIds] = WeakKeyDictionary()

# By server, then by the key's hash.
_GIVEN_IDS_OF_ACCOUNTS: dict[str, dict[int, GivenIds]] = {}


def _share_given_ids(transport: Transport, key: tuple[str, str]) -> GivenIds:
    """Return what all clients of one account in this process share."""
    lent = transport.connections.http_client
    if lent is not None:
        return _GIVEN_IDS.setdefault(lent, GivenIds())
    server, secret = key
    accounts = _GIVEN_IDS_OF_ACCOUNTS.setdefault(server, {})
    return accounts.setdefault(hash(secret), GivenIds())


def forget_server(base_url: str) -> None:
    """Forget the ids given to a server of this machine that has made room for another.

    The next emulator may listen on a port of an earlier one, and has the same ids.
    """
    _, port = host_and_port(base_url)
    for known in list(_GIVEN_IDS_OF_ACCOUNTS):
        host, at = host_and_port(known)
        if at == port and is_loopback(host):
            del _GIVEN_IDS_OF_ACCOUNTS[known]


@frozen(eq=False, repr=False)
class BillingClient:
    """One account, over one client.

    Attributes:
        transport: The client's transport.
        shared: What it shares with other clients of the same key.
    """

    transport: Transport
    shared: Shared

    async def balance(self) -> Balance:
        """Fetch the balance."""
        return await self._ask("/v2/billing", decode_balance)

    async def price(self, body: Mapping[str, object]) -> Price:
        """Fetch a request's price; a price list is used for a quarter of an hour.

        Args:
            body: The request by the wire's names, with its ``model``.
        """
        model = str(body["model"])
        read_at, prices = self.shared.prices.get(model, (-math.inf, None))
        if prices is None or anyio.current_time() - read_at > _PRICES_LIVE:
            query = urlencode({"id": model, "include": "pricing"})
            prices = await self._ask(
                f"/v1/models?{query}", lambda answer: decode_prices(answer, model)
            )
            self.shared.prices[model] = anyio.current_time(), prices
        return prices.price_of(body)

    async def log(
        self, start: dt.datetime, end: dt.datetime, filters: Mapping[str, str]
    ) -> AsyncGenerator[LogRow, None]:
        """Give the rows of the request log, newest first.

        New and late rows push others onto the next page: those are yielded only once.
        """
        window = {"start": stamp(start), "end": stamp(end), **filters}
        offset, before = 0, frozenset[LogRow]()
        while True:
            query = urlencode({**window, "limit": _ROWS, "offset": offset})
            page = await self._ask(f"/v2/logs?{query}", decode_log)
            for row in page.rows:
                if row not in before:
                    yield row
            if not page.has_more or not page.rows:
                return
            offset, before = offset + len(page.rows), frozenset(page.rows)

    async def transactions(
        self, filters: Mapping[str, str]
    ) -> AsyncGenerator[Transaction, None]:
        """Give the entries of the ledger, newest first."""
        cursor: Mapping[str, str] = {}
        while True:
            query = urlencode({**filters, "limit": _ROWS, **cursor})
            path = f"/v2/billing/transactions?{query}"
            page = await self._ask(path, decode_transactions)
            for row in page.rows:
                yield row
            if page.next_cursor is None:
                return
            cursor = {"cursor": page.next_cursor}

    def search_log(self, session: Session, lost: LostCreate) -> Awaitable[Verdict]:
        """Search the log for a create, in a task of the client."""
        read_page = partial(self.read_log_page, session)
        return self.shared.search.look_for(lost, read_page)

    async def read_log_page(
        self, session: Session, hours: int, offset: int, left: float
    ) -> Page[LogRow]:
        """Fetch a page of the newest rows, in a task of the client.

        Args:
            session: Where to ask.
            hours: How far back, by the vendor's clock.
            offset: How many rows to leave out.
            left: The longest to take, in seconds.
        """
        query = urlencode({"period": f"{hours}h", "limit": _ROWS, "offset": offset})
        most = min(left, _LOG_LIMIT, self.transport.settings.timeout)
        deadline = anyio.current_time() + most

        try:
            with anyio.fail_after(deadline - anyio.current_time()):
                await self.shared.log_limiter.take()
            slot = await session.limiter.acquire(Kind.LOG, deadline)
        except TimeoutError as error:
            message = "the request log did not answer in time"
            raise RequestTimeoutError(message, request_sent=False) from error
        with slot:
            limit = max(deadline - anyio.current_time(), _LEAST)
            path = f"/v2/logs?{query}"
            return await self._get(session, slot, path, decode_log, limit)

    async def fetch(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Ask for what a path holds, and give the answer as it is."""
        return await self._ask(path, lambda answer: answer, headers)

    async def _ask(
        self,
        path: str,
        read: Callable[[Response], T],
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Ask by the rules of any GET."""
        limit, is_log = self.transport.settings.timeout, path.startswith("/v2/logs")
        # The log has its own limit: exceeding that does not hold back creates.
        kind = Kind.LOG if is_log else Kind.AWAITED

        async def get(session: Session, slot: Slot) -> T:
            with slot:
                return await self._get(session, slot, path, read, limit, headers)

        async def attempt() -> T:
            if is_log:
                await self.shared.log_limiter.take()
            return await self.transport.in_slot(kind, get)

        return await self.transport.repeat(attempt, may_repeat_get, pauses=not is_log)

    async def _get(
        self,
        session: Session,
        slot: Slot,
        path: str,
        read: Callable[[Response], T],
        limit: float,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        call = self.transport.call("GET", limit, path=path, headers=headers)
        return read(await self.transport.exchange(session, slot, call))


# By event loop and client, then by server and key.
_SHARED: WeakKeyDictionary[Session, dict[tuple[str, str], Shared]] = WeakKeyDictionary()


def account_of(transport: Transport) -> BillingClient:
    """Return the account of a transport's key."""
    settings = transport.settings
    shared = _SHARED.setdefault(transport.session, {})
    key = (settings.base_url, settings.api_key.reveal())
    if key not in shared:
        shared[key] = Shared(_share_given_ids(transport, key))
    return BillingClient(transport, shared[key])


def stamp(time: dt.datetime) -> str:
    """Write a time as the vendor's examples do."""
    return time.astimezone(dt.UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
