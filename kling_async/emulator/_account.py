"""The account over HTTP: balance, usage, ledger and request log.

Reads only.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kling_async._billing.log_search import LOG_CALLS, LOG_WINDOW
from kling_async._billing.money import usd_of
from kling_async._generation import Status
from kling_async._requests.catalogue import catalogue_in_use
from kling_async._runtime.window import SlidingWindow
from kling_async.emulator._ledger import LedgerEntry
from kling_async.emulator._protocol import (
    KEYS,
    USAGE_DETAIL,
    Clock,
    Query,
    Refusal,
    timestamp,
)
from kling_async.emulator._store import GenerationStore, StoredGeneration

SUCCEEDED, FAILED = "succeeded", "failed"


@frozen(kw_only=True)
class LoggedRequest:
    """One request to a model.

    Attributes:
        at: When it came, in seconds since 1970.
        model: The model that it named.
        request_id: The id of the HTTP exchange.
        inference_id: The generation's id, or one of its own if there is none.
        client_request_id: The ``X-Client-Request-Id`` it came with, if any.
        job: The generation; None for a request that was refused.
    """

    at: float
    model: str
    request_id: str
    inference_id: str
    client_request_id: str | None
    job: StoredGeneration | None = None

    def status_at(self, now: float) -> str:
        """Return its status in the log; running work counts as succeeded."""
        if self.job is None or self.job.status_at(now) == Status.ERROR:
            return FAILED
        return SUCCEEDED

    def credits_at(self, now: float) -> int:
        """Return its cost so far: nothing before the video is completed."""
        return self.job.credits_used_at(now) if self.job else 0


@define(eq=False)
class RequestLog:
    """All rows of one account.

    Attributes:
        delay: How many seconds a row takes to appear.
        rows: The rows, in order of time.
    """

    delay: float = 0.0
    rows: list[LoggedRequest] = field(factory=list[LoggedRequest], init=False)

    def between(
        self,
        start: float,
        end: float,
        *,
        now: float,
        models: Collection[str] = (),
        statuses: Collection[str] = (),
    ) -> Iterator[LoggedRequest]:
        """Yield the rows of a period that have appeared, newest first.

        Args:
            start: The start of the period, in seconds since 1970.
            end: Its end, in seconds since 1970.
            now: The current time, in seconds since 1970.
            models: The models to show, by id or without the part before the first
                slash; all if empty.
            statuses: The statuses to show; all if empty.
        """
        for row in reversed(self.rows):
            if not start <= row.at <= end or row.at + self.delay > now:
                continue
            known = catalogue_in_use().get(row.model)
            names = {row.model, *(known.aliases if known else ())}
            if models and not names & set(models):
                continue
            if not statuses or row.status_at(now) in statuses:
                yield row


_PAGE, _LARGEST_PAGE, _LARGEST_OFFSET = 50, 100, 10**9

_HOUR, _DAY = 3600, 86_400

_LONGEST_PERIOD = 92 * _DAY

_PERIOD = re.compile(r"([1-9][0-9]{0,5})([hd])")

_DIRECTIONS = ("TOPUP", "CHARGE")

_TYPES = (
    "PAYMENT",
    "BONUS",
    "REFUND",
    "ADJUSTMENT",
    "MODEL_USAGE",
    "CREDITS_EXPIRED",
    "INIT",
)

_LEDGER_PARAMETERS = ("from", "to", "direction", "type", "limit", "cursor")

_LOW_BALANCE = 10_000  # credits, as in the vendor's example

_NO_TOKENS = {"input": 0, "output": 0, "total": 0}


@define(kw_only=True, eq=False)
class AccountPages:
    """The endpoints for money and for the request log.

    Attributes:
        store: The generations and the account that pays for them.
        log: The request log.
        clock: The clock.
        log_requests: Limits the requests to the log.
    """

    store: GenerationStore
    log: RequestLog
    clock: Clock
    log_requests: SlidingWindow = field(
        factory=lambda: SlidingWindow(LOG_CALLS, LOG_WINDOW)
    )

    async def balance(self, _: Request) -> Response:
        """Answer with the balance, in USD."""
        self.store.settle(self.clock.now())
        balance = usd_of(self.store.account.balance)
        return JSONResponse({"current_balance": balance, "currency": "USD"})

    async def old_balance(self, _: Request) -> Response:
        """Answer with the balance as API version 1 does, in credits."""
        now = self.clock.now()
        self.store.settle(now)
        balance = math.floor(self.store.account.balance)
        is_low = balance < _LOW_BALANCE
        words = "below the threshold" if is_low else "current and up to date"
        return JSONResponse(
            {
                "balance": balance,
                "lowBalance": is_low,
                "lowBalanceThreshold": _LOW_BALANCE,
                "lastUpdated": timestamp(now),
                "autoDebitStatus": "disabled",
                "status": "low" if is_low else "current",
                "statusExplanation": f"Balance is {words}",
            }
        )

    async def balance_detail(self, _: Request) -> Response:
        """Answer with the balance and its owner."""
        self.store.settle(self.clock.now())
        return JSONResponse(
            {
                "user_id": 1,
                "email": "emulator@example.com",
                "current_balance": usd_of(self.store.account.balance),
                "currency": "USD",
                "autotopup_settings": {
                    "is_enabled": False,
                    "threshold": 0,
                    "amount": 0,
                    "currency": "USD",
                },
            }
        )

    async def usage(self, request: Request) -> Response:
        """Answer with the spending of a period; in detail by model, highest first."""
        now = self.clock.now()
        self.store.settle(now)
        query = Query(request.query_params)
        query.take_only(("period", "start", "end", "key_prefix"))
        start, end = _period(query, now)
        query.check()
        spent: dict[str, list[float]] = {}
        for entry in self.store.account.entries:
            if entry.model is not None and start <= entry.at <= end:
                spent.setdefault(entry.model, []).append(entry.credits)
        models: list[dict[str, object]] = [
            {"model": model, "spend": usd_of(sum(charges)), "requests": len(charges)}
            for model, charges in sorted(spent.items(), key=lambda it: -sum(it[1]))
        ]
        content: dict[str, object] = {
            "api_key_prefix": query.params.get("key_prefix"),
            "start": timestamp(start),
            "end": timestamp(end),
            "spend": usd_of(sum(map(sum, spent.values()))),
            "currency": "USD",
            "requests": sum(map(len, spent.values())),
        }
        if request.url.path == USAGE_DETAIL:
            content["models"] = models
        return JSONResponse(content)

    async def key(self, request: Request) -> Response:
        """Answer with the key of the request: the only one that an emulator has."""
        opened = timestamp(self.store.account.entries[0].at)
        item = {
            "name": "emulator",
            "disabled": False,
            "prefix": request.headers["authorization"].partition(" ")[2].strip()[:8],
            "scopes": None,
            "limit": None,
            "created_at": opened,
            "updated_at": opened,
            "monthly_usage": 0,
        }
        is_list = request.url.path == KEYS
        return JSONResponse({"data": [item] if is_list else item})

    def top_up(self, credits_: float) -> None:
        """Add credits, now.

        Raises:
            ValueError: They are not a number above 0; this may also be a TypeError.
        """
        if isinstance(credits_, bool) or not 0 < credits_ < math.inf:
            raise ValueError(f"{credits_!r} is not a number above 0")
        now = self.clock.now()
        self.store.settle(now)
        self.store.account.top_up(credits_, at=now)

    async def transactions(self, request: Request) -> Response:
        """Answer with a page of the changes of the balance, newest first."""
        self.store.settle(self.clock.now())
        query = Query(request.query_params)
        query.take_only(_LEDGER_PARAMETERS)
        limit = query.whole("limit", 1, _LARGEST_PAGE, _PAGE)
        entries = self.store.account.entries
        newest = _read_cursor(query, len(entries))
        fits = _ledger_filter(query)
        query.check()
        fitting = (it for it in range(newest, 0, -1) if fits(entries[it - 1]))
        page = list(islice(fitting, limit))
        more = next(fitting, None)
        next_cursor = None if more is None else _cursor_at(more)
        return JSONResponse(
            {
                "data": [_entry_item(entries[number - 1]) for number in page],
                "pagination": {
                    "next_cursor": next_cursor,
                    "has_more": more is not None,
                },
            }
        )

    async def logs(self, request: Request) -> Response:
        """Answer with a page of the request log, newest first."""
        now = self.clock.now()
        if early := self.log_requests.try_take(now):
            raise Refusal.too_many("Too many requests", early)
        query = Query(request.query_params)
        start, end = _period(query, now)
        limit = query.whole("limit", 1, _LARGEST_PAGE, _PAGE)
        offset = query.whole("offset", 0, _LARGEST_OFFSET, 0)
        statuses = query.choices("status", (SUCCEEDED, FAILED))
        query.check()
        models = query.params.getlist("model")
        found = list(
            self.log.between(start, end, now=now, models=models, statuses=statuses)
        )
        page = found[offset : offset + limit]
        pagination = {
            "limit": limit,
            "offset": offset,
            "total": len(found),
            "has_more": offset + limit < len(found),
        }
        rows = [_row_item(row, now) for row in page]
        return JSONResponse({"data": rows, "pagination": pagination})


def _period(query: Query, now: float) -> tuple[float, float]:
    """Read the period of a query: so long up to now, or a start and an end."""
    start, end = query.moment("start"), query.moment("end")
    bounds = {"start", "end"} & query.params.keys()
    text = query.params.get("period")
    if text is not None and not bounds:
        found = _PERIOD.fullmatch(text)
        seconds = int(found[1]) * (_HOUR if found[2] == "h" else _DAY) if found else 0
        if not 0 < seconds <= _LONGEST_PERIOD:
            query.reject("period", "hours or days such as 24h or 7d, at most 92d")
        return now - seconds, now
    if text is not None or len(bounds) != 2:  # noqa: PLR2004 (the two of them)
        query.reject("period", "either period, or both start and end")
    elif start is not None and end is not None:
        if not 0 <= end - start <= _LONGEST_PERIOD:
            query.reject("end", "a time after start, at most 92 days")
        return start, end
    return now, now


def _ledger_filter(query: Query) -> Callable[[LedgerEntry], bool]:
    start, end = query.moment("from"), query.moment("to")
    if start is not None and end is not None and end <= start:
        query.reject("to", "a time after from")
    directions = query.choices("direction", _DIRECTIONS) or _DIRECTIONS
    types = query.choices("type", _TYPES) or _TYPES

    def fits(entry: LedgerEntry) -> bool:
        return (
            (start is None or start <= entry.at)
            and (end is None or entry.at < end)
            and entry.direction in directions
            and entry.type in types
        )

    return fits


def _cursor_at(number: int) -> str:
    text = json.dumps({"v": 1, "n": number}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(query: Query, newest: int) -> int:
    """Return the number of a page's first entry, counted from 1."""
    text = query.params.get("cursor")
    if text is None:
        return newest
    try:
        padded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        number: object = json.loads(padded)["n"]
    except (ValueError, KeyError, TypeError, RecursionError):
        number = None
    if isinstance(number, int) and 0 < number <= newest and _cursor_at(number) == text:
        return number
    query.reject("cursor", "a next_cursor, exactly as it was issued")
    return 0


def _amount(credits_: float) -> dict[str, float]:
    return {"usd": usd_of(credits_), "credits": math.floor(credits_)}


def _entry_item(entry: LedgerEntry) -> Mapping[str, object]:
    return {
        "created_at": timestamp(entry.at),
        "direction": entry.direction,
        "type": entry.type,
        "amount": _amount(entry.credits),
        "model": entry.model,
        "reference_id": entry.reference_id,
    }


def _row_item(row: LoggedRequest, now: float) -> Mapping[str, object]:
    return {
        "created": timestamp(row.at),
        "status": row.status_at(now),
        "origin": "api",
        "model": row.model,
        "cost": _amount(row.credits_at(now)),
        "tokens": _NO_TOKENS,
        "request_id": row.request_id,
        "inference_id": row.inference_id,
        "client_request_id": row.client_request_id,
    }
