"""Work that outlives its caller and never the client, on both event loops."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import math
from typing import NoReturn

import anyio
import anyio.lowlevel
import pytest
from jumping_clock import clock_that_jumps, living_tasks, on_each_loop

from kling_async import ClientClosedError, ConnectionFailedError, DecodeError
from kling_async._runtime.loop import running_loop
from kling_async._runtime.tasks import ClientTasks, at_loop_end


async def one() -> int:
    """Be work with a result."""
    await anyio.lowlevel.checkpoint()
    return 1


async def forever() -> NoReturn:
    """Be work that only a cancellation ends."""
    await anyio.sleep_forever()
    raise AssertionError


@on_each_loop
async def test_work_brings_its_result_to_everyone_who_asks() -> None:
    """A job may be waited for twice, also after its end."""
    scope = ClientTasks()
    job = scope.start(one)
    assert await job.result() == 1
    assert await job.result() == 1
    await scope.aclose(0)


@on_each_loop
async def test_a_result_of_none_is_a_result() -> None:
    """What returns nothing has ended well, and is not taken for cut off."""
    scope = ClientTasks()
    assert await scope.start(anyio.lowlevel.checkpoint).result() is None  # type: ignore[func-returns-value]  # the rule itself
    await scope.aclose(0)


@on_each_loop
async def test_a_cancelled_caller_leaves_at_once_and_the_work_goes_on() -> None:
    """The exchange is not torn: it ends in the scope, and its result is there."""
    scope, may_end = ClientTasks(), anyio.Event()

    async def work() -> str:
        with anyio.move_on_after(60):
            await may_end.wait()
        return "paid id"

    job = scope.start(work)
    started = anyio.current_time()
    with anyio.CancelScope() as caller:
        caller.cancel()
        await job.result()
    assert caller.cancelled_caught
    assert anyio.current_time() == started
    may_end.set()
    assert await job.result() == "paid id"
    await scope.aclose(0)


async def test_a_task_cancelled_by_asyncio_leaves_at_once_and_the_work_goes_on() -> (
    None
):
    """`Task.cancel`, as web servers use it, tears the work as little."""
    scope, may_end = ClientTasks(), asyncio.Event()

    async def work() -> str:
        await may_end.wait()
        return "paid id"

    job = scope.start(work)
    caller = asyncio.create_task(job.result())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller], timeout=300)
    assert caller.cancelled()
    may_end.set()
    assert await job.result() == "paid id"
    await scope.aclose(0)


@on_each_loop
async def test_an_error_reaches_the_caller_with_its_cause() -> None:
    """The very exception, with what caused it, to each who asks."""
    scope = ClientTasks()
    cause = OSError("reset by peer")

    async def work() -> NoReturn:
        raise ConnectionFailedError("reset", request_sent=True) from cause

    job = scope.start(work)
    for _ in range(2):
        with pytest.raises(ConnectionFailedError, match="reset") as caught:
            await job.result()
        assert caught.value.__cause__ is cause
    await scope.aclose(0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_error_that_nobody_waits_for_is_silent(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No "exception was never retrieved", no crash of the loop."""

    async def work() -> NoReturn:
        await anyio.lowlevel.checkpoint()
        raise DecodeError("not JSON", status_code=200)

    async def scenario() -> None:
        scope = ClientTasks()
        await scope.start(work).wait()
        gc.collect()
        await scope.aclose(0)

    with caplog.at_level(logging.DEBUG):
        anyio.run(
            scenario, backend=backend, backend_options=dict(clock_that_jumps(backend))
        )
        gc.collect()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@on_each_loop
async def test_work_that_nobody_holds_is_not_collected() -> None:
    """An event loop holds its tasks weakly; the scope holds them firmly."""
    scope, may_end, ended = ClientTasks(), anyio.Event(), anyio.Event()

    async def work() -> None:
        await may_end.wait()
        ended.set()

    scope.start(work)
    await anyio.lowlevel.checkpoint()
    gc.collect()
    may_end.set()
    await ended.wait()
    await scope.aclose(0)


