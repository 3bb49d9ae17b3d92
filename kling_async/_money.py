"""What the vendor tells of money, as values: in USD, and in credits.

Reading JSON is the business of `_wire_account`; asking, of `_account`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from kling_async._errors import ConfigurationError
from kling_async._polling import require

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
    """What the account holds.

    Attributes:
        usd: In USD; less than nothing is possible, the vendor allows overdraft.
        currency: What the vendor calls the currency.
    """

    usd: float
    currency: str = "USD"

    @property
    def credits(self) -> int:
        """In credits; 2,000,000 are 1 USD."""
        return credits_of(self.usd)


@frozen(kw_only=True)
class Price:
    """What a request will cost, as far as the vendor quotes it.

    False where nobody can say: ``if price: print(price.usd)``.

    Attributes:
        model: The model that was asked about.
        kind: How the vendor prices it: ``fixed``; ``variants``, by the request's
            parameters; ``variable``, not to be told beforehand; ``unknown``,
            where it says nothing.
        usd: The price in USD. None for ``variable`` and ``unknown``, and where
            the price hangs on what the request does not say, such as the
            length of a video that is sent along.
    """

    model: str
    kind: PriceKind
    usd: float | None = None

    @property
    def credits(self) -> int | None:
        """The price in credits, None where it is not known."""
        return None if self.usd is None else credits_of(self.usd)

    def __bool__(self) -> bool:
        return self.usd is not None


@frozen(kw_only=True)
class LogRow:
    """One request as the vendor's log lists it; failed ones are there too.

    Attributes:
        created: When it came, by the vendor's clock.
        status: ``succeeded`` or ``failed``. A failed request costs nothing.
        model: The model's id.
        usd: What it cost, in USD; a video is charged only once it is completed.
        credits: Likewise, in credits.
        inference_id: For a generation, its id.
        request_id: The vendor's id of the HTTP request.
        client_request_id: The id that the caller sent with it.
        origin: ``api`` or ``playground``.
        raw: The row as it came.
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
    """One movement of the account's balance.

    Attributes:
        created: When, by the vendor's clock.
        direction: ``TOPUP`` for money in, ``CHARGE`` for money out.
        type: What for, such as ``MODEL_USAGE`` or ``PAYMENT``.
        usd: How much, in USD; never negative, `direction` carries the sign.
        credits: Likewise, in credits.
        model: The model that was paid for.
        reference_id: For a ``MODEL_USAGE``, the id of the generation.
        raw: The entry as it came.
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
                require(name, value, least=0)

    @property
    def in_credits(self) -> float:
        """The limit in credits, in whichever unit it was given."""
        if self.credits is not None:
            return self.credits
        return (self.usd or 0.0) * CREDITS_PER_USD
