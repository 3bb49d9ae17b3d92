"""Money as values: units, budgets, and what a price list makes of a request."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, strategies as st

from kling_async import Balance, Budget, ConfigurationError, LogRow, Price
from kling_async._billing.money import PriceList, Rate, credits_of, usd_of

PRO = "klingai/video-v3-pro-text-to-video"
AVATAR = "klingai/avatar-pro"
BUDGET: Callable[..., Budget] = Budget  # takes what a caller may give


def rate(price: float, unit: str = "second", per: float = 1, **when: object) -> Rate:
    """Make a line of a price list."""
    return Rate(price=price, unit=unit, per=per, when=when)


def fixed(*rates: Rate) -> PriceList:
    """Make a list whose lines add up."""
    return PriceList(kind="fixed", rates=rates)


def variants(*rates: Rate) -> PriceList:
    """Make a list to choose a line from."""
    return PriceList(kind="variants", rates=rates)


def usd(prices: PriceList, model: str = PRO, **body: object) -> float | None:
    """Tell what a request costs."""
    return prices.price_of({"model": model, **body}).usd


@given(st.integers(min_value=0, max_value=10**15))
def test_credits_survive_the_way_through_usd(credits_: int) -> None:
    """2,000,000 are 1 USD, and not one is lost to rounding."""
    assert credits_of(usd_of(credits_)) == credits_


def test_a_balance_is_told_in_both_units() -> None:
    """Also one that is overdrawn."""
    assert Balance(usd=123.45).credits == 246_900_000
    assert Balance(usd=-0.5).credits == -1_000_000


def test_a_price_that_nobody_knows_is_false() -> None:
    """`if price:` asks whether there is one; a price of nothing is one."""
    unknown = Price(model=PRO, kind="variable")
    assert not unknown
    assert unknown.credits is None
    assert Price(model=PRO, kind="fixed", usd=0.0)
    assert Price(model=PRO, kind="fixed", usd=1.4).credits == 2_800_000


@pytest.mark.parametrize("status, failed", [("failed", True), ("succeeded", False)])
def test_a_row_says_whether_it_failed(status: str, failed: bool) -> None:
    """Only what the vendor calls failed has failed."""
    row = LogRow(
        created=None,
        status=status,
        model=None,
        usd=0,
        credits=0,
        inference_id=None,
        request_id=None,
        client_request_id=None,
        origin=None,
    )
    assert row.failed is failed


# --- budgets


def test_a_budget_is_given_in_either_unit() -> None:
    """Both come down to credits."""
    assert Budget(usd=1.5).in_credits == 3_000_000
    assert Budget(credits=3_000_000).in_credits == 3_000_000
    assert Budget(usd=0).in_credits == 0


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"usd": 1, "credits": 1},
        {"usd": -1},
        {"credits": math.inf},
        {"usd": math.nan},
        {"usd": "5"},
    ],
    ids=str,
)
def test_a_budget_that_makes_no_sense_is_refused(given: Mapping[str, object]) -> None:
    """Exactly one of the two, a finite amount, not less than nothing."""
    with pytest.raises(ConfigurationError, match="allowed"):
        BUDGET(**given)


# --- price lists


@pytest.mark.parametrize(
    "unit", ["second", "Seconds", "sec", "s", "video_second", "video-seconds"]
)
def test_a_price_by_the_second_is_that_of_the_length(unit: str) -> None:
    """As the vendor's own example reckons: 0.65 x 5 is 3.25."""
    assert usd(fixed(rate(0.65, unit)), duration=5) == 3.25
    assert usd(fixed(rate(0.65, unit)), duration="10") == 6.5


@pytest.mark.parametrize("unit", ["video", "Videos", "generation", "request"])
def test_a_price_by_the_video_is_that_of_one(unit: str) -> None:
    """However long it is."""
    assert usd(fixed(rate(1.05, unit)), duration=10) == 1.05


def test_a_price_is_for_so_many_units() -> None:
    """`price` without `per` would be wrong by orders of magnitude."""
    assert usd(fixed(rate(280, per=1000)), duration=5) == 1.4


def test_what_is_fixed_adds_up() -> None:
    """A fee for each video and a rate by the second are both charged."""
    assert usd(fixed(rate(0.1, "video"), rate(0.2)), duration=5) == 1.1


def test_without_a_length_the_default_of_the_server_counts() -> None:
    """It takes 5 s where the request says nothing."""
    assert usd(fixed(rate(0.2))) == 1.0