@on_each_loop
async def test_work_sees_the_context_of_the_one_who_started_it() -> None:
    """A request id or a trace span in a context variable reaches the work's logs."""
    span = contextvars.ContextVar("span", default="none")
    scope = ClientTasks()

    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        return span.get()

    span.set("mine")
    job = scope.start(work)
    span.set("later")
    assert await job.result() == "mine"
    await scope.aclose(0)


@on_each_loop
async def test_closing_cuts_off_what_is_not_essential_at_once() -> None:
    """A poll is not waited for, however patient the close is."""
    scope = ClientTasks()
    begun = scope.start(forever)
    await anyio.lowlevel.checkpoint()
    not_begun = scope.start(forever)
    started = anyio.current_time()
    await scope.aclose(math.inf)
    assert anyio.current_time() == started
    for job in (begun, not_begun):
        with pytest.raises(ClientClosedError, match="closed"):
            await job.result()


@on_each_loop
async def test_closing_waits_for_what_is_essential() -> None:
    """A create in flight brings its paid id home before the client is gone."""
    scope = ClientTasks()

    async def work() -> str:
        await anyio.sleep(5)
        return "paid id"

    job = scope.start(work, wait_on_close=True)
    started = anyio.current_time()
    await scope.aclose(60)
    assert anyio.current_time() - started == pytest.approx(5)
    assert await job.result() == "paid id"


@on_each_loop
async def test_closing_loses_patience_with_what_does_not_end() -> None:
    """After ``patience`` seconds the essential is cut off too."""
    scope = ClientTasks()
    job = scope.start(forever, wait_on_close=True)
    started = anyio.current_time()
    await scope.aclose(7)
    assert anyio.current_time() - started == pytest.approx(7)
    with pytest.raises(ClientClosedError):
        await job.result()


@on_each_loop
async def test_a_waiter_learns_that_its_work_was_cut_off() -> None:
    """Who waits while the client is closed gets an error, not an endless wait."""
    scope, errors = ClientTasks(), list[ClientClosedError]()

    async def wait() -> None:
        try:
            await job.result()
        except ClientClosedError as error:
            errors.append(error)

    job = scope.start(forever)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await scope.aclose(0)
    assert len(errors) == 1


@on_each_loop
async def test_a_cancelled_close_is_still_a_whole_one() -> None:
    """Ctrl-C during the close does not lose the create that it waits for."""
    scope, before = ClientTasks(), await living_tasks()

    async def work() -> str:
        await anyio.sleep(5)
        return "paid id"

    essential = scope.start(work, wait_on_close=True)
    other = scope.start(forever)
    with anyio.CancelScope() as caller:
        caller.cancel()
        await scope.aclose(60)
    assert await living_tasks() == before
    assert await essential.result() == "paid id"
    with pytest.raises(ClientClosedError):
        await other.result()


@pytest.mark.looptime
async def test_a_close_that_asyncio_cancels_is_impatient_and_still_whole() -> None:
    """`Task.cancel` and `asyncio.wait_for` cut the essential off; no task is left."""
    scope, before = ClientTasks(), await living_tasks()
    essential = scope.start(forever, wait_on_close=True)
    closing = asyncio.create_task(scope.aclose(math.inf))
    await asyncio.sleep(1)
    assert not closing.done()
    closing.cancel()
    await asyncio.wait([closing], timeout=300)
    assert closing.cancelled()
    assert await living_tasks() == before
    with pytest.raises(ClientClosedError):
        await essential.result()


@on_each_loop
async def test_the_end_of_work_is_told_once_however_it_came() -> None:
    """Done, failed, cancelled or cut off by the close; after those who wait know."""
    scope, told = ClientTasks(), list[str]()

    async def fail() -> NoReturn:
        raise ZeroDivisionError

    await scope.start(one, at_end=lambda: told.append("done")).wait()
    await scope.start(fail, at_end=lambda: told.append("failed")).wait()
    job = scope.start(forever, at_end=lambda: told.append("cancelled"))
    job.cancel()
    await job.wait()
    scope.start(forever, at_end=lambda: told.append("closed"))
    await scope.aclose(0)
    assert told == ["done", "failed", "cancelled", "closed"]


