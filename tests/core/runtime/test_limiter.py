"""The limiter: who goes next, what a refusal changes, and that no slot is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import anyio
import pytest
from jumping_clock import on_each_loop

from kling_async import ClientClosedError
from kling_async._runtime.limiter import Kind, Limiter, Slot
from kling_async._runtime.loop import loop_here


def limiter_of(slots: int) -> Limiter:
    """Give a limiter of the running loop."""
    return Limiter(loop_here(), slots)


async def order_of(limiter: Limiter, kinds: list[Kind], held: list[Slot]) -> list[Kind]:
    """Let them queue up in this order; tell in which they began."""
    begun: list[Kind] = []

    async def one(kind: Kind) -> None:
        with await limiter.acquire(kind):
            begun.append(kind)

    async with anyio.create_task_group() as tasks:
        for kind in kinds:
            tasks.start_soon(one, kind)
            await anyio.wait_all_tasks_blocked()
        for slot in held:
            slot.release()
    return begun


@on_each_loop
async def test_the_highest_class_goes_first() -> None:
    """A create before what a person awaits, then downloads, then polls."""
    limiter = limiter_of(1)
    held = [await limiter.acquire(Kind.POLL)]
    queue = [Kind.POLL, Kind.DOWNLOAD, Kind.AWAITED, Kind.CREATE]
    assert await order_of(limiter, queue, held) == queue[::-1]


@on_each_loop
async def test_no_class_starves() -> None:
    """A poll that came before a hundred creates is not the last of all."""
    limiter = limiter_of(1)
    held = [await limiter.acquire(Kind.AWAITED)]
    begun = await order_of(limiter, [Kind.POLL, *[Kind.CREATE] * 100], held)
    assert 0 < begun.index(Kind.POLL) < 10


@on_each_loop
async def test_one_class_is_served_in_the_order_in_which_it_came() -> None:
    """First come, first served."""
    limiter, begun = limiter_of(1), list[int]()

    async def one(number: int) -> None:
        with await limiter.acquire(Kind.AWAITED):
            begun.append(number)

    first = await limiter.acquire(Kind.AWAITED)
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
        first.release()
    assert begun == list(range(10))


@on_each_loop
async def test_a_slot_that_is_given_back_twice_is_given_back_once() -> None:
    """Whoever has it next keeps it."""
    limiter = limiter_of(1)
    first = await limiter.acquire(Kind.AWAITED)
    first.release()
    second = await limiter.acquire(Kind.AWAITED)
    first.release()
    with pytest.raises(TimeoutError):
        await limiter.acquire(Kind.AWAITED, anyio.current_time() + 5)
    second.release()
    (await limiter.acquire(Kind.AWAITED)).release()


@on_each_loop
async def test_downloads_leave_slots_for_the_rest() -> None:
    """They take minutes: at most sixteen at once, and at most half of all."""
    for slots, most in ((1, 1), (4, 2), (100, 16)):
        limiter = limiter_of(slots)
        for _ in range(most):
            await limiter.acquire(Kind.DOWNLOAD)
        with pytest.raises(TimeoutError):
            await limiter.acquire(Kind.DOWNLOAD, anyio.current_time() + 5)
        for _ in range(slots - most):  # polls may have all that is left
            await limiter.acquire(Kind.POLL, anyio.current_time() + 5)


async def refuse(limiter: Limiter, kind: Kind, pause: float) -> Slot:
    """Be refused once."""
    with await limiter.acquire(kind) as slot:
        slot.refuse(pause)
    return slot


async def begun_within(limiter: Limiter, seconds: float, kind: Kind) -> list[float]:
    """Tell when those of a hundred begin that begin within so many seconds."""
    began: list[float] = []

    async def one() -> None:
        with await limiter.acquire(kind) as slot:
            began.append(anyio.current_time())
            await anyio.sleep(0.05)
            slot.accept()

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(one)
    return began


@on_each_loop
async def test_after_a_refusal_half_as_many_begin_and_not_at_once() -> None:
    """Nobody in the pause, and nobody in a herd at its end."""
    limiter = limiter_of(100)
    held = [await limiter.acquire(Kind.AWAITED) for _ in range(20)]
    for slot in held:
        slot.refuse(10)
        slot.release()
    start = anyio.current_time()
    began = await begun_within(limiter, 11, Kind.AWAITED)
    assert 9 <= len(began) <= 12
    assert min(began) >= start + 10
    gaps = [after - before for before, after in itertools.pairwise(began)]
    assert min(gaps) > 0.05


@on_each_loop
async def test_one_more_is_let_in_after_each_round_without_a_refusal() -> None:
    """Additive increase."""
    limiter = limiter_of(100)
    held = [await limiter.acquire(Kind.AWAITED) for _ in range(4)]
    for slot in held:
        slot.refuse(0)
        slot.release()
    began = await begun_within(limiter, 6, Kind.AWAITED)
    first = began[0]
    rounds = [sum(first + n <= it < first + n + 1 for it in began) for n in range(5)]
    assert rounds[0] in (2, 3)
    assert rounds[-1] > rounds[0] + 2


@on_each_loop
async def test_a_refusal_counts_only_at_the_reduced_rate() -> None:
    """A burst is nobody's fault; one that comes alone, or slowly, is refused itself."""
    limiter = limiter_of(100)
    alone = await refuse(limiter, Kind.CREATE, 0)
    assert not alone.is_excused
    limiter = limiter_of(100)
    held = [await limiter.acquire(Kind.AWAITED) for _ in range(4)]
    for slot in held:
        slot.refuse(1)
        slot.release()
    assert [slot.is_excused for slot in held] == [True] * 4
    assert not (await refuse(limiter, Kind.AWAITED, 1)).is_excused


