"""The client's own tasks: work that outlives its caller, never the client.

An exchange is not torn when its caller is cancelled. The caller leaves at once,
the exchange ends here: a cancelled request can leave httpcore's pool unusable
(encode/httpcore issue 1093), and a create's answer holds a paid id.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Generic, Protocol, TypeVar

import anyio
from attrs import define, field

from kling_async._errors import ClientClosedError

T = TypeVar("T")

CLOSED = "the client is closed; make a new AsyncKling"

# asyncio may end a sleep early, by its clock's resolution: what is nearer is now.
CLOCK_TICK = 1e-6


def running_loop() -> object:
    """Give the event loop that runs: asyncio's, else trio's token."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio.lowlevel  # noqa: PLC0415 (only there when trio is what runs)

        return trio.lowlevel.current_trio_token()


def _spawn(
    work: Callable[[], Coroutine[object, object, None]],
    at_end: Callable[[object], None],
) -> object:
    """Start a task of the loop itself; the result keeps it from collection."""
    loop = running_loop()
    if isinstance(loop, asyncio.AbstractEventLoop):
        task = loop.create_task(work())
        # asyncio never begins a task that is cancelled before its first step.
        task.add_done_callback(at_end)
        return task
    import trio.lowlevel  # noqa: PLC0415 (only there when trio is what runs)

    context = contextvars.copy_context()
    return trio.lowlevel.spawn_system_task(work, context=context)


def at_loop_end(work: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Have the running loop do a piece of work when it ends.

    It is done earlier when the generator returned is closed or collected. An
    event loop, asyncio's and trio's, closes the generators that began in it.
    """

    async def waiting() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await work()

    generator = waiting()
    with contextlib.suppress(StopIteration):
        generator.__anext__().send(None)  # begins, up to the yield
    return generator


@define(eq=False)
class Job(Generic[T]):
    """One piece of work in a scope, and what became of it.

    There is one for each poll, so it is made of few objects: what thousands of them
    leave to the garbage collector is most of what it costs.
    """

    _work: Callable[[], Awaitable[T]]
    is_essential: bool
    _scope: Scope
    _at_end: Callable[[], None] | None
    _cancelled: anyio.CancelScope = field(factory=anyio.CancelScope)
    _done: anyio.Event = field(factory=anyio.Event)
    _results: list[T] = field(factory=list[T])
    _error: Exception | None = None
    task: object = None

    async def run(self) -> None:
        """Do the work; its error is kept for whoever waits, not raised."""
        try:
            with self._cancelled:
                self._results.append(await self._work())
        except Exception as error:  # noqa: BLE001 (handed to the one who waits)
            self._error = error
        finally:
            self.end()

    def end(self, _: object = None) -> None:
        """Let those who wait see what became of it."""
        if self._scope.forget(self):
            self._done.set()
            if self._at_end is not None:
                self._at_end()

    def cancel(self) -> None:
        """Ask the work to stop; `finished` tells when it has."""
        self._cancelled.cancel()

    async def finished(self) -> None:
        """Wait for the end of the work, however it ends."""
        await self._done.wait()

    async def result(self) -> T:
        """Wait for what the work returns or raises.

        A caller that is cancelled here leaves; the work goes on.

        Raises:
            ClientClosedError: The scope was closed before the work ended.
        """
        await self._done.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the traceback holds this frame: leave no cycle
        if not self._results:
            raise ClientClosedError(CLOSED)
        return self._results[0]


class _Ending(Protocol):
    """What a scope needs of a job, whatever it brings."""

    @property
    def is_essential(self) -> bool: ...

    def cancel(self) -> None: ...

    async def finished(self) -> None: ...


@define(eq=False)
class Turns:
    """So many at a time, and the others in the order in which they came.

    Attributes:
        free: How many may begin.
    """

    free: int = 1000
    _queue: deque[Callable[[], bool]] = field(factory=deque[Callable[[], bool]])

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
class Scope:
    """The tasks of one client in one event loop.

    Attributes:
        naps: Sleeps of callers in their own tasks, for closing to cut short.
        turns: Who may poll. One that waits here costs a hundredth of a task that
            waits for a connection.
        is_closed: Whether nothing starts here any more.
    """

    naps: set[anyio.CancelScope] = field(factory=set[anyio.CancelScope], init=False)
    turns: Turns = field(factory=Turns, init=False)
    _jobs: set[_Ending] = field(factory=set["_Ending"])
    is_closed: bool = False

    def start(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        is_essential: bool = False,
        at_end: Callable[[], None] | None = None,
    ) -> Job[T]:
        """Start work that is nobody's child but the client's.

        Args:
            work: What to do.
            is_essential: Closing waits for it instead of cancelling it.
            at_end: Called once when it has ended, however it did.

        Raises:
            ClientClosedError: The scope is closed.
        """
        if self.is_closed:
            raise ClientClosedError(CLOSED)
        job = Job(work, is_essential, self, at_end)
        self._jobs.add(job)
        job.task = _spawn(job.run, job.end)
        return job

    def forget(self, job: _Ending) -> bool:
        """Take a job off the list of those under way; tell whether it was on it."""
        is_first = job in self._jobs
        self._jobs.discard(job)
        return is_first

    async def aclose(self, patience: float) -> None:
        """End all work: what is essential gets ``patience`` seconds first.

        `asyncio.Task.cancel`, which no shield keeps off, ends the patience.
        """
        self.is_closed = True
        for nap in list(self.naps):
            nap.cancel()
        with anyio.CancelScope(shield=True):
            for job in list(self._jobs):
                if not job.is_essential:
                    job.cancel()
            try:
                with anyio.move_on_after(patience):
                    await self._drain()
            finally:
                for job in list(self._jobs):
                    job.cancel()
                await self._drain()

    async def _drain(self) -> None:
        for job in list(self._jobs):
            await job.finished()
