"""The cost of a request by a model's price list: pure functions, without I/O.

If a unit or the right line of the list is in doubt, there is no price rather than a
guess.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from attrs import field, frozen

from kling_async._checks import require_number
from kling_async._errors import ConfigurationError
from kling_async._requests.catalogue import catalogue_in_use, video_length

CREDITS_PER_USD = 2_000_000
"""What the vendor's documents of August 2026 say one USD is worth."""

PriceKind = Literal["fixed", "variants", "variable", "unknown"]

_DECIMALS = 9  # as many as the vendor writes


def usd_of(credits_: float) -> float:
    """Turn credits into USD."""
    return round(credits_ / CREDITS_PER_USD, _DECIMALS)


def credits_of(usd: float) -> int:
    """Turn USD into credits, which are whole."""
    return round(usd * CREDITS_PER_USD)


@frozen(kw_only=True)
class Balance:
    """The account's balance.

    Attributes:
        usd: In USD; it may be negative, since the vendor allows overdraft.
        currency: The vendor's name of the currency.
    """

    usd: float
    currency: str = "USD"

    @property
    def credits(self) -> int:
        """In credits; 2,000,000 are 1 USD."""
        return credits_of(self.usd)


@frozen(kw_only=True)
class Price:
    """The price of a request, if the vendor quotes it.

    It is false if it is not known: ``if price: print(price.usd)``.

    Attributes:
        model: The model.
        kind: How the vendor prices it: ``fixed``; ``variants``, by the request's
            parameters; ``variable``, not known in advance; ``unknown``, if the
            vendor does not say.
        usd: The price in USD. None for ``variable`` and ``unknown``, and if the
            price depends on something else than the request's fields, such as the
            length of a video in it.
    """

    model: str
    kind: PriceKind
    usd: float | None = None

    @property
    def credits(self) -> int | None:
        """The price in credits; None if it is not known."""
        return None if self.usd is None else credits_of(self.usd)

    def __bool__(self) -> bool:
        return self.usd is not None


@frozen(kw_only=True)
class LogRow:
    """One request as the vendor's log lists it; failed ones are there too.

    Attributes:
        created: When it arrived, by the vendor's clock.
        status: ``succeeded`` or ``failed``. A failed request costs nothing.
        model: The model's id.
        usd: Its cost in USD; a video is charged only once it is completed.
        credits: The same in credits.
        inference_id: For a generation, its id.
        request_id: The vendor's id of the HTTP request.
        client_request_id: The id that the caller sent with it.
        origin: ``api`` or ``playground``.
        raw: The whole row.
    """

    created: dt.datetime | None
    status: str
    model: str | None
    usd: float
    credits: float
    inference_id: str | None
    request_id: str | None
    client_request_id: str | None
    origin: str | None
    raw: Mapping[str, object] = field(factory=dict[str, object], repr=False, eq=False)

    @property
    def failed(self) -> bool:
        """Whether the vendor calls it failed."""
        return self.status == "failed"


@frozen(kw_only=True)
class Transaction:
    """One change of the account's balance.

    Attributes:
        created: Its time, by the vendor's clock.
        direction: ``TOPUP`` for money in, ``CHARGE`` for money out.
        type: Its reason, such as ``MODEL_USAGE`` or ``PAYMENT``.
        usd: The amount in USD, never negative: `direction` says the sign.
        credits: The same in credits.
        model: The model that was paid for.
        reference_id: For a ``MODEL_USAGE``, the id of the generation.
        raw: The whole entry.
    """

    created: dt.datetime | None
    direction: str
    type: str
    usd: float
    credits: float
    model: str | None
    reference_id: str | None
    raw: Mapping[str, object] = field(factory=dict[str, object], repr=False, eq=False)


@frozen(kw_only=True)
class Budget:
    """The most that a call may spend: ``Budget(usd=20)``.

    Attributes:
        usd: In USD.
        credits: Or in credits; 2,000,000 are 1 USD.
    """

    usd: float | None = None
    credits: float | None = None

    def __attrs_post_init__(self) -> None:
        if (self.usd is None) == (self.credits is None):
            raise ConfigurationError(
                f"Budget: given usd={self.usd!r}, credits={self.credits!r}; allowed: "
                "exactly one of the two",
            )
        for name, value in (("usd", self.usd), ("credits", self.credits)):
            if value is not None:
                require_number(name, value, least=0)

    @property
    def in_credits(self) -> float:
        """The limit in credits, in whichever unit it was given."""
        if self.credits is not None:
            return self.credits
        return (self.usd or 0.0) * CREDITS_PER_USD


# The vendor's texts name "second"; a whole generation goes by several names.
_SECONDS = {"second", "sec", "s", "video_second"}

_WHOLES = {"video", "generation", "request", "item", "unit"}


@frozen(kw_only=True)
class Rate:
    """One line of a price list.

    Attributes:
        price: USD for so many units.
        per: How many units.
        unit: Of what, as the vendor names it.
        when: The parameters that it holds for, and their values.
    """

    price: float
    per: float
    unit: str
    when: Mapping[str, object]


@frozen(kw_only=True)
class PriceList:
    """How the vendor prices one model.

    Attributes:
        kind: As for `Price`.
        rates: For ``fixed``, what adds up; for ``variants``, what to choose from.
    """

    kind: PriceKind
    rates: tuple[Rate, ...] = ()

    def price_of(self, body: Mapping[str, object]) -> Price:
        """Tell what a request costs.

        Args:
            body: The request by the wire's names, with its ``model``.
        """
        model = str(body["model"])
        rates = self.rates
        if self.kind == "variants":
            rates = _best_fit(rates, body, model)
        costs = [_cost(rate, body) for rate in rates]
        known = [cost for cost in costs if cost is not None]
        if not known or len(known) < len(costs):
            return Price(model=model, kind=self.kind)
        usd = max(known) if self.kind == "variants" else sum(known)
        return Price(model=model, kind=self.kind, usd=round(usd, 9))


def _best_fit(
    rates: Sequence[Rate], body: Mapping[str, object], model: str
) -> tuple[Rate, ...]:
    """Return the fitting lines with the most conditions; the highest price counts."""
    fitting = [
        rate
        for rate in rates
        if all(
            _fits(_value_or_default(body, name, model), rate.when[name])
            for name in rate.when
        )
    ]
    most = max((len(rate.when) for rate in fitting), default=0)
    return tuple(rate for rate in fitting if len(rate.when) == most)


def _value_or_default(body: Mapping[str, object], name: str, model: str) -> object:
    """The value of a request's field, else the server's default."""
    value = body.get(name)
    known = catalogue_in_use().get(model)
    if value is None and known is not None and name in known.fields:
        return known.fields[name].default
    return value


def _fits(told: object, wanted: object) -> bool:
    if isinstance(wanted, list):
        return any(_fits(told, one) for one in cast("list[object]", wanted))
    if wanted is None or wanted is False:
        return told is None or told is False
    return told is not None and _plain(told) == _plain(wanted)


def _plain(value: object) -> str:
    """Write 5, "5" and "5.0" alike, and words without regard to case."""
    text = str(value).strip().casefold()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _cost(rate: Rate, body: Mapping[str, object]) -> float | None:
    unit = rate.unit.strip().casefold().replace("-", "_")
    names = {unit, unit.removesuffix("s")}
    if names & _WHOLES:
        return rate.price / rate.per
    seconds = video_length(body) if names & _SECONDS else None
    return None if seconds is None else rate.price / rate.per * seconds
