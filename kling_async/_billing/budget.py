"""Keeps a budget: decides by spending and quotes whether a create may be sent.

Counts in credits. Creates nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar, cast

import anyio
from attrs import define, field

from kling_async._billing.money import Budget, Price, credits_of
from kling_async._checks import require
from kling_async._errors import (
    BudgetExceededError,
    KlingError,
)
from kling_async._failures import may_be_accepted
from kling_async._generation import Generation, Status
from kling_async._hooks import logger
from kling_async._runtime.loop import new_event, new_lock

T = TypeVar("T")

Key = tuple[str, ...]

# Fields that no price depends on. A price may depend on any other: sound, shots, the
# length of reference media, which is the same at the same URL.
_PRICELESS = frozenset(
    "prompt negative_prompt image_url tail_image_url last_image_url image_list "
    "static_mask dynamic_masks cfg_scale external_task_id camera_control "
    "advanced_camera_control".split()
)

# Seconds until a price list that could not be read is read again.
_PRICES_AGAIN = 300.0

_ROUNDING = 0.5  # a credit is the smallest amount


@define(eq=False, repr=False)
class BudgetTracker:
    """What one call has spent, and may still spend.

    A request is admitted if its cost, the spending and the costs in flight fit the
    budget. Otherwise it waits for the requests in flight, which may cost less than
    quoted; once none is left, it is refused, and so are all after it.

    The cost of a request is the vendor's quote, or the highest charge of a similar
    request, if that is more. If neither is known, it runs alone, with all that is
    left: it may cost more than that.

    Attributes:
        budget: The limit.
        price: Fetches the price of a request.
    """

    budget: Budget
    price: Callable[[Mapping[str, object]], Awaitable[Price]]
    spent: float = 0.0
    in_flight: float = 0.0
    _count: int = 0
    _charged: dict[Key, float] = field(factory=dict[Key, float])
    _ask_again_at: dict[str, float] = field(factory=dict[str, float])
    _is_over: bool = False
    _lock: anyio.Lock = field(factory=new_lock)
    _changed: anyio.Event = field(factory=new_event)

    def __attrs_post_init__(self) -> None:
        given = cast("object", self.budget)
        allowed = "Budget(usd=...) or Budget(credits=...)"
        require("budget", given, allowed, fits=isinstance(given, Budget))

    async def run(
        self, body: Mapping[str, object], work: Callable[[], Awaitable[Generation]]
    ) -> Generation:
        """Do work that costs money, if it fits the budget.

        Args:
            body: The request by the wire's names, with its ``model``.
            work: Creates it, and waits for its end.

        Raises:
            BudgetExceededError: It does not fit: nothing was created.
            KlingError: Whatever the work raises.
        """
        async with self._lock:  # first come, first served
            cost = await self._admit(body)
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

    async def _admit(self, body: Mapping[str, object]) -> float | None:
        """Wait until a request fits; give what it costs, None where unknown."""
        quoted = await self._quote(body)
        while True:
            known = [
                it for it in (quoted, self._charged.get(_key(body))) if it is not None
            ]
            cost = max(known, default=None)
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

    async def _quote(self, body: Mapping[str, object]) -> float | None:
        model = str(body.get("model"))
        if anyio.current_time() < self._ask_again_at.get(model, -math.inf):
            return None
        try:
            return (await self.price(body)).credits
        except KlingError as error:
            logger.warning("could not read the price: %s", error)
            self._ask_again_at[model] = anyio.current_time() + _PRICES_AGAIN
            return None

    def _charge_of(
        self, body: Mapping[str, object], generation: Generation, cost: float | None
    ) -> float | None:
        """What a completed generation was charged, as the server tells it."""
        charge = generation.credits_used or credits_of(generation.usd_spent or 0.0)
        if not charge:  # entered later: no video is free
            return cost
        key = _key(body)
        self._charged[key] = max(charge, self._charged.get(key, 0.0))
        return charge

    def _settle(self, held: float, charge: float | None) -> None:
        self.in_flight -= held
        self._count -= 1
        # If its charge is unknown, it may have cost all that was reserved for it.
        self.spent += held if charge is None else charge
        self._changed.set()
        self._changed = anyio.Event()


def _key(body: Mapping[str, object]) -> Key:
    named = {name: it for name, it in body.items() if name not in _PRICELESS}
    return tuple(f"{name}={_shape(named[name])}" for name in sorted(named))


def _shape(value: object) -> str:
    """Return the fields that a price may depend on; of shots only their lengths."""
    if isinstance(value, Mapping):
        return f"({', '.join(_key(cast('Mapping[str, object]', value)))})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shape, cast('list[object]', value)))}]"
    return str(hash(value)) if isinstance(value, bytes) else str(value)


def _charge_after(error: KlingError, cost: float | None) -> float | None:
    """What was charged for work that has no video: nothing, unless it goes on."""
    generation = error.generation
    if generation is not None and generation.is_terminal:
        is_paid = generation.status == Status.COMPLETED  # its video is unreadable
        return generation.credits_used or (cost if is_paid else 0.0)
    may_exist = error.generation_id is not None or may_be_accepted(error)
    return cost if may_exist else 0.0
