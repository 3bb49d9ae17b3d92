"""A budget kept: who may still create, by what is spent and what is in flight.

Reckons in credits. Asks for prices by what it is given, and creates nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar, cast

import anyio
from attrs import define, field

from kling_async._billing.money import Budget, Price, credits_of
from kling_async._errors import (
    BudgetExceededError,
    ConfigurationError,
    GenerationFailedError,
    KlingError,
    SubmissionUncertainError,
)
from kling_async._generation import Generation
from kling_async._hooks import logger

T = TypeVar("T")

Key = tuple[str, ...]

# What a price hangs on beside the model, where the vendor quotes variants.
_PRICED_BY = ("model", "duration", "mode", "generate_audio", "resolution")

_ROUNDING = 0.5  # a credit is the least there is


@define(eq=False)
class Spending:
    """What one call spends.

    A request is let through when its cost fits beside what is spent and what is in
    flight. One that does not fit waits for what is in flight, which may cost less
    than was thought; once nothing is, it is refused, and so are all after it.

    What a request costs is what the last like it was charged, else what the vendor
    quotes. Where neither is known it goes alone: it may cost all that is left.

    Attributes:
        budget: The limit.
        price: Tells what a request costs, as far as anyone knows.
    """

    budget: Budget
    price: Callable[[Mapping[str, object]], Awaitable[Price]]
    spent: float = 0.0
    in_flight: float = 0.0
    _count: int = 0
    _charged: dict[Key, float] = field(factory=dict[Key, float])
    _is_over: bool = False
    _turn: anyio.Lock = field(factory=anyio.Lock)
    _changed: anyio.Event = field(factory=anyio.Event)

    def __attrs_post_init__(self) -> None:
        given = cast("object", self.budget)
        if not isinstance(given, Budget):
            raise ConfigurationError(
                f"budget: given {given!r}; allowed: Budget(usd=...) or "
                "Budget(credits=...)",
            )

    async def run(
        self, body: Mapping[str, object], work: Callable[[], Awaitable[Generation]]
    ) -> Generation:
        """Do work that costs money, if that fits.

        Args:
            body: The request by the wire's names, with its ``model``.
            work: Creates it, and waits for its end.

        Raises:
            BudgetExceededError: It does not fit: nothing was created.
            KlingError: Whatever the work raises.
        """
        async with self._turn:  # first come, first served
            cost = await self._admitted(body)
        held = self._left if cost is None else cost
        self.in_flight += held
        self._count += 1
        charge: float | None = None
        try:
            generation = await work()
            charge = self._charge_of(body, generation, cost)
        except KlingError as error:
            charge = _charge_after(error, cost)
            raise
        finally:
            self._settle(held, charge)
        return generation

    @property
    def _left(self) -> float:
        return max(0.0, self.budget.in_credits - self.spent - self.in_flight)

    async def _admitted(self, body: Mapping[str, object]) -> float | None:
        """Wait until a request fits; give what it costs, None where unknown."""
        quoted = await self._quoted(body)
        while True:
            cost = self._charged.get(_key(body), quoted)
            if not self._is_over and self._fits(cost):
                return cost
            if self._is_over or self._count == 0:
                self._is_over = True
                raise BudgetExceededError(
                    budget=self.budget.in_credits,
                    spent=self.spent,
                    in_flight=self.in_flight,
                    needed=cost,
                )
            await self._changed.wait()

    def _fits(self, cost: float | None) -> bool:
        if cost is None:
            return self._left > 0  # all of which it will hold
        return cost <= self._left + _ROUNDING

    async def _quoted(self, body: Mapping[str, object]) -> float | None:
        try:
            return (await self.price(body)).credits
        except KlingError as error:
            logger.warning("no price could be asked for: %s", error)
            return None

    def _charge_of(
        self, body: Mapping[str, object], generation: Generation, cost: float | None
    ) -> float | None:
        """What a completed generation was charged, as the server tells it."""
        charge = generation.credits_used or credits_of(generation.usd_spent or 0.0)
        if not charge:  # entered later: no video is free
            return cost
        self._charged[_key(body)] = charge
        return charge

    def _settle(self, held: float, charge: float | None) -> None:
        self.in_flight -= held
        self._count -= 1
        # What nobody can tell may have cost all that was held for it.
        self.spent += held if charge is None else charge
        self._changed.set()
        self._changed = anyio.Event()


def _key(body: Mapping[str, object]) -> Key:
    return tuple(str(body.get(name)) for name in _PRICED_BY)


def _charge_after(error: KlingError, cost: float | None) -> float | None:
    """What was charged for work that has no video: nothing, unless it goes on."""
    if isinstance(error, GenerationFailedError):
        return (error.generation.credits_used if error.generation else None) or 0.0
    goes_on = error.generation_id is not None and not error.is_settled
    if goes_on or isinstance(error, SubmissionUncertainError):
        return cost
    return 0.0
