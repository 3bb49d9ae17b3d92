"""Prices and the ledger: what a video costs, and every change of the balance.

Knows no generation, no key and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import define, field, frozen

from kling_async._billing.money import credits_of
from kling_async._requests.catalogue import catalogue_in_use


@frozen
class PriceRule:
    """A price under conditions.

    Attributes:
        usd: USD for a second of video.
        when: The parameters that it applies to; empty for all.
    """

    usd: float
    when: Mapping[str, object] = field(factory=dict[str, object])


def _with_audio(sound: float, silence: float) -> tuple[PriceRule, ...]:
    return PriceRule(sound, {"generate_audio": True}), PriceRule(
        silence, {"generate_audio": False}
    )


# The first entry whose text is in the model's id applies.
_PRICES: tuple[tuple[str, tuple[PriceRule, ...]], ...] = (
    ("master", (PriceRule(0.28),)),
    ("effects", (PriceRule(0.07),)),
    ("avatar-pro", (PriceRule(0.12),)),
    ("avatar", (PriceRule(0.06),)),
    (
        "motion-control",
        (PriceRule(0.12, {"mode": "pro"}), PriceRule(0.08, {"mode": "std"})),
    ),
    ("o1", (PriceRule(0.12),)),
    ("v3-omni-1080p", _with_audio(0.17, 0.12)),
    ("v3-omni-720p", _with_audio(0.13, 0.09)),
    ("v3-turbo-pro", (PriceRule(0.11),)),
    ("v3-standard-turbo", (PriceRule(0.08),)),
    ("v3-pro", _with_audio(0.17, 0.12)),
    ("v3", _with_audio(0.13, 0.09)),
    ("v2-6", _with_audio(0.14, 0.07)),
    ("v2.5", (PriceRule(0.07),)),
    ("pro", (PriceRule(0.09),)),
    ("", (PriceRule(0.05),)),
)

# Their length is that of the given sound or video.
_NOT_QUOTED = ("avatar", "motion-control", "video-to-video-edit")


def price_of(model: str, body: Mapping[str, object], length: int) -> int:
    """Return what a video costs, in credits.

    Args:
        model: The model's id.
        body: The create's body, checked against the catalogue.
        length: The video's length in seconds.
    """
    fields = catalogue_in_use()[model].fields
    rate = next(
        rate
        for rate in _prices_of(model)
        if all(
            body.get(name, fields[name].default) == value
            for name, value in rate.when.items()
        )
    )
    return credits_of(rate.usd * length)


def quote_of(model: str) -> dict[str, object]:
    """Return a model's prices in the form of ``GET /v1/models?include=pricing``."""
    if any(part in model for part in _NOT_QUOTED):
        return {"kind": "variable", "currency": "USD"}
    rates = _prices_of(model)
    if len(rates) == 1:
        return {"kind": "fixed", "currency": "USD", "units": [_unit(rates[0])]}
    return {
        "kind": "variants",
        "currency": "USD",
        "dimensions": sorted({name for rate in rates for name in rate.when}),
        "variants": [{"when": dict(it.when), **_unit(it)} for it in rates],
    }


def _prices_of(model: str) -> tuple[PriceRule, ...]:
    known = catalogue_in_use()[model].fields
    rates = next(rates for part, rates in _PRICES if part in model)
    # A model without the parameter has the first of the prices.
    applicable = tuple(it for it in rates if it.when.keys() <= known.keys())
    return applicable or (PriceRule(rates[0].usd),)


def _unit(rate: PriceRule) -> dict[str, object]:
    return {"price": rate.usd, "unit": "second", "per": 1}


Direction = Literal["TOPUP", "CHARGE"]

EntryType = Literal["INIT", "PAYMENT", "MODEL_USAGE"]


@frozen(kw_only=True)
class LedgerEntry:
    """One change of the balance.

    Attributes:
        at: Its time, in seconds since 1970.
        direction: Whether the balance rose or fell.
        type: Its reason.
        credits: How many credits, always positive.
        model: The model used, if any.
        reference_id: The id of the generation that was paid for, if any.
    """

    at: float
    direction: Direction
    type: EntryType
    credits: float
    model: str | None = None
    reference_id: str | None = None


@define
class Ledger:
    """One account's credits; those for unfinished work are reserved.

    Attributes:
        balance: The credits that are not spent.
        held: The part of them that is reserved for unfinished generations.
        entries: The changes of the balance, in order.
    """

    balance: float
    held: float = field(default=0, init=False)
    entries: list[LedgerEntry] = field(factory=list[LedgerEntry], init=False)

    @classmethod
    def open(cls, credits_: float, *, at: float) -> Ledger:
        """Open an account with a first payment of credits."""
        account = cls(credits_)
        first = LedgerEntry(at=at, direction="TOPUP", type="INIT", credits=credits_)
        account.entries.append(first)
        return account

    def top_up(self, credits_: float, *, at: float) -> None:
        """Add credits."""
        self.balance += credits_
        entry = LedgerEntry(at=at, direction="TOPUP", type="PAYMENT", credits=credits_)
        self.entries.append(entry)

    def covers(self, price: float) -> bool:
        """Whether there are enough credits that are not reserved."""
        return self.balance - self.held >= price

    def hold(self, price: float) -> None:
        """Reserve credits."""
        self.held += price

    def release(self, price: float) -> None:
        """Release reserved credits: the work has failed and costs nothing."""
        self.held -= price

    def charge(self, price: float, *, at: float, model: str, reference_id: str) -> None:
        """Spend reserved credits."""
        self.held -= price
        self.balance -= price
        entry = LedgerEntry(
            at=at,
            direction="CHARGE",
            type="MODEL_USAGE",
            credits=price,
            model=model,
            reference_id=reference_id,
        )
        self.entries.append(entry)
