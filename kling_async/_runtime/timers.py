"""When the time of each poll loop comes, and whose turn it is then.

A cancel scope and a timer for each that waits would be most of what thousands of them
cost. Here one task waits for all of a client, and only while there is one to wait for.
"""

from __future__ import annotations

import contextvars
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Protocol

import anyio
from attrs import define, field

from kling_async._runtime.tasks import CLOCK_TICK, Job, Scope

# So many times that no longer hold are left where they are.
_FEW = 64


class Sleeper(Protocol):
    """One who waits for a time.

    Attributes:
        rings_at: For which, on the event loop's clock; `math.inf` for none.
    """

    rings_at: float

    def ring(self) -> None:
        """Hear that it has come."""
        ...

    def wake(self) -> None:
        """Hear that nobody looks at the clock any more."""
        ...


@define(eq=False)
class Alarm:
    """Rings for all who wait in one scope.

    Its task belongs to nobody's context: what it starts has to bring its own.
    """

    _scope: Scope
    _sleepers: set[Sleeper] = field(factory=set[Sleeper], init=False)
    _times: list[tuple[float, int, Sleeper]] = field(
        factory=list[tuple[float, int, Sleeper]], init=False
    )
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)
    _task: Job[None] | None = field(default=None, init=False)
    _next: float = field(default=math.inf, init=False)
    _sooner: anyio.Event = field(factory=anyio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._scope.at_close.append(self._wake_all)

    def set(self, sleeper: Sleeper, when: float) -> None:
        """Ring for one at a time, and no more at the one that was set before.

        Args:
            sleeper: For whom.
            when: On the event loop's clock; `math.inf` for one who waits for the end
                of the scope alone.
        """
        self._sleepers.add(sleeper)
        if when == sleeper.rings_at:
            return
        sleeper.rings_at = when
        if when < math.inf:
            heappush(self._times, (when, next(self._numbers), sleeper))
        self._look_again()

    def forget(self, sleeper: Sleeper) -> None:
        """Ring no more for one."""
        sleeper.rings_at = math.inf
        self._sleepers.discard(sleeper)
        self._look_again()

    def _look_again(self) -> None:
        """See to it that there is a task, if there is need of one."""
        if len(self._times) > 2 * len(self._sleepers) + _FEW or not self._sleepers:
            self._times = [it for it in self._times if _holds(it)]
            heapify(self._times)
        if self._task is None:
            if self._times and not self._scope.is_closed:
                context = contextvars.Context()
                self._task = self._scope.start(
                    self._run, at_end=self._ended, context=context
                )
        elif not self._times or self._times[0][0] < self._next:
            self._sooner.set()

    async def _run(self) -> None:
        while self._times:
            self._sooner = anyio.Event()
            self._next = self._times[0][0]
            with anyio.CancelScope(deadline=self._next):
                await self._sooner.wait()
            self._ring()

    def _ring(self) -> None:
        now = anyio.current_time() + CLOCK_TICK
        while self._times and (self._times[0][0] <= now or not _holds(self._times[0])):
            first = heappop(self._times)
            if _holds(first):
                sleeper = first[2]
                sleeper.rings_at = math.inf
                sleeper.ring()

    def _ended(self) -> None:
        self._task = None
        if self._times:  # killed, from outside or by a bug: they see for themselves
            self._wake_all()

    def _wake_all(self) -> None:
        self._times.clear()
        for sleeper in list(self._sleepers):
            sleeper.rings_at = math.inf
            sleeper.wake()


def _holds(time: tuple[float, int, Sleeper]) -> bool:
    """Whether the sleeper still waits for this time."""
    when, _, sleeper = time
    return sleeper.rings_at == when


@define(eq=False)
class Turns:
    """So many at a time, and the others in the order in which they came.

    Attributes:
        free: How many may begin.
    """

    free: int
    _queue: deque[Callable[[], bool]] = field(
        factory=deque[Callable[[], bool]], init=False
    )

    def take(self, begin: Callable[[], bool]) -> None:
        """Begin when there is a place; ``begin`` tells whether it took it."""
        self._queue.append(begin)
        self._serve()

    def give_back(self) -> None:
        """Let the next one begin."""
        self.free += 1
        self._serve()

    def _serve(self) -> None:
        while self.free and self._queue:
            if self._queue.popleft()():
                self.free -= 1


@define(eq=False)
class Timetable:
    """When all poll loops of a client in one event loop run.

    Attributes:
        scope: Where they run.
        turns: Which of those whose time has come may poll. One that waits here costs
            a hundredth of a task that waits for a connection: it is a list's entry.
        alarm: For what time the others wait.
    """

    scope: Scope
    turns: Turns
    alarm: Alarm = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.alarm = Alarm(self.scope)