@on_each_loop
async def test_nothing_starts_in_a_closed_scope() -> None:
    """`start` refuses, says what to do, and leaves no task behind."""
    scope = ClientTasks()
    await scope.aclose(0)
    assert scope.is_closed
    before = await living_tasks()
    with pytest.raises(ClientClosedError, match="make a new AsyncKling"):
        scope.start(one)
    assert await living_tasks() == before


@on_each_loop
async def test_nothing_starts_while_the_scope_closes() -> None:
    """From the call of `aclose` on, not from its return."""
    scope = ClientTasks()

    async def work() -> str:
        await anyio.sleep(5)
        with pytest.raises(ClientClosedError):
            scope.start(one)
        return "refused"

    job = scope.start(work, wait_on_close=True)
    await scope.aclose(60)
    assert await job.result() == "refused"


@on_each_loop
async def test_closing_twice_is_closing_once() -> None:
    """A second close, and one with nothing to end, do nothing."""
    scope = ClientTasks()
    await scope.start(one).result()
    await scope.aclose(0)
    await scope.aclose(0)


@on_each_loop
async def test_no_task_is_left_after_a_close() -> None:
    """Ended, failed, cut off, essential or not yet begun: every task is gone."""
    scope = ClientTasks()
    before = await living_tasks()

    async def fail() -> NoReturn:
        raise DecodeError("not JSON", status_code=200)

    async def slow() -> None:
        await anyio.sleep(3)

    scope.start(one)
    scope.start(fail)
    scope.start(slow, wait_on_close=True)
    scope.start(forever, wait_on_close=True)
    await anyio.wait_all_tasks_blocked()
    scope.start(forever)
    assert await living_tasks() > before
    await scope.aclose(60)
    assert await living_tasks() == before


async def test_work_whose_loop_cancels_it_before_it_began_has_ended() -> None:
    """`asyncio.run` cancels all tasks in the end: whoever waits is not left waiting."""
    scope = ClientTasks()
    job = scope.start(one)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    with anyio.fail_after(300), pytest.raises(ClientClosedError):
        await job.result()


@on_each_loop
async def test_a_loop_is_known_by_itself() -> None:
    """The same object each time while one loop runs, for sessions to be kept by."""
    assert running_loop() is running_loop()
    hash(running_loop())


def test_two_loops_are_two() -> None:
    """What was opened in one loop is not found from another."""

    async def current() -> object:
        return running_loop()

    loops = [anyio.run(current, backend=name) for name in ("asyncio", "trio") * 2]
    assert len(set(map(id, loops))) == 4


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_work_is_done_at_the_end_of_a_loop(backend: str) -> None:
    """Whoever forgot to close leaves nothing open; the work may await."""
    done = list[str]()
    kept = list[object]()

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        done.append("closed")

    async def main() -> None:
        kept.append(at_loop_end(work))
        await anyio.lowlevel.checkpoint()
        assert done == []

    anyio.run(main, backend=backend)
    assert done == ["closed"]


@on_each_loop
async def test_work_for_the_end_of_a_loop_is_done_once_when_closed_early() -> None:
    """Closing does it at once, and twice is once."""
    done = list[str]()

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        done.append("closed")

    ending = at_loop_end(work)
    for _ in range(2):
        await ending.aclose()
        assert done == ["closed"]


async def test_work_for_the_end_of_a_loop_is_done_when_nobody_wants_it_any_more() -> (
    None
):
    """A client that is dropped without a close still closes its sockets."""
    done = asyncio.Event()

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        done.set()

    at_loop_end(work)
    gc.collect()
    await asyncio.wait_for(done.wait(), 300)
