"""The account's JSON, read: balance, prices, request log, ledger.

As tolerant as `_http.wire`, with its functions. A missing balance or price is never
invented.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from attrs import frozen

from kling_async._billing.money import (
    Balance,
    LogRow,
    PriceKind,
    PriceList,
    Rate,
    Transaction,
    credits_of,
    usd_of,
)
from kling_async._checks import number_from
from kling_async._http.wire import (
    Response,
    as_text,
    dig,
    make_decode_error,
    parse_object,
)

RowT = TypeVar("RowT")

# An item without any of these is not a row, and must not be skipped: that would mean
# that nothing is listed.
_LOG_FIELDS = frozenset(
    "created status model cost request_id inference_id client_request_id".split()
)

_LEDGER_FIELDS = frozenset("created_at direction type amount reference_id".split())

_KINDS: Mapping[str, PriceKind] = {
    "fixed": "fixed",
    "variants": "variants",
    "variable": "variable",
}

# A price for fewer units than that is none, and could have no end for one.
_LEAST = 1e-6


@frozen(eq=False, kw_only=True, repr=False)
class Page(Generic[RowT]):
    """A part of a list.

    Attributes:
        rows: Its rows, newest first.
        has_more: Whether older ones follow.
        next_cursor: Where they begin, for a list that is paged by cursor.
        date: What time it was by the server's clock.
    """

    rows: tuple[RowT, ...]
    has_more: bool
    next_cursor: str | None = None
    date: dt.datetime | None = None


def decode_balance(answer: Response) -> Balance:
    """Read ``GET /v2/billing``.

    Raises:
        DecodeError: It names no balance.
    """
    body = parse_object(answer)
    usd = number_from(body.get("current_balance"))
    if usd is None:
        raise make_decode_error(answer, "the answer names no balance")
    return Balance(usd=usd, currency=as_text(body.get("currency")) or "USD")


def decode_log(answer: Response) -> Page[LogRow]:
    """Read a page of ``GET /v2/logs``.

    Raises:
        DecodeError: It is no list, or not of requests: what is not in it may be.
    """
    body = parse_object(answer)
    rows = tuple(_log_row(row) for row in _items(answer, body))
    if any(_LOG_FIELDS.isdisjoint(row.raw) for row in rows):
        raise make_decode_error(answer, "the answer does not list requests")
    return Page(rows=rows, has_more=_has_more(body), date=answer.date)


def decode_transactions(answer: Response) -> Page[Transaction]:
    """Read a page of ``GET /v2/billing/transactions``.

    Raises:
        DecodeError: It is no list, or not of entries.
    """
    body = parse_object(answer)
    rows = tuple(_transaction(row) for row in _items(answer, body))
    if any(_LEDGER_FIELDS.isdisjoint(row.raw) for row in rows):
        raise make_decode_error(answer, "the answer does not list a ledger")
    cursor = as_text(dig(body, "pagination", "next_cursor"))
    return Page(rows=rows, has_more=cursor is not None, next_cursor=cursor)


def decode_prices(answer: Response, model: str) -> PriceList:
    """Read ``GET /v1/models?include=pricing`` for one model, by id or alias.

    Raises:
        DecodeError: It is no list.
    """
    for entry in _items(answer, parse_object(answer)):
        aliases = entry.get("aliases")
        others = cast("list[object]", aliases) if isinstance(aliases, list) else []
        names = (entry.get("id"), *others)
        if model.casefold() in {str(name).casefold() for name in names}:
            return _price_list(entry.get("pricing"))
    return PriceList(kind="unknown")


def _items(
    answer: Response, body: Mapping[str, object]
) -> Iterator[Mapping[str, object]]:
    data = body.get("data")
    if not isinstance(data, list):
        raise make_decode_error(answer, "the answer has no list")
    for item in cast("list[object]", data):
        if isinstance(item, dict):
            yield cast("dict[str, object]", item)


def _has_more(body: Mapping[str, object]) -> bool:
    told = dig(body, "pagination", "has_more")
    if isinstance(told, bool):
        return told
    total, limit, offset = (
        number_from(dig(body, "pagination", name))
        for name in ("total", "limit", "offset")
    )
    return total is not None and (offset or 0) + (limit or 0) < total


def _log_row(row: Mapping[str, object]) -> LogRow:
    usd, credits_ = _money(row.get("cost"))
    return LogRow(
        created=_time(row.get("created")),
        status=(as_text(row.get("status")) or "").lower(),
        model=as_text(row.get("model")),
        usd=usd,
        credits=credits_,
        inference_id=as_text(row.get("inference_id")),
        request_id=as_text(row.get("request_id")),
        client_request_id=as_text(row.get("client_request_id")),
        origin=as_text(row.get("origin")),
        raw=row,
    )


def _transaction(row: Mapping[str, object]) -> Transaction:
    usd, credits_ = _money(row.get("amount"))
    return Transaction(
        created=_time(row.get("created_at")),
        direction=(as_text(row.get("direction")) or "").upper(),
        type=(as_text(row.get("type")) or "").upper(),
        usd=usd,
        credits=credits_,
        model=as_text(row.get("model")),
        reference_id=as_text(row.get("reference_id")),
        raw=row,
    )


def _money(value: object) -> tuple[float, float]:
    """Give USD and credits; the one that is missing follows from the other."""
    usd, credits_ = number_from(dig(value, "usd")), number_from(dig(value, "credits"))
    if credits_ is None:
        credits_ = float(credits_of(usd or 0.0))
    return (usd_of(credits_) if usd is None else usd), credits_


def _time(value: object) -> dt.datetime | None:
    """Read ISO 8601; without an offset it is UTC, as the vendor says."""
    try:
        time = dt.datetime.fromisoformat(as_text(value) or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _price_list(pricing: object) -> PriceList:
    told = as_text(dig(pricing, "kind")) or ("fixed" if dig(pricing, "units") else "")
    kind = _KINDS.get(told.lower(), "unknown")
    if (as_text(dig(pricing, "currency")) or "USD").upper() != "USD":
        return PriceList(kind="unknown")
    lines = dig(pricing, "units" if kind == "fixed" else "variants")
    rates = [
        _rate(line)
        for line in (cast("list[object]", lines) if isinstance(lines, list) else [])
    ]
    read = tuple(rate for rate in rates if rate is not None)
    # A line that cannot be read may be the one that applies.
    return PriceList(kind=kind, rates=read if len(read) == len(rates) else ())


def _rate(line: object) -> Rate | None:
    price, per = number_from(dig(line, "price")), number_from(dig(line, "per") or 1)
    unit = as_text(dig(line, "unit")) or as_text(dig(line, "name"))
    when = dig(line, "when")
    if price is None or unit is None or per is None or per < _LEAST:
        return None
    told = cast("dict[str, object]", when) if isinstance(when, dict) else {}
    return Rate(price=price, per=per, unit=unit, when=told)
