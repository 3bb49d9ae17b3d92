"""The least lateness that any schedule can have which knows the law of durations.

Dynamic programming, backwards over ages: from each, the next poll is put where
what it costs and what then follows cost least together.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence

from attrs import frozen

STEP = 1.0  # seconds from one age to the next


@frozen
class Optimum:
    """What the best schedule comes to.

    Attributes:
        polls: Its mean number of polls.
        lateness: Its mean lateness, in seconds.
    """

    polls: float
    lateness: float


@frozen
class Law:
    """How durations are spread.

    Attributes:
        finished: The share of generations that took no longer, for each age.
        waited: The seconds from completion on, up to each age, on average.
    """

    finished: Sequence[float]
    waited: Sequence[float]

    @classmethod
    def of(cls, durations: Sequence[float]) -> Law:
        """Make the law that durations follow."""
        ordered = sorted(durations)
        ages = range(int(ordered[-1] / STEP) + 2)
        finished = [bisect_right(ordered, age * STEP) / len(ordered) for age in ages]
        halves = (STEP * (a + b) / 2 for a, b in itertools.pairwise(finished))
        return cls(finished, list(itertools.accumulate(halves, initial=0.0)))

    def optimum(self, price: float, worst_gap: float) -> Optimum:
        """Find the schedule of the least ``lateness + price * polls``.

        Args:
            price: What a poll costs, in seconds of mean lateness.
            worst_gap: The longest gap between two polls, in seconds.
        """
        finished, waited = self.finished, self.waited
        reach, last = int(worst_gap / STEP), len(finished) - 1
        # From age a to a poll at b: waited[b] - waited[a] - (b - a) * finished[a].
        cost, polls, late = list(waited), [0.0] * (last + 1), [0.0] * (last + 1)
        best = last
        for age in range(last - 1, -1, -1):
            done = STEP * finished[age]
            # The best next poll is never earlier for a later age.
            ages = range(age + 1, min(best, age + reach) + 1)
            costs = [cost[it] - it * done for it in ages]
            least = min(costs)
            best = ages[costs.index(least)]
            alive = 1 - finished[age]
            cost[age] = price * alive + least + age * done
            polls[age] = alive + polls[best]
            late[age] = waited[best] - waited[age] - (best - age) * done + late[best]
        return Optimum(polls[0], late[0])


def optimum(laws: Sequence[Law], price: float, worst_gap: float) -> Optimum:
    """Find the best schedules, one for each law, where each holds equally often."""
    found = [law.optimum(price, worst_gap) for law in laws]
    return Optimum(
        sum(it.polls for it in found) / len(found),
        sum(it.lateness for it in found) / len(found),
    )


def least_lateness(laws: Sequence[Law], polls: float, worst_gap: float) -> float:
    """Find the least mean lateness at a mean number of polls."""
    cheap, dear = 1e-3, 1e3
    many, few = optimum(laws, cheap, worst_gap), optimum(laws, dear, worst_gap)
    for _ in range(12):
        price = (cheap * dear) ** 0.5
        found = optimum(laws, price, worst_gap)
        if found.polls > polls:
            cheap, many = price, found
        else:
            dear, few = price, found
    if polls <= few.polls or many.polls == few.polls:
        return few.lateness
    # In between, one of the two best schedules is taken by chance.
    share = (polls - few.polls) / (many.polls - few.polls)
    return few.lateness + share * (many.lateness - few.lateness)
