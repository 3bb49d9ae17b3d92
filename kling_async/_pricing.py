"""What a request costs by a model's price list: a pure sum, without I/O.

Knows what a unit is and which line of the list a request falls under; where
either is in doubt it gives no price rather than a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from attrs import frozen

from kling_async._catalogue import MODELS
from kling_async._money import Price, PriceKind

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
        costs = [_cost(rate, body, model) for rate in rates]
        known = [cost for cost in costs if cost is not None]
        if not known or len(known) < len(costs):
            return Price(model=model, kind=self.kind)
        usd = max(known) if self.kind == "variants" else sum(known)
        return Price(model=model, kind=self.kind, usd=round(usd, 9))


def _best_fit(
    rates: Sequence[Rate], body: Mapping[str, object], model: str
) -> tuple[Rate, ...]:
    """Give the lines that fit and say most; of several the dearest will count."""
    fitting = [
        rate
        for rate in rates
        if all(_fits(_told(body, name, model), rate.when[name]) for name in rate.when)
    ]
    most = max((len(rate.when) for rate in fitting), default=0)
    return tuple(rate for rate in fitting if len(rate.when) == most)


def _told(body: Mapping[str, object], name: str, model: str) -> object:
    """What a request says, else what the server takes in its place."""
    value = body.get(name)
    known = MODELS.get(model)
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


def _cost(rate: Rate, body: Mapping[str, object], model: str) -> float | None:
    unit = rate.unit.strip().casefold().replace("-", "_")
    names = {unit, unit.removesuffix("s")}
    if names & _WHOLES:
        return rate.price / rate.per
    seconds = _seconds(body, model) if names & _SECONDS else None
    return None if seconds is None else rate.price / rate.per * seconds


def _seconds(body: Mapping[str, object], model: str) -> float | None:
    """The length of the video asked for: of the whole, else of its shots."""
    whole = _number(body.get("duration"))
    if whole is not None:
        return whole
    shots = body.get("multi_prompt")
    if isinstance(shots, Sequence) and not isinstance(shots, str):
        lengths = [
            _number(cast("Mapping[str, object]", shot).get("duration"))
            for shot in cast("Sequence[object]", shots)
            if isinstance(shot, Mapping)
        ]
        if lengths and None not in lengths:
            return math.fsum(length or 0.0 for length in lengths)
    return _number(_told(body, "duration", model))


def _number(value: object) -> float | None:
    """Take a whole number of seconds, also one written as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
