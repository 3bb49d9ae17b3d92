"""A call that is cut short at the n-th suspension, its caller's or its client's own.

Counts what `await` hands to the event loop, asyncio's or trio's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import Generic, TypeVar

import pytest
from attrs import define, field

from kling_async._runtime import tasks as _scope

T = TypeVar("T")


@define(eq=False)
class Strike:
    """Something that happens at the n-th suspension of all the work it counts.

    Attributes:
        nth: At which, from 1.
        blow: What happens; it is given what is waited for.
        passed: How many there have been.
    """

    nth: int
    blow: Callable[[object], object] = lambda _: None
    passed: int = field(default=0, init=False)

    @property
    def is_missed(self) -> bool:
        """Whether the work ended before it could happen."""
        return self.passed < self.nth

    def suspended(self, waiting: object) -> None:
        """Count one; at the n-th, strike."""
        self.passed += 1
        if self.passed == self.nth:
            self.blow(waiting)


@define(eq=False)
class Counted(Generic[T]):
    """Awaits something, and tells of each of its suspensions."""

    work: Awaitable[T]
    suspended: Callable[[object], None]

    def __await__(self) -> Generator[object, object, T]:
        steps = self.work.__await__()
        resume: Callable[[], object] = steps.__next__
        while True:
            try:
                waiting = resume()
            except StopIteration as stop:
                result: T = stop.value
                return result
            self.suspended(waiting)
            try:
                resume = partial(steps.send, (yield waiting))
            except BaseException as error:  # noqa: BLE001 (thrown on where it belongs)
                resume = partial(steps.throw, error)


@contextmanager
def counting_the_clients_own(strike: Strike, wanted: bool) -> Generator[None]:
    """Let the suspensions of a client's own tasks count too, where wanted."""
    spawn = _scope._spawn  # pyright: ignore[reportPrivateUsage]

    def spawn_counted(
        work: Callable[[], Coroutine[object, object, None]],
        at_end: Callable[[object], None],
        context: Context | None,
    ) -> object:
        async def run() -> None:
            await Counted(work(), strike.suspended)

        return spawn(run, at_end, context)

    with pytest.MonkeyPatch.context() as patch:
        if wanted:
            patch.setattr(_scope, "_spawn", spawn_counted)
        yield
