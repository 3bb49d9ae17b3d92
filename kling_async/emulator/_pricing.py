"""What a video costs: one table, read for the quote and for the bill.

The vendor's documents name no prices, so these are of the right order, no more;
the form in which they are quoted is the vendor's.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from kling_async._catalogue import MODELS

CREDITS_PER_USD = 2_000_000


@frozen
class Rate:
    """A price that holds under conditions.

    Attributes:
        usd: USD for a second of video.
        when: The parameters that it is for; none for any.
    """

    usd: float
    when: Mapping[str, object] = field(factory=dict[str, object])


def _with_audio(sound: float, silence: float) -> tuple[Rate, ...]:
    return Rate(sound, {"generate_audio": True}), Rate(
        silence, {"generate_audio": False}
    )


# The first part that an id contains decides.
_RATES: tuple[tuple[str, tuple[Rate, ...]], ...] = (
    ("master", (Rate(0.28),)),
    ("effects", (Rate(0.07),)),
    ("avatar-pro", (Rate(0.12),)),
    ("avatar", (Rate(0.06),)),
    ("motion-control", (Rate(0.12, {"mode": "pro"}), Rate(0.08, {"mode": "std"}))),
    ("o1", (Rate(0.12),)),
    ("v3-omni-1080p", _with_audio(0.17, 0.12)),
    ("v3-omni-720p", _with_audio(0.13, 0.09)),
    ("v3-turbo-pro", (Rate(0.11),)),
    ("v3-standard-turbo", (Rate(0.08),)),
    ("v3-pro", _with_audio(0.17, 0.12)),
    ("v3", _with_audio(0.13, 0.09)),
    ("v2-6", _with_audio(0.14, 0.07)),
    ("v2.5", (Rate(0.07),)),
    ("pro", (Rate(0.09),)),
    ("", (Rate(0.05),)),
)
# Their length is that of the sound or the film that is given.
_NOT_QUOTED = ("avatar", "motion-control", "video-to-video-edit")


def price_of(model: str, body: Mapping[str, object], length: int) -> int:
    """Return what a video costs, in credits.

    Args:
        model: The model's id.
        body: What was asked for, as checked against the catalogue.
        length: The video's length in seconds.
    """
    fields = MODELS[model].fields
    rate = next(
        rate
        for rate in _rates_of(model)
        if all(
            body.get(name, fields[name].default) == value
            for name, value in rate.when.items()
        )
    )
    return round(rate.usd * length * CREDITS_PER_USD)


def usd(credits_: float) -> float:
    """Turn credits into USD."""
    return round(credits_ / CREDITS_PER_USD, 9)


def quote_of(model: str) -> dict[str, object]:
    """Return a model's prices as ``GET /v1/models?include=pricing`` tells them."""
    if any(part in model for part in _NOT_QUOTED):
        return {"kind": "variable", "currency": "USD"}
    rates = _rates_of(model)
    if len(rates) == 1:
        return {"kind": "fixed", "currency": "USD", "units": [_unit(rates[0])]}
    return {
        "kind": "variants",
        "currency": "USD",
        "dimensions": sorted({name for rate in rates for name in rate.when}),
        "variants": [{"when": dict(it.when), **_unit(it)} for it in rates],
    }


def _rates_of(model: str) -> tuple[Rate, ...]:
    known = MODELS[model].fields
    rates = next(rates for part, rates in _RATES if part in model)
    # A model without the parameter has the first of the prices.
    applicable = tuple(it for it in rates if it.when.keys() <= known.keys())
    return applicable or (Rate(rates[0].usd),)


def _unit(rate: Rate) -> dict[str, object]:
    return {"price": rate.usd, "unit": "second", "per": 1}
