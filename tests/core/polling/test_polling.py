"""Schedules of polls: their values, their bounds, and what they refuse."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings, strategies as st

from kling_async import (
    ConfigurationError,
    Exponential,
    Fixed,
    Polling,
    PollState,
    Status,
)


def after(polls: int, chance: float = 0.5) -> PollState:
    """Make the state after so many polls; a chance of 0.5 is no jitter."""
    return PollState(polls=polls, elapsed=0.0, chance=chance)


def test_delays_grow_by_the_factor_up_to_the_maximum() -> None:
    """``initial * factor ** n``, and never more than ``maximum``."""
    schedule = Exponential(1.0, 2.0, 10.0)
    delays = [schedule.delay(after(n)) for n in range(7)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_the_defaults_are_soon_at_first_and_ten_seconds_in_the_end() -> None:
    """The vendor's own example polls each 10 s; a short job is seen sooner."""
    schedule = Exponential()
    assert [schedule.delay(after(n)) for n in (0, 1, 2)] == [1.0, 1.5, 2.25]
    assert schedule.delay(after(6)) == 10.0
    assert Fixed().delay(after(0)) == 10.0


def test_a_factor_of_one_keeps_the_initial_delay() -> None:
    """Without growth, every delay is the first one."""
    schedule = Exponential(3.0, 1.0, 60.0)
    assert {schedule.delay(after(n)) for n in (0, 1, 7, 10**6)} == {3.0}


def test_a_maximum_equal_to_the_initial_delay_is_constant() -> None:
    """The cap holds from the first poll on."""
    schedule = Exponential(3.0, 2.0, 3.0)
    assert {schedule.delay(after(n)) for n in (0, 1, 10**6)} == {3.0}


@pytest.mark.parametrize(
    "chance, delay", [(0.0, 6.0), (0.25, 7.0), (0.5, 8.0), (0.75, 9.0)]
)
def test_jitter_spreads_the_delay_evenly_to_both_sides(
    chance: float, delay: float
) -> None:
    """Chance 0 to 1 maps onto ``delay * (1 ± jitter)``, 0.5 onto the delay itself."""
    schedule = Exponential(8.0, 2.0, 100.0, jitter=0.25)
    assert schedule.delay(after(0, chance)) == delay


@given(
    initial=st.floats(1e-3, 1e3),
    factor=st.just(1.0) | st.floats(1, 100),
    growth=st.floats(1, 1e6),
    jitter=st.floats(0, 1),
    polls=st.integers(0, 50) | st.just(10**6) | st.just(10**12),
    chance=st.floats(0, 1, exclude_max=True),
)
@settings(derandomize=True, deadline=None)
def test_no_delay_leaves_its_bounds(
    initial: float,
    factor: float,
    growth: float,
    jitter: float,
    polls: int,
    chance: float,
) -> None:
    """Any schedule, however long the watch: within the jitter, without overflow."""
    maximum = initial * growth
    schedule = Exponential(initial, factor, maximum, jitter=jitter)
    base = schedule.delay(after(polls))
    slack = 1 + 1e-9
    assert initial / slack <= base <= maximum * slack
    delay = schedule.delay(after(polls, chance))
    assert base * (1 - jitter) / slack <= delay <= base * (1 + jitter) * slack
    assert base <= schedule.delay(after(polls + 1)) * slack


def test_the_same_state_gives_the_same_delay() -> None:
    """Chance comes in from outside: a schedule holds no state of its own."""
    schedule = Exponential(jitter=1.0)
    assert schedule.delay(after(3, 0.3)) == schedule.delay(after(3, 0.3))
    assert schedule == Exponential(jitter=1.0)


@pytest.mark.parametrize("polls", [0, 1, 10**6])
@pytest.mark.parametrize("chance", [0.0, 0.9])
def test_a_fixed_schedule_is_fixed(polls: int, chance: float) -> None:
    """Neither the number of polls nor chance moves it."""
    assert Fixed(2.5).delay(after(polls, chance)) == 2.5


def test_a_schedule_of_ones_own_is_a_polling() -> None:
    """One method makes one; it may use all that is known of the wait."""

    class WhileQueued:
        def delay(self, state: PollState, /) -> float:
            return 30.0 if state.status == Status.QUEUED else state.elapsed / 2

    schedule: Polling = WhileQueued()
    queued = PollState(polls=1, elapsed=8.0, status=Status.QUEUED)
    assert schedule.delay(queued) == 30.0
    assert schedule.delay(PollState(polls=1, elapsed=8.0)) == 4.0


@pytest.mark.parametrize(
    "options, told",
    [
        ({"initial": 0}, "initial: given 0; allowed: more than 0, finite"),
        ({"initial": -1.0}, "initial: given -1.0; allowed: more than 0, finite"),
        ({"initial": math.nan}, "initial: given nan; allowed: more than 0, finite"),
        ({"initial": math.inf}, "initial: given inf; allowed: more than 0, finite"),
        ({"initial": "1"}, "initial: given '1'; allowed: more than 0, finite"),
        ({"factor": 0.9}, "factor: given 0.9; allowed: 1 or more, finite"),
        ({"factor": math.nan}, "factor: given nan; allowed: 1 or more, finite"),
        ({"factor": None}, "factor: given None; allowed: 1 or more, finite"),
        ({"maximum": 0.5}, "maximum: given 0.5; allowed: 1 or more, finite"),
        (
            {"initial": 20.0},
            "maximum: given 10.0; allowed: 20 or more, finite",
        ),
        ({"maximum": math.inf}, "maximum: given inf; allowed: 1 or more, finite"),
        ({"jitter": -0.1}, "jitter: given -0.1; allowed: 0 to 1"),
        ({"jitter": 1.1}, "jitter: given 1.1; allowed: 0 to 1"),
        ({"jitter": math.nan}, "jitter: given nan; allowed: 0 to 1"),
    ],
    ids=repr,
)
def test_an_exponential_schedule_that_makes_no_sense_is_refused(
    options: dict[str, float], told: str
) -> None:
    """The message names the option, what was given and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        Exponential(**options)
    assert str(caught.value) == told


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, "10", None], ids=repr)
def test_a_fixed_schedule_that_makes_no_sense_is_refused(seconds: float) -> None:
    """A pause is a finite number of seconds above zero."""
    with pytest.raises(ConfigurationError) as caught:
        Fixed(seconds)
    assert str(caught.value) == (
        f"seconds: given {seconds!r}; allowed: more than 0, finite"
    )


@pytest.mark.parametrize("jitter", [0, 1])
def test_the_bounds_themselves_are_allowed(jitter: float) -> None:
    """No jitter and full jitter, no growth and no room to grow are all sound."""
    assert Exponential(1, 1, 1, jitter=jitter).delay(after(1)) == 1
