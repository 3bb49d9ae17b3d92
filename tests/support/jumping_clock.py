"""Both event loops with a clock that jumps: hours pass in no time."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping

import anyio
import looptime
import pytest
import trio.lowlevel
import trio.testing

from kling_async._runtime.loop import running_loop

GUARD = 1e6  # of jumping time: a deadlock fails at once


def clock_that_jumps(backend: str) -> Mapping[str, object]:
    """Let a loop's time run ahead whenever nothing else is left to do."""
    if backend == "trio":
        return {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return {"loop_factory": looptime.new_event_loop}


def run_on(
    backend: str, test: Callable[..., Awaitable[None]], **fixtures: object
) -> None:
    """Run an async test on one of the loops, without waiting for any clock."""

    async def guarded() -> None:
        with anyio.fail_after(GUARD):
            await test(**fixtures)

    options = dict(clock_that_jumps(backend))
    anyio.run(guarded, backend=backend, backend_options=options)


def on_each_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make of an async test one for asyncio and one for trio; it may use fixtures."""

    def run(backend: str, **fixtures: object) -> None:
        run_on(backend, test, **fixtures)

    functools.update_wrapper(run, test)
    own = inspect.signature(test).parameters.values()
    backend = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY)
    setattr(run, "__signature__", inspect.Signature([*own, backend]))  # noqa: B010 (what pytest reads)
    marked: Callable[..., None] = pytest.mark.parametrize(
        "backend", ["asyncio", "trio"]
    )(run)
    return marked


async def living_tasks() -> int:
    """Count the tasks of the running loop.

    On trio a timer is a task, which ends a step after it is called off, and who makes
    this step first is drawn by lot: those that can go on do so before.
    """
    if isinstance(running_loop(), asyncio.AbstractEventLoop):
        return len(asyncio.all_tasks())
    await trio.testing.wait_all_tasks_blocked()
    return trio.lowlevel.current_statistics().tasks_living
