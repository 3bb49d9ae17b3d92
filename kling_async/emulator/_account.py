"""What a video costs here, and whether the account can pay for it.

Credits only: nothing is known of generations, keys or time.
"""

from __future__ import annotations

from attrs import define, field

CREDITS_PER_USD = 2_000_000

# USD for a second of video; the first part that an id contains decides. The
# vendor's texts name no prices: these are of the right order, no more.
_USD_PER_SECOND: tuple[tuple[str, float], ...] = (
    ("master", 0.28),
    ("effects", 0.07),
    ("avatar-pro", 0.12),
    ("avatar", 0.06),
    ("motion-control", 0.12),
    ("o1", 0.12),
    ("v3-omni-1080p", 0.17),
    ("v3-omni-720p", 0.13),
    ("v3-turbo-pro", 0.11),
    ("v3-standard-turbo", 0.08),
    ("v3-pro", 0.17),
    ("v3", 0.13),
    ("v2-6", 0.14),
    ("v2.5", 0.07),
    ("pro", 0.09),
    ("", 0.05),
)


def price_of(model: str, length: int) -> int:
    """Return what a video of so many seconds costs, in credits."""
    rate = next(rate for part, rate in _USD_PER_SECOND if part in model)
    return round(rate * length * CREDITS_PER_USD)


def usd(credits_: float) -> float:
    """Turn credits into USD."""
    return round(credits_ / CREDITS_PER_USD, 6)


@define
class Account:
    """One account's credits; those of unfinished work are held back.

    Attributes:
        balance: The credits that are not spent.
        held: Those of them that unfinished generations will need.
    """

    balance: float
    held: float = field(default=0, init=False)

    def hold(self, price: float) -> bool:
        """Set credits aside, or say that there are too few."""
        if self.balance - self.held < price:
            return False
        self.held += price
        return True

    def settle(self, price: float, *, charged: bool) -> None:
        """Spend what was set aside, or free it."""
        self.held -= price
        if charged:
            self.balance -= price
