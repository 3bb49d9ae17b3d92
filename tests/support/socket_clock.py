"""An asyncio loop whose clock jumps although real sockets and threads are at work.

It jumps only when nothing is on its way: no thread works for the loop, and no socket
has had anything to say since the last look. `jumping_clock` is for what is in process.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
from collections.abc import Awaitable, Callable

import anyio
from anyio import to_thread
from attrs import define

# What one end of a loopback connection wrote is at the other at once; on a machine
# that is busy with all else, in this time (seconds).
_GRACE = 0.001
_PATIENCE = 0.05  # for a thread, before it is asked again whether it still works


@define(eq=False)
class _Clock:
    """Waits for sockets and threads in real time, for timers not at all.

    Attributes:
        select: Looks at the sockets, for so many seconds at most.
        limiter: Tells how many threads work; None until the loop runs.
        now: The time, in seconds.
    """

    select: Callable[[float | None], list[tuple[selectors.SelectorKey, int]]]
    limiter: anyio.CapacityLimiter | None = None
    now: float = 0.0
    _is_quiet: bool = False

    def wait(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Give what is ready; with nothing on its way, skip the time."""
        ready = self.select(0)
        while not ready and (timeout is None or (timeout > 0 and self._are_at_work())):
            ready = self.select(_PATIENCE)
        if not ready and timeout and not self._is_quiet:
            ready = self.select(_GRACE)
            self._is_quiet = True
        if ready:
            self._is_quiet = False
        else:
            self.now += timeout or 0
        return ready

    def _are_at_work(self) -> bool:
        return self.limiter is not None and self.limiter.borrowed_tokens > 0


class SocketClockLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        self.clock = _Clock(selector.select)
        selector.select = self.clock.wait  # type: ignore[method-assign] # the way in
        super().__init__(selector)

    def time(self) -> float:
        """Give the time, in seconds."""
        return self.clock.now


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run an async test on such a loop."""

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SocketClockLoop)
        loop.clock.limiter = to_thread.current_default_thread_limiter()
        await test()

    anyio.run(watched, backend_options={"loop_factory": SocketClockLoop})


def without_waiting(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make of an async test, which may use fixtures, one that runs on such a loop."""

    def run_test(**fixtures: object) -> None:
        run(functools.partial(test, **fixtures))

    functools.update_wrapper(run_test, test)
    setattr(run_test, "__signature__", inspect.signature(test))  # noqa: B010 (what pytest reads)
    return run_test