@pytest.mark.parametrize(
    "shots, expected",
    [
        ([{"prompt": "a", "duration": 3}, {"prompt": "b", "duration": "4"}], 0.7),
        ([{"prompt": "a", "duration": 3}, {"prompt": "b"}], 0.5),
        (["a", "b"], 0.5),
        ([{"prompt": "a", "duration": True}], 0.5),
        ("a", 0.5),
    ],
)
def test_shots_are_as_long_as_all_of_them(shots: object, expected: float) -> None:
    """Where each says its length; else the default of the whole counts."""
    assert usd(fixed(rate(0.1)), multi_prompt=shots) == expected


@pytest.mark.parametrize(
    "length",
    [10**400, "1e999", 1e308, -5, math.inf, math.nan, "many", True, [5]],
    ids=repr,
)
def test_a_length_that_is_none_gives_no_price(length: object) -> None:
    """Neither an error nor an endless sum: a mapping is priced as it is given."""
    assert usd(fixed(rate(100)), duration=length) is None


@pytest.mark.parametrize("model", [AVATAR, "klingai/from-tomorrow"])
def test_a_length_that_nobody_knows_gives_no_price(model: str) -> None:
    """An avatar is as long as the sound that is sent along."""
    assert usd(fixed(rate(0.1)), model) is None
    assert usd(fixed(rate(0.1)), model, duration="as the song") is None
    assert usd(fixed(rate(0.1, "video")), model) == 0.1


@pytest.mark.parametrize("unit", ["token", "megapixel", ""])
def test_a_unit_that_nobody_knows_gives_no_price(unit: str) -> None:
    """Not even for the part that could be reckoned."""
    assert usd(fixed(rate(0.1, "video"), rate(0.1, unit)), duration=5) is None


@pytest.mark.parametrize("kind", ["variable", "unknown"])
def test_no_price_is_made_up(kind: str) -> None:
    """What the vendor does not quote is not known."""
    prices = PriceList(kind="variable" if kind == "variable" else "unknown")
    price = prices.price_of({"model": PRO, "duration": 5})
    assert (price.kind, price.usd) == (kind, None)
    assert usd(fixed()) is None


BY_SOUND = variants(
    rate(0.112, generate_audio=False),
    rate(0.168, generate_audio=True),
)


@pytest.mark.parametrize(
    "body, expected",
    [
        ({"generate_audio": False}, 0.56),
        ({"generate_audio": True}, 0.84),
        ({}, 0.84),  # the server's default is sound
    ],
)
def test_the_variant_is_that_of_the_parameters(
    body: Mapping[str, object], expected: float
) -> None:
    """Given, or taken by the server where nothing is given."""
    body = {"model": PRO, "duration": 5, **body}
    assert BY_SOUND.price_of(body).usd == expected


@pytest.mark.parametrize(
    "wanted, told",
    [(5, "5"), ("5", 5), ("5.0", 5), ("PRO", "pro"), (["std", "pro"], "pro")],
)
def test_a_parameter_is_the_same_however_it_is_written(
    wanted: object, told: object
) -> None:
    """Numbers as text, words in capitals, one value of several."""
    prices = variants(rate(1, "video", mode=wanted), rate(2, "video", mode="other"))
    assert usd(prices, mode=told) == 1


@pytest.mark.parametrize("nothing", [None, False])
def test_a_variant_may_ask_that_nothing_is_given(nothing: object) -> None:
    """For an optional image, say."""
    prices = variants(rate(1, "video", tail=nothing), rate(2, "video", tail="yes"))
    assert usd(prices) == 1
    assert usd(prices, tail="yes") == 2
    assert usd(prices, tail="no") is None


def test_the_variant_that_says_most_counts() -> None:
    """A general line stands behind a special one."""
    prices = variants(rate(1, "video"), rate(3, "video", mode="pro"))
    assert usd(prices, mode="pro") == 3
    assert usd(prices, mode="std") == 1


def test_of_two_variants_that_fit_alike_the_dearer_counts() -> None:
    """A budget is better too careful than passed."""
    prices = variants(rate(1, "video", a=1), rate(2, "video", b=1))
    assert usd(prices, a=1, b=1) == 2


def test_no_variant_that_fits_is_no_price() -> None:
    """A resolution that the request cannot name, say."""
    prices = variants(rate(0.39, resolution="720p"), rate(0.65, resolution="1080p"))
    assert usd(prices, duration=5) is None
