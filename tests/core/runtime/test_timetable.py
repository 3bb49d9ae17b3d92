"""One alarm for all who wait in a scope, and turns for those whose time has come."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable

import anyio
import pytest
from attrs import define, field
from hypothesis import given, strategies as st
from jumping_clock import clock_that_jumps, living_tasks, on_each_loop

from kling_async._runtime.tasks import Scope
from kling_async._runtime.timers import Alarm, Timetable, Turns


@define(eq=False)
class Sleeper:
    """One who notes when it hears something."""

    rings_at: float = math.inf
    rung: list[float] = field(factory=list[float])
    woken: int = 0
    at_ring: Callable[[], None] = lambda: None

    def ring(self) -> None:
        """Note the time."""
        self.rung.append(round(anyio.current_time(), 3))
        self.at_ring()

    def wake(self) -> None:
        """Count it."""
        self.woken += 1


@on_each_loop
async def test_each_is_rung_for_at_its_time_whatever_the_order_of_asking() -> None:
    """With one task for all of them, and none once nobody waits."""
    alarm, before, start = Alarm(Scope()), living_tasks(), anyio.current_time()
    sleepers = [Sleeper() for _ in range(5)]
    for sleeper, after in zip(sleepers, (30, 10, 50, 20, 40), strict=True):
        alarm.set(sleeper, start + after)
        await anyio.wait_all_tasks_blocked()
    assert living_tasks() == before + 1
    await anyio.sleep(100)
    assert [it.rung for it in sleepers] == [
        [round(start + after, 3)] for after in (30, 10, 50, 20, 40)
    ]
    assert living_tasks() == before


@on_each_loop
async def test_the_last_time_that_was_set_is_the_one_that_counts() -> None:
    """Sooner or later than before, or none at all."""
    alarm, start = Alarm(Scope()), anyio.current_time()
    sooner, later, never = Sleeper(), Sleeper(), Sleeper()
    for sleeper in (sooner, later, never):
        alarm.set(sleeper, start + 20)
    await anyio.wait_all_tasks_blocked()
    alarm.set(sooner, start + 10)
    alarm.set(later, start + 30)
    alarm.set(never, math.inf)
    await anyio.sleep(100)
    assert [it.rung for it in (sooner, later, never)] == [
        [round(start + 10, 3)],
        [round(start + 30, 3)],
        [],
    ]


@on_each_loop
async def test_whoever_is_forgotten_is_not_rung_for() -> None:
    """And its task does not wait for the time that nobody wants."""
    alarm, before, sleeper = Alarm(Scope()), living_tasks(), Sleeper()
    alarm.set(sleeper, anyio.current_time() + 10)
    await anyio.wait_all_tasks_blocked()
    alarm.forget(sleeper)
    await anyio.wait_all_tasks_blocked()
    assert living_tasks() == before
    await anyio.sleep(20)
    assert (sleeper.rung, sleeper.woken) == ([], 0)


@given(steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=40))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_order_of_setting_and_forgetting_confuses_it(
    backend: str, steps: list[tuple[int, int]]
) -> None:
    """Each time that still holds when it comes is rung for, once; 0 forgets."""

    async def scenario() -> None:
        alarm, sleepers = Alarm(Scope()), [Sleeper() for _ in range(5)]
        expected: dict[int, list[float]] = {number: [] for number in range(5)}
        wanted: dict[int, float] = {}
        for number, after in [*steps, (0, 60), (0, 0)]:
            now = anyio.current_time()
            if after:
                alarm.set(sleepers[number], now + after)
                wanted[number] = now + after
            else:
                alarm.forget(sleepers[number])
                wanted.pop(number, None)
            await anyio.sleep(7.3)  # never at the time of another
            for other, when in list(wanted.items()):
                if when <= now + 7.3:
                    expected[other].append(round(wanted.pop(other), 3))
        await anyio.sleep(100)
        for other, when in wanted.items():
            expected[other].append(round(when, 3))
        assert [it.rung for it in sleepers] == list(expected.values())

    anyio.run(
        scenario, backend=backend, backend_options=dict(clock_that_jumps(backend))
    )


@on_each_loop
async def test_times_that_no_longer_hold_do_not_pile_up() -> None:
    """One who changes its mind ten thousand times costs no more than one entry."""
    alarm, sleeper, start = Alarm(Scope()), Sleeper(), anyio.current_time()
    for number in range(10_000):
        alarm.set(sleeper, start + 10_000 - number % 1000)
    assert len(alarm._times) < 100  # pyright: ignore[reportPrivateUsage]
    alarm.forget(sleeper)


@on_each_loop
async def test_one_that_is_rung_for_may_set_its_next_time_at_once() -> None:
    """Also for now: it is rung for again, and the others are not kept waiting."""
    alarm, start = Alarm(Scope()), anyio.current_time()
    hasty, calm = Sleeper(), Sleeper()

    def again() -> None:
        if len(hasty.rung) < 3:
            alarm.set(hasty, anyio.current_time())

    hasty.at_ring = again
    alarm.set(hasty, start + 5)
    alarm.set(calm, start + 6)
    await anyio.sleep(50)
    assert (len(hasty.rung), len(calm.rung)) == (3, 1)


@on_each_loop
async def test_all_are_woken_when_the_scope_closes() -> None:
    """Those too who wait for no time; and nothing is left."""
    scope, before = Scope(), living_tasks()
    alarm, sleepers = Alarm(scope), [Sleeper(), Sleeper()]
    alarm.set(sleepers[0], anyio.current_time() + 10)
    alarm.set(sleepers[1], math.inf)
    await anyio.wait_all_tasks_blocked()
    await scope.aclose(0)
    assert [it.woken for it in sleepers] == [1, 1]
    assert living_tasks() == before


@pytest.mark.looptime
async def test_all_are_woken_when_its_task_is_killed_and_may_ask_anew() -> None:
    """Some programs cancel every task that they find."""
    alarm, sleeper = Alarm(Scope()), Sleeper()
    alarm.set(sleeper, anyio.current_time() + 10)
    await asyncio.sleep(1)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(1)
    assert (sleeper.woken, sleeper.rung) == (1, [])
    alarm.set(sleeper, anyio.current_time() + 10)
    await asyncio.sleep(20)
    assert len(sleeper.rung) == 1


@on_each_loop
async def test_its_task_sees_nothing_of_whoever_set_it_first() -> None:
    """What it starts for others would be put down to that one."""
    user = contextvars.ContextVar("user", default="nobody")
    alarm, sleeper, seen = Alarm(Scope()), Sleeper(), list[str]()
    sleeper.at_ring = lambda: seen.append(user.get())
    user.set("me")
    alarm.set(sleeper, anyio.current_time() + 10)
    await anyio.sleep(20)
    assert seen == ["nobody"]


@on_each_loop
async def test_a_timetable_has_one_scope_for_all() -> None:
    """Closing it wakes those who wait for its alarm."""
    timetable, sleeper = Timetable(Scope(), Turns(1)), Sleeper()
    timetable.alarm.set(sleeper, math.inf)
    await timetable.scope.aclose(0)
    assert sleeper.woken == 1


def test_turns_are_taken_in_order_and_given_back() -> None:
    """No more at once than there are places; who declines takes none."""
    begun: list[int] = []

    def beginning(number: int, *, declines: bool = False) -> Callable[[], bool]:
        def begin() -> bool:
            begun.append(number)
            return not declines

        return begin

    turns = Turns(free=2)
    for number in range(4):
        turns.take(beginning(number))
    turns.take(beginning(4, declines=True))
    turns.take(beginning(5))
    assert begun == [0, 1]
    turns.give_back()
    assert begun == [0, 1, 2]
    turns.give_back()
    assert begun == [0, 1, 2, 3]
    turns.give_back()
    assert begun == [0, 1, 2, 3, 4, 5]
    assert turns.free == 0
    for _ in range(2):
        turns.give_back()
    assert turns.free == 2