@on_each_loop
async def test_what_has_a_limit_of_its_own_is_not_held_back() -> None:
    """The vendor's log, and the hosts of files; nor do these hold back others."""
    limiter = limiter_of(4)
    await refuse(limiter, Kind.CREATE, 100)
    start = anyio.current_time()
    for kind in (Kind.LOG, Kind.DOWNLOAD):
        await refuse(limiter, kind, 1000)
    assert anyio.current_time() == start
    (await limiter.acquire(Kind.CREATE)).release()
    assert anyio.current_time() == pytest.approx(start + 100)


@on_each_loop
async def test_a_pause_that_grows_while_it_lasts_holds_to_its_end() -> None:
    """And the first after it begins at once."""
    limiter = limiter_of(4)
    start = anyio.current_time()
    limiter.pause(10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limiter.acquire, Kind.POLL)
        await anyio.sleep(5)
        limiter.pause(50)
    assert anyio.current_time() == pytest.approx(start + 55)


@on_each_loop
async def test_after_a_quiet_minute_the_rate_is_whole_again() -> None:
    """A refusal of an hour ago slows nobody down."""
    limiter = limiter_of(100)
    await refuse(limiter, Kind.AWAITED, 1)
    await anyio.sleep(3600)
    assert len(await begun_within(limiter, 0.01, Kind.AWAITED)) == 100


@on_each_loop
async def test_polls_are_not_spread_where_nothing_was_out() -> None:
    """All that came due are made at once."""
    limiter = limiter_of(1)
    start = anyio.current_time()
    held = [await limiter.acquire(Kind.POLL)]
    held[0].accept()
    await order_of(limiter, [Kind.POLL] * 20, held)
    assert anyio.current_time() == start


@on_each_loop
async def test_polls_that_came_due_in_an_outage_are_spread() -> None:
    """What a person awaits is not held up by it."""
    limiter = limiter_of(10)
    with await limiter.acquire(Kind.POLL) as slot:
        slot.miss()
    held = [await limiter.acquire(Kind.POLL) for _ in range(10)]
    began: list[float] = []

    async def one() -> None:
        with await limiter.acquire(Kind.POLL) as slot:
            began.append(anyio.current_time())
            slot.accept()

    async with anyio.create_task_group() as tasks:
        for _ in range(900):
            tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        for slot in held:
            slot.accept()
            slot.release()
        with await limiter.acquire(Kind.AWAITED, anyio.current_time() + 0.1):
            pass
    busiest = max(sum(at <= it < at + 1 for it in began) for at in began)
    assert busiest < 50


@on_each_loop
async def test_a_slot_that_comes_back_after_closing_goes_to_nobody_who_leaves() -> None:
    """Its connection is there to be closed, however many polls have waited."""
    limiter, line = limiter_of(1), object()
    slot = await limiter.acquire(Kind.AWAITED)
    slot.connection = line
    waiters = [limiter.enqueue(Kind.POLL, lambda _: None) for _ in range(5_000)]
    limiter.close()
    slot.release()
    assert limiter.take_connections() == [line]
    assert not any(waiter.slot for waiter in waiters)


@on_each_loop
async def test_a_slot_takes_a_connection_once_it_is_used() -> None:
    """One that was given out and is not used yet keeps none from being closed."""
    limiter, line = limiter_of(1), object()
    with await limiter.acquire(Kind.AWAITED) as slot:
        slot.connection = line
    with await limiter.acquire(Kind.CREATE) as slot:
        assert slot.claim_connection() is line
    granted = await limiter.acquire(Kind.CREATE)
    limiter.close()
    assert limiter.take_connections() == [line]
    granted.release()
    assert not limiter.take_connections()


@on_each_loop
async def test_closing_is_heard_by_all_who_wait_at_once() -> None:
    """In the queue, and in a pause of an hour."""
    limiter, heard = limiter_of(1), list[float]()
    await limiter.acquire(Kind.POLL)
    limiter.pause(3600)

    async def one(kind: Kind) -> None:
        with pytest.raises(ClientClosedError):
            await limiter.acquire(kind)
        heard.append(anyio.current_time())

    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for kind in Kind:
            tasks.start_soon(one, kind)
        await anyio.sleep(2)
        limiter.close()
    assert heard == [pytest.approx(start + 2)] * len(Kind)
    with pytest.raises(ClientClosedError):
        await limiter.acquire(Kind.CREATE)


@pytest.mark.looptime
@pytest.mark.parametrize("steps", range(6))
async def test_no_slot_is_lost_by_whoever_is_cancelled(steps: int) -> None:
    """Before its first step, in the queue, and just as it is let in."""
    limiter = limiter_of(1)
    first = await limiter.acquire(Kind.AWAITED)

    async def one() -> None:
        with await limiter.acquire(Kind.AWAITED):
            await asyncio.sleep(1)

    torn = [asyncio.create_task(one()) for _ in range(5)]
    actions: list[Callable[[], object]] = [first.release, *(it.cancel for it in torn)]
    for number, act in enumerate(actions):
        if number == 1:
            for _ in range(steps):
                await asyncio.sleep(0)
        act()
    await asyncio.wait(torn)
    async with asyncio.timeout(1):
        (await limiter.acquire(Kind.AWAITED)).release()
