"""Where polls are worth most: from durations seen to a pace of polling.

Pure arithmetic on seconds: no clock, no I/O, and nothing of models or generations.
The rule is Keller's ("Optimum checking schedules for systems subject to random
failure", Management Science 21, 1974): at a hazard of ``h``, polls
``sqrt(2 * price / h)`` apart waste the least time.
"""

from __future__ import annotations

import itertools
import math
import operator
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from attrs import frozen

Span: TypeAlias = tuple[float, float]
"""A duration as polls tell it: more than so many seconds, at most so many."""

# A span counts half as much as one that is so many newer: drift is followed.
_HALF_LIFE = 32
# A span is widened up to so many neighbours: few spans make a smooth curve.
_NEIGHBOURS = 5
# News of a short wait is late sooner: by a fifth of it.
_SHORT = 0.2
_LEAST_AIM = 0.25
# Prices to choose from, in seconds of mean lateness for a poll: 0.1 ms to 1 h.
_PRICES = [1e-4 * 1.035**step for step in range(512)]


@frozen
class Pace:
    """When to poll, at every age.

    Attributes:
        ages: Where the pace changes, in seconds since the create, from 0 on.
        polls: How many polls are due before each of these ages.
        last_gap: The gap at the last of them, in seconds.
    """

    ages: Sequence[float]
    polls: Sequence[float]
    last_gap: float

    def gap(self, age: float) -> float:
        """Tell how many seconds after an age the next poll is due.

        Args:
            age: Seconds since the create.
        """
        end = self.ages[-1]
        if age >= end:
            # Reality has left what is known: exponential back-off from there.
            return self.last_gap + (age - end) / 2
        due = interpolated(age, self.ages, self.polls) + 1
        if due >= self.polls[-1]:
            return end + (due - self.polls[-1]) * self.last_gap - age
        return interpolated(due, self.polls, self.ages) - age


def pace_of(
    spans: Sequence[Span],
    *,
    lateness: float,
    polls: float | None,
    worst_gap: float,
) -> Pace:
    """Place polls where generations like these finish.

    Args:
        spans: One or more, the newest last.
        lateness: The mean lateness to aim at, in seconds.
        polls: The most polls for a generation, on average; None for no bound.
            It comes before ``lateness``.
        worst_gap: The longest gap between two polls, in seconds. It comes first.
    """
    typical = statistics.median(math.fsum(span) / 2 for span in spans)
    aim = min(lateness, max(_LEAST_AIM, _SHORT * typical))
    curve = _Curve(*_stretches(_widened(spans)), aim / 2, worst_gap)
    price = curve.price_of_lateness(aim)
    if polls is not None:
        price = max(price, curve.price_of_polls(polls))
    gaps = curve.gaps(price)
    return Pace(
        ages=_sums(curve.seconds),
        polls=_sums(map(operator.truediv, curve.seconds, gaps)),
        last_gap=min(worst_gap, max(gaps[-1], 2 * aim)),
    )


@frozen
class _Curve:
    """When generations finish, and what polls along the way bring at a price.

    Ages are cut into stretches over each of which the chance of completion is
    even. The price of a poll is the mean lateness, in seconds, that it has to save.

    Attributes:
        seconds: How long each stretch is.
        masses: The share of all generations that finish in it.
        lives: The seconds that a generation lives through in it, on average.
        least_gap: The shortest gap between two polls, in seconds.
        worst_gap: The longest.
    """

    seconds: Sequence[float]
    masses: Sequence[float]
    lives: Sequence[float]
    least_gap: float
    worst_gap: float

    def gaps(self, price: float) -> list[float]:
        """Give the gap between polls in each stretch."""
        least, worst = self.least_gap, self.worst_gap
        return [
            min(worst, max(least, math.sqrt(2 * price * life / mass)))
            if mass
            else worst
            for life, mass in zip(self.lives, self.masses, strict=True)
        ]

    def lateness(self, price: float) -> float:
        """Give the mean lateness: half the gap in which a generation finishes."""
        late = math.fsum(map(operator.mul, self.masses, self.gaps(price)))
        return late / 2 / math.fsum(self.masses)

    def polls(self, price: float) -> float:
        """Give the mean number of polls, with half a poll for the last gap."""
        return 0.5 + math.fsum(map(operator.truediv, self.lives, self.gaps(price)))

    def price_of_lateness(self, lateness: float) -> float:
        """Give the highest price at which news is not later than that."""
        at = bisect_right(_PRICES, lateness, key=self.lateness)
        return _PRICES[max(0, at - 1)]

    def price_of_polls(self, polls: float) -> float:
        """Give the lowest price at which there are not more polls than that."""
        at = bisect_left(_PRICES, -polls, key=lambda price: -self.polls(price))
        return _PRICES[min(at, len(_PRICES) - 1)]


def _widened(spans: Sequence[Span]) -> list[tuple[float, float, float]]:
    """Spread each span over its neighbours; give start, end and weight of each."""
    newest = len(spans) - 1
    weights = (0.5 ** ((newest - age) / _HALF_LIFE) for age in range(len(spans)))
    ordered = sorted(zip(spans, weights, strict=True), key=lambda it: sum(it[0]))
    middles = [math.fsum(span) / 2 for span, _ in ordered]
    reach = min(_NEIGHBOURS, newest)
    # Beyond both ends the curve is mirrored.
    before = [2 * middles[0] - it for it in middles[reach:0:-1]]
    after = [2 * middles[-1] - it for it in middles[-2 : -2 - reach : -1]]
    around = [*before, *middles, *after]
    widened: list[tuple[float, float, float]] = []
    for place, ((start, end), weight) in enumerate(ordered):
        low, high = min(start, around[place]), max(end, around[place + 2 * reach])
        widened.append((max(0.0, min(low, 0.99 * high)), high, weight))
    return widened


def _stretches(
    spans: Sequence[tuple[float, float, float]],
) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    """Lay spans over each other; give what `_Curve` asks of each stretch between."""
    # One part is left for what has never been seen: as much as the newest span.
    total = 1 + math.fsum(weight for _, _, weight in spans)
    changes: list[tuple[float, float]] = []
    for start, end, weight in spans:
        rate = weight / total / (end - start)
        changes += [(start, rate), (end, -rate)]
    stretches: list[tuple[float, float, float]] = []
    age = rate = 0.0
    alive = 1.0
    for until, change in sorted(changes):
        if until > age:
            seconds = until - age
            mass = max(0.0, rate) * seconds
            stretches.append((seconds, mass, (alive - mass / 2) * seconds))
            age, alive = until, alive - mass
        rate += change
    seconds_of, masses, lives = zip(*stretches, strict=True)
    return seconds_of, masses, lives


def _sums(numbers: Iterable[float]) -> Sequence[float]:
    return tuple(itertools.accumulate(numbers, initial=0.0))


def interpolated(
    place: float, places: Sequence[float], values: Sequence[float]
) -> float:
    """Read a value between two places, the last of which lies above this one."""
    at = bisect_right(places, place) - 1
    share = (place - places[at]) / (places[at + 1] - places[at])
    return values[at] + share * (values[at + 1] - values[at])
