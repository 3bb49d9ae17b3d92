"""An account: its balance, and every movement that made it so.

Credits only: nothing is known of generations, keys or what time it is.
"""

from __future__ import annotations

from typing import Literal

from attrs import define, field, frozen

Direction = Literal["TOPUP", "CHARGE"]
EntryType = Literal["INIT", "MODEL_USAGE"]


@frozen(kw_only=True)
class Entry:
    """One movement of the balance.

    Attributes:
        at: When, in seconds since 1970.
        direction: Whether the balance rose or fell.
        type: What for.
        credits: How many, always positive.
        model: The model that was used, if it was for one.
        reference_id: The id of the generation that was paid for, if it was one.
    """

    at: float
    direction: Direction
    type: EntryType
    credits: float
    model: str | None = None
    reference_id: str | None = None


@define
class Account:
    """One account's credits; those of unfinished work are held back.

    Attributes:
        balance: The credits that are not spent.
        held: Those of them that unfinished generations will need.
        entries: What moved the balance, in order.
    """

    balance: float
    held: float = field(default=0, init=False)
    entries: list[Entry] = field(factory=list[Entry], init=False)

    @classmethod
    def opened(cls, credits_: float, *, at: float) -> Account:
        """Open an account with so many credits, paid in at a time."""
        account = cls(credits_)
        first = Entry(at=at, direction="TOPUP", type="INIT", credits=credits_)
        account.entries.append(first)
        return account

    def covers(self, price: float) -> bool:
        """Whether there are credits for it that are not set aside."""
        return self.balance - self.held >= price

    def hold(self, price: float) -> None:
        """Set credits aside."""
        self.held += price

    def release(self, price: float) -> None:
        """Free what was set aside: the work has failed and costs nothing."""
        self.held -= price

    def charge(self, price: float, *, at: float, model: str, reference_id: str) -> None:
        """Spend what was set aside."""
        self.held -= price
        self.balance -= price
        entry = Entry(
            at=at,
            direction="CHARGE",
            type="MODEL_USAGE",
            credits=price,
            model=model,
            reference_id=reference_id,
        )
        self.entries.append(entry)
