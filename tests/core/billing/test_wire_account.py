"""The account's JSON, in each form that the vendor's documents show, and worse."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings, strategies as st

from kling_async import Balance, DecodeError, LogRow, Transaction
from kling_async._billing.money import PriceList, Rate
from kling_async._billing.rows import (
    decode_balance,
    decode_log,
    decode_prices,
    decode_transactions,
)
from kling_async._http.wire import Response

MODEL = "klingai/v2-master-image-to-video"
ROW: Mapping[str, object] = {
    "created": "2026-07-02T03:04:05.000Z",
    "status": "succeeded",
    "origin": "api",
    "model": MODEL,
    "cost": {"usd": 0.25, "credits": 500000},
    "tokens": {"input": 10, "output": 20, "total": 30},
    "request_id": "req-1",
    "inference_id": "inf-1",
    "client_request_id": "customer-42",
}
ENTRY: Mapping[str, object] = {
    "created_at": "2026-08-17T10:00:00.000Z",
    "direction": "CHARGE",
    "type": "MODEL_USAGE",
    "amount": {"usd": 1.56, "credits": 3120000},
    "model": MODEL,
    "reference_id": "V1StGXR8Z5jdHi6BmyT8k",
}


def said(body: object) -> Response:
    """Make an answer of a JSON value."""
    return Response(status_code=200, headers={}, content=json.dumps(body).encode())


def listed(*rows: object, **pagination: object) -> Response:
    """Make an answer with a list."""
    return said({"data": rows, "pagination": pagination})


def priced(pricing: object, *, name: str = MODEL, **more: object) -> PriceList:
    """Read a catalogue with one model, priced so."""
    entry = {"id": name, "aliases": [], "pricing": pricing, **more}
    return decode_prices(said({"object": "list", "data": [entry]}), MODEL)


def test_a_balance_is_read_as_documented() -> None:
    """USD, and how the vendor calls it."""
    answer = said({"current_balance": 123.45, "currency": "USD"})
    assert decode_balance(answer) == Balance(usd=123.45, currency="USD")
    assert decode_balance(said({"current_balance": "-0.5"})).usd == -0.5


@pytest.mark.parametrize("body", [{}, {"current_balance": None}, [], "broke"])
def test_a_balance_that_is_not_told_is_none(body: object) -> None:
    """Nobody is told that the account is empty because an answer was odd."""
    with pytest.raises(DecodeError):
        decode_balance(said(body))


@pytest.mark.parametrize("amount", [1e308, -1e308, 1e19])
def test_an_amount_beyond_all_money_is_none(amount: float) -> None:
    """In credits it would be endless, and no whole number is."""
    with pytest.raises(DecodeError):
        decode_balance(said({"current_balance": amount}))
    (row,) = decode_log(listed({"cost": {"usd": amount}})).rows
    assert (row.usd, row.credits) == (0, 0)
    (entry,) = decode_transactions(listed({"amount": {"credits": amount}})).rows
    assert (entry.usd, entry.credits) == (0, 0)


def test_a_row_is_read_as_documented() -> None:
    """Every field of the vendor's own example finds its place."""
    page = decode_log(listed(ROW, has_more=True))
    assert page.rows == (
        LogRow(
            created=dt.datetime(2026, 7, 2, 3, 4, 5, tzinfo=dt.UTC),
            status="succeeded",
            model=MODEL,
            usd=0.25,
            credits=500000,
            inference_id="inf-1",
            request_id="req-1",
            client_request_id="customer-42",
            origin="api",
        ),
    )
    assert page.rows[0].raw == ROW
    assert page.has_more


@pytest.mark.parametrize("name", ROW)
@pytest.mark.parametrize("value", [None, "", [], {}, "odd", True])
def test_a_row_is_read_whatever_one_field_is(name: str, value: object) -> None:
    """One odd field does not hide the id that a paid generation is found by."""
    (row,) = decode_log(listed({**ROW, name: value})).rows
    if name != "inference_id":
        assert row.inference_id == "inf-1"
    if name != "client_request_id":
        assert row.client_request_id == "customer-42"


def test_what_is_no_row_is_passed_over() -> None:
    """The rows around it are read."""
    assert len(decode_log(listed(None, ROW, 7, "row")).rows) == 1


@pytest.mark.parametrize(
    "pagination, expected",
    [
        ({"has_more": True}, True),
        ({"has_more": False, "total": 9, "limit": 1, "offset": 0}, False),
        ({"total": 9, "limit": 3, "offset": 3}, True),
        ({"total": 6, "limit": 3, "offset": 3}, False),
        ({"total": 2}, True),
        ({}, False),
    ],
    ids=str,
)
def test_more_rows_are_told_of_in_either_way(
    pagination: Mapping[str, object],
    expected: bool,
) -> None:
    """By `has_more`, else by the total."""
    assert decode_log(listed(ROW, **pagination)).has_more is expected


def test_an_entry_is_read_as_documented() -> None:
    """Every field of the vendor's own example finds its place."""
    page = decode_transactions(listed(ENTRY, next_cursor="abc", has_more=True))
    assert page.rows == (
        Transaction(
            created=dt.datetime(2026, 8, 17, 10, tzinfo=dt.UTC),
            direction="CHARGE",
            type="MODEL_USAGE",
            usd=1.56,
            credits=3120000,
            model=MODEL,
            reference_id="V1StGXR8Z5jdHi6BmyT8k",
        ),
    )
    assert page.next_cursor == "abc"


