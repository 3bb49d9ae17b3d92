"""The only code that depends on the event loop: asyncio directly, others by anyio.

Only here the hot path is written twice: with asyncio's own futures and timers, and
with anyio. The limiter, the watches and an exchange need only a timer, a wakeup and a
time limit of a loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self, TypeAlias, cast

import anyio
from attrs import define, field

# asyncio may end a sleep early by its clock's resolution, so nearer times count as now.
CLOCK_TICK = 1e-6


def new_event() -> anyio.Event:
    """Make an event, or a lock below; not by anyio's class as a factory.

    anyio loads each class when it is first named: that would be at our import.
    """
    return anyio.Event()


def new_lock() -> anyio.Lock:
    return anyio.Lock()


def wake(wakeup: Wakeup) -> None:
    """Wake whoever awaits it; a second time does nothing."""
    if not wakeup.done():
        wakeup.set_result(None)


def running_loop() -> object:
    """Return the running event loop: asyncio's, else trio's token."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")  # what runs was imported
        if trio is None:
            raise
        return cast("object", trio.lowlevel.current_trio_token())


def loop_here() -> Loop:
    """Return the interface to the running event loop."""
    loop = running_loop()
    return AsyncioLoop(loop) if isinstance(loop, asyncio.AbstractEventLoop) else Trio()


@define(eq=False, repr=False)
class AsyncioLoop:
    """asyncio, directly: futures, timers and `Task.cancel`; `Trio` does the same."""

    _loop: asyncio.AbstractEventLoop
    # One for all timers: each would copy what its maker sees, which none reads.
    _context: contextvars.Context = field(factory=contextvars.Context, init=False)
    _bounds: dict[_AsyncioBound, None] = field(
        factory=dict["_AsyncioBound", None], init=False
    )
    _timer: Timer | None = field(default=None, init=False)
    _timer_at: float = field(default=math.inf, init=False)

    def time(self) -> float:
        """Return the loop's time, in seconds."""
        return self._loop.time()

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Schedule a call."""
        return self._loop.call_at(when, call, context=self._context)

    def wakeup(self) -> Wakeup:
        """Make what one task awaits, once; see `wake`."""
        return self._loop.create_future()

    def bound(self, deadline: float) -> Bound:
        """Make a block of the running task that ends at a time, or when it is cut."""
        return _AsyncioBound(self, self._loop, deadline)

    def enter(self, bound: _AsyncioBound) -> None:
        """Have a block cut when its time is up; one timer serves them all."""
        self._bounds[bound] = None
        self._look_again_at(bound.deadline)

    def leave(self, bound: _AsyncioBound) -> None:
        """Forget a block, and cancel the timer after the last."""
        del self._bounds[bound]
        if self._timer is not None and not self._bounds:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def _look_again_at(self, when: float) -> None:
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self.call_at(when, self._cut_late)

    def _cut_late(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self.time() + CLOCK_TICK
        for bound in list(self._bounds):
            if bound.deadline <= now:
                bound.cut()
            else:
                self._look_again_at(bound.deadline)

    def task(self) -> object:
        """Return the running task."""
        return asyncio.current_task(self._loop)

    def is_running(self) -> bool:
        """Whether it is still running, as far as another loop or thread can know."""
        return self._loop.is_running()


@define(eq=False, repr=False)
class _AsyncioBound:
    """Like `asyncio.timeout`, without its coroutines and its timer."""

    _seam: AsyncioLoop
    _loop: asyncio.AbstractEventLoop
    deadline: float
    is_cut: bool = False
    _task: asyncio.Task[object] | None = None
    _cancelling: int = 0

    def __enter__(self) -> Self:
        self._task = asyncio.current_task(self._loop)
        if self._task is not None:
            self._cancelling = self._task.cancelling()
        self._seam.enter(self)
        return self

    def cut(self) -> None:
        if not self.is_cut and self._task is not None:
            self.is_cut = True
            self._task.cancel()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._seam.leave(self)
        task, self._task = self._task, None
        if not self.is_cut or task is None:
            return False
        others = task.uncancel() > self._cancelling
        return exc_type is asyncio.CancelledError and not others


@define(eq=False, repr=False)
class Trio:
    """trio, through anyio."""

    def time(self) -> float:
        return anyio.current_time()

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        import trio.lowlevel

        scope = anyio.CancelScope()

        async def wait() -> None:
            with scope:
                await anyio.sleep_until(when)
                if not scope.cancel_called:  # since the sleep ended
                    call()

        trio.lowlevel.spawn_system_task(wait)
        return scope

    def wakeup(self) -> Wakeup:
        return _AnyioWakeup()

    def bound(self, deadline: float) -> Bound:
        return _AnyioBound(deadline)

    def task(self) -> object:
        return anyio.get_current_task().id

    def is_running(self) -> bool:
        return False  # nobody but itself can ask


@define(eq=False, repr=False)
class _AnyioWakeup:
    _event: anyio.Event = field(factory=new_event)

    def done(self) -> bool:
        return self._event.is_set()

    def set_result(self, _: None, /) -> None:
        self._event.set()

    def __await__(self) -> Generator[object, None, None]:
        return self._event.wait().__await__()


@define(eq=False, repr=False)
class _AnyioBound:
    _deadline: float
    is_cut: bool = False
    _scope: anyio.CancelScope = field(init=False)

    def __enter__(self) -> Self:
        self._scope = anyio.CancelScope(deadline=self._deadline)
        self._scope.__enter__()
        return self

    def cut(self) -> None:
        self._scope.cancel()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        is_swallowed = bool(self._scope.__exit__(exc_type, exc, traceback))
        self.is_cut = self._scope.cancelled_caught
        return is_swallowed


Loop: TypeAlias = AsyncioLoop | Trio

Bound: TypeAlias = _AsyncioBound | _AnyioBound

Timer: TypeAlias = "asyncio.TimerHandle | anyio.CancelScope"

Wakeup: TypeAlias = "asyncio.Future[None] | _AnyioWakeup"
