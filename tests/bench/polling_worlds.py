"""Worlds in which generations take their time, and what schedules meet there.

Each is made of draws from a seeded generator of numbers: nothing is awaited, no
clock is read.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from random import Random

from attrs import frozen

from kling_async import Completion, LearningPolling, Polling, PollState

SPACING = 30.0  # seconds from one create to the next
DAY = round(24 * 3600 / SPACING)
LONGEST = 1800.0  # seconds after which a client gives up
MASTER = "klingai/v2-master-image-to-video"
V3 = "klingai/video-v3-standard-image-to-video"

Draw = Callable[[Random, int], float]


@frozen
class World:
    """How long generations take.

    Attributes:
        name: What it is like.
        draw: Gives the duration, in seconds, of the generation of a number.
        model: What the schedule is told that it waits for.
        period: After how many generations the law of durations comes again.
    """

    name: str
    draw: Draw
    model: str = MASTER
    period: int = 1

    def durations(self, count: int, seed: int) -> list[float]:
        """Draw the durations of so many generations, one after another."""
        random = Random(f"{self.name} {seed}")
        return [min(LONGEST, self.draw(random, number)) for number in range(count)]

    def laws(self, parts: int = 48, draws: int = 20_000) -> list[list[float]]:
        """Draw from each part of a period, to know how durations are spread there."""
        random = Random(f"{self.name} law")
        step = max(1, self.period // parts)
        return [
            [min(LONGEST, self.draw(random, number)) for _ in range(draws)]
            for number in range(step // 2, self.period, step)
        ] or self.laws(1, draws)


def log_normal(random: Random, median: float, spread: float) -> float:
    """Draw a duration that varies by a share of itself."""
    return random.lognormvariate(math.log(median), spread)


def rush_hour(random: Random, number: int) -> float:
    """Wait in a queue, long before noon and again in the afternoon, then be made."""
    hour = number % DAY / DAY * 24
    queue = 5 + 400 * math.exp(-(((hour - 10) / 1.5) ** 2))
    queue += 250 * math.exp(-((hour - 16) ** 2))
    return log_normal(random, queue, 0.3) + log_normal(random, 330, 0.12)


def drifting(random: Random, number: int) -> float:
    """Get slower and faster: from 235 s to 520 s and back in 1,000 generations."""
    median = 350 * math.exp(0.4 * math.sin(2 * math.pi * number / 1000))
    return log_normal(random, median, 0.12)


def bimodal(random: Random, _number: int) -> float:
    """Be made by one of two machines, the other of which is half as fast."""
    return log_normal(random, 200 if random.random() < 0.6 else 420, 0.08)


def heavy_tailed(random: Random, _number: int) -> float:
    """Take 200 s at least, and much longer now and then (Pareto, 1.5)."""
    return 140 + 60 * random.paretovariate(1.5)


WORLDS = (
    World("varying by 12 %", lambda random, _: log_normal(random, 330, 0.12)),
    World("varying by 30 %", lambda random, _: log_normal(random, 330, 0.3)),
    World("short: 135 s, 12 %", lambda random, _: log_normal(random, 135, 0.12), V3),
    World("bimodal", bimodal),
    World("heavy tail", heavy_tailed),
    World("uniform", lambda random, _: random.uniform(120, 540)),
    World("drifting", drifting, period=1000),
    World("rush hour", rush_hour, period=DAY),
)


@frozen
class Figures:
    """What a schedule came to.

    Attributes:
        polls: Its mean number of polls for a generation.
        lateness: From completion to the poll that saw it, in seconds, on average.
        worst: The same, of the 95th of a hundred.
    """

    polls: float
    lateness: float
    worst: float


def simulate(
    world: World,
    polling: Polling,
    count: int,
    *,
    learned: int = 50,
    seed: int = 1,
) -> Figures:
    """Let a schedule wait for generations, one created every 30 s.

    Args:
        world: Where they come from.
        polling: The schedule; one that learns is told of each that finished.
        count: How many generations there are.
        learned: How many have to be finished before one created then counts.
        seed: Which draw of durations and jitter.
    """
    durations, random = world.durations(count, seed), Random(seed)
    due = [(number * SPACING, number, 0, 0.0) for number in range(count)]
    seen: list[tuple[int, float]] = []
    finished, first = itertools.count(1), count if learned else 0
    heapq.heapify(due)
    while due:
        now, number, polls, last = heapq.heappop(due)
        age = now - number * SPACING
        if age >= durations[number]:
            if isinstance(polling, LearningPolling):
                polling.observe(_completion(world, last, age))
            if next(finished) == learned:
                first = int(now / SPACING) + 1
            seen += [(polls, age - durations[number])] if number >= first else []
            continue
        state = PollState(
            polls=polls,
            elapsed=age,
            chance=random.random(),
            age=age,
            model=world.model,
            video_length=5,
        )
        step = polling.delay(state)
        heapq.heappush(due, (now + step, number, polls + 1, age))
    return _figures(seen)


def _completion(world: World, after: float, by: float) -> Completion:
    return Completion(model=world.model, video_length=5, after=after, by=by)


def _figures(seen: Sequence[tuple[int, float]]) -> Figures:
    late = sorted(lateness for _, lateness in seen)
    return Figures(
        polls=sum(polls for polls, _ in seen) / len(seen),
        lateness=sum(late) / len(late),
        worst=late[int(0.95 * len(late))],
    )