def test_the_ledger_ends_where_there_is_no_cursor() -> None:
    """Whatever else it says."""
    page = decode_transactions(listed(ENTRY, next_cursor=None, has_more=True))
    assert not page.has_more
    assert page.next_cursor is None


@pytest.mark.parametrize(
    "amount, usd, credits_",
    [
        ({"usd": 1.5}, 1.5, 3_000_000),
        ({"credits": 3_000_000}, 1.5, 3_000_000),
        ({"usd": "1.5", "credits": "3000000"}, 1.5, 3_000_000),
        (None, 0, 0),
    ],
)
def test_one_unit_follows_from_the_other(
    amount: object, usd: float, credits_: float
) -> None:
    """Where only one of the two is told."""
    (entry,) = decode_transactions(listed({**ENTRY, "amount": amount})).rows
    assert (entry.usd, entry.credits) == (usd, credits_)


@pytest.mark.parametrize(
    "text, hour",
    [("2026-07-02T03:04:05+03:00", 0), ("2026-07-02T03:04:05", 3), ("soon", None)],
)
def test_a_time_without_an_offset_is_utc(text: str, hour: int | None) -> None:
    """As the vendor says; what is no time is None."""
    (row,) = decode_log(listed({**ROW, "created": text})).rows
    assert (row.created and row.created.astimezone(dt.UTC).hour) == hour


@pytest.mark.parametrize("decode", [decode_log, decode_transactions])
@pytest.mark.parametrize("body", [{}, {"data": None}, {"data": {}}, []], ids=str)
def test_a_list_that_is_none_is_an_error(
    decode: Callable[[Response], object], body: object
) -> None:
    """Silence is not taken for an empty log: that could cost a second create."""
    with pytest.raises(DecodeError):
        decode(said(body))


# --- prices


def test_fixed_prices_are_read_as_documented() -> None:
    """A unit is named by `name` there."""
    pricing = {
        "kind": "fixed",
        "currency": "USD",
        "units": [{"name": "second", "measure": "output", "price": 0.28, "per": 1}],
    }
    rate = Rate(price=0.28, per=1, unit="second", when={})
    assert priced(pricing) == PriceList(kind="fixed", rates=(rate,))
    assert priced({k: v for k, v in pricing.items() if k != "kind"}).kind == "fixed"


def test_variants_are_read_as_documented() -> None:
    """A unit is named by `unit` there."""
    line = {"when": {"resolution": "720p"}, "price": 0.39, "unit": "second", "per": 1}
    pricing = {"kind": "variants", "dimensions": ["resolution"], "variants": [line]}
    rate = Rate(price=0.39, per=1, unit="second", when={"resolution": "720p"})
    assert priced(pricing) == PriceList(kind="variants", rates=(rate,))


def test_a_price_may_be_variable() -> None:
    """Then there is nothing to reckon with."""
    assert priced({"kind": "variable"}) == PriceList(kind="variable")


def test_a_model_is_found_by_its_alias_too() -> None:
    """The name that a program uses may live on as one."""
    pricing = {"kind": "variable"}
    assert priced(pricing, name="new-name", aliases=[MODEL.upper()]).kind == "variable"
    assert priced(pricing, name="new-name").kind == "unknown"
    assert priced(pricing, name="new-name", aliases=None).kind == "unknown"


@pytest.mark.parametrize(
    "pricing",
    [
        None,
        {},
        {"kind": "by the moon"},
        {"kind": "fixed", "currency": "EUR", "units": []},
    ],
    ids=str,
)
def test_a_price_list_that_is_none_is_unknown(pricing: object) -> None:
    """Neither odd kinds nor odd money are reckoned with."""
    assert priced(pricing) == PriceList(kind="unknown")


@pytest.mark.parametrize(
    "line",
    [None, {}, {"price": 1}, {"price": None, "unit": "second"}]
    + [{"price": 1, "unit": "second", "per": per} for per in (-1, "all", [1], 5e-324)],
    ids=str,
)
def test_a_line_that_cannot_be_read_makes_the_list_useless(line: object) -> None:
    """It may be the one that counts."""
    good = {"price": 1, "unit": "second", "per": 1}
    pricing = {"kind": "variants", "variants": [good, line]}
    assert priced(pricing) == PriceList(kind="variants")


def test_a_price_is_for_one_unit_unless_it_says_so() -> None:
    """Where `per` is left out."""
    pricing = {"kind": "fixed", "units": [{"price": 2, "name": "video"}]}
    assert priced(pricing).rates == (Rate(price=2, per=1, unit="video", when={}),)


@pytest.mark.parametrize("decode", [decode_log, decode_transactions])
@pytest.mark.parametrize("item", [{}, {"data": [ROW]}, {"id": "g-1"}])
def test_a_list_of_something_else_is_not_read_as_empty(
    decode: Callable[[Response], object], item: object
) -> None:
    """Else a create that is in the log would be said not to be."""
    with pytest.raises(DecodeError, match="the answer does not list"):
        decode(listed({**ROW, "amount": {}}, item))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=JSON, name=st.sampled_from(["cost", "amount", "pricing", "created"]))
@settings(derandomize=True, deadline=None)
def test_nothing_that_is_json_breaks_a_reader(value: object, name: str) -> None:
    """An item of any shape is read or refused, never a crash."""
    item = {"id": MODEL, "aliases": value, name: value}
    for decode in (decode_log, decode_transactions):
        with contextlib.suppress(DecodeError):
            decode(listed(item, value))
    decode_prices(listed(item, value), MODEL)
