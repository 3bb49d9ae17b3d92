"""What schedules come to in simulated worlds: the aims, with some room.

Seeded numbers only; the figures in the documentation are from more of them.
"""

from __future__ import annotations

from functools import cache

import pytest
from polling_optimum import Law, least_lateness
from polling_worlds import WORLDS, Figures, World, simulate

from kling_async import Exponential, Fixed, Learned

COUNT = 700
by_name = {world.name: world for world in WORLDS}
VARYING = by_name["varying by 12 %"]


@cache
def learned_in(world: World) -> Figures:
    """Let `Learned` wait, and count from the 50th generation on."""
    return simulate(world, Learned(), COUNT)


@pytest.mark.parametrize("world", WORLDS, ids=[world.name for world in WORLDS])
def test_learned_is_better_than_exponential_at_both_figures(world: World) -> None:
    """Fewer polls and earlier news, whatever durations are like."""
    learned, back_off = learned_in(world), simulate(world, Exponential(), COUNT)
    assert learned.polls < 0.85 * back_off.polls
    assert learned.lateness < 0.95 * back_off.lateness


@pytest.mark.parametrize("world", WORLDS, ids=[world.name for world in WORLDS])
def test_a_new_learned_is_earlier_than_exponential(world: World) -> None:
    """Also while it has seen nothing yet."""
    learned = simulate(world, Learned(), 20, learned=0)
    back_off = simulate(world, Exponential(), 20, learned=0)
    assert learned.lateness < 1.2 * back_off.lateness


@pytest.mark.parametrize(
    "world", [it for it in WORLDS if it.period == 1], ids=lambda world: world.name
)
def test_learned_is_near_the_optimum(world: World) -> None:
    """The aim is 1.25 times the least lateness that as many polls can have."""
    learned = learned_in(world)
    laws = [Law.of(durations) for durations in world.laws(draws=5000)]
    least = least_lateness(laws, learned.polls, worst_gap=30)
    assert learned.lateness < 1.25 * least


def test_a_longer_worst_gap_saves_two_polls_of_three() -> None:
    """Against the vendor's loop, one poll each 10 s, at no greater lateness."""
    learned = simulate(VARYING, Learned(1.0, 10.3, worst_gap=300), 2000)
    fixed = simulate(VARYING, Fixed(10), 2000)
    assert learned.polls <= 0.3 * fixed.polls
    assert learned.lateness <= fixed.lateness


@pytest.mark.parametrize("polls", [14, 20, 40])
def test_a_budget_of_polls_is_kept_on_average(polls: float) -> None:
    """The caller says how many; lateness is what they leave."""
    found = simulate(VARYING, Learned(0.1, polls), COUNT)
    assert 0.9 * polls < found.polls < 1.02 * polls


def test_the_optimum_of_a_known_duration_is_one_poll_at_its_end() -> None:
    """With a bound on the gap, as few as reach it, and nothing late."""
    law = Law.of([100.0] * 10)
    best = law.optimum(price=0.1, worst_gap=30)
    assert best.polls == pytest.approx(4)
    assert best.lateness == pytest.approx(0, abs=0.6)


@pytest.mark.parametrize("world", [WORLDS[1], WORLDS[3]], ids=lambda world: world.name)
@pytest.mark.parametrize("schedule", [Fixed(4), Fixed(8), Exponential()], ids=repr)
def test_no_schedule_is_better_than_the_optimum(
    world: World, schedule: Fixed | Exponential
) -> None:
    """What the yardstick is worth: nothing passes it."""
    found = simulate(world, schedule, 3000, learned=0)
    laws = [Law.of(durations) for durations in world.laws(draws=5000)]
    assert found.lateness > least_lateness(laws, found.polls, worst_gap=30)
