"""The client's own tasks: work that outlives its caller, never the client.

An exchange is not torn when its caller is cancelled. The caller leaves at once,
the exchange ends here: a cancelled request can leave httpcore's pool unusable
(encode/httpcore issue 1093), and a create's answer holds a paid id.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Generic, Protocol, TypeVar, cast

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
    context: contextvars.Context | None,
) -> object:
    """Start a task of the loop itself; the result keeps it from collection."""
    loop = running_loop()
    if context is None:  # an empty one is as false as none
        context = contextvars.copy_context()
    if isinstance(loop, asyncio.AbstractEventLoop):
        task = loop.create_task(work(), context=context)
        # asyncio never begins a task that is cancelled before its first step.
        task.add_done_callback(at_end, context=context)
        return task
    import trio.lowlevel  # noqa: PLC0415 (only there when trio is what runs)

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
    _done: anyio.Event | None = None
    _is_whole: bool = False
    _result: T | None = None
    _error: Exception | None = None
    task: object = None

    async def run(self) -> None:
        """Do the work; its error is kept for whoever waits, not raised."""
        try:
            with self._cancelled:
                self._result = await self._work()
                self._is_whole = True
        except Exception as error:  # noqa: BLE001 (handed to the one who waits)
            self._error = error
        finally:
            self.end()

    def end(self, _: object = None) -> None:
        """Let those who wait see what became of it."""
        if self._scope.forget(self):
            if self._done is not None:
                self._done.set()
            if self._at_end is not None:
                self._at_end()

    def cancel(self) -> None:
        """Ask the work to stop; `finished` tells when it has."""
        self._cancelled.cancel()

    def finished(self) -> Awaitable[None]:
        """Wait for the end of the work, however it ends."""
        if self._done is None:
            self._done = anyio.Event()
            if not self._scope.has(self):
                self._done.set()
        return self._done.wait()

    async def result(self) -> T:
        """Wait for what the work returns or raises.

        A caller that is cancelled here leaves; the work goes on.

        Raises:
            ClientClosedError: The scope was closed before the work ended.
        """
        await self.finished()
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the traceback holds this frame: leave no cycle
        if not self._is_whole:
            raise ClientClosedError(CLOSED)
        return cast("T", self._result)


class _Ending(Protocol):
    """What a scope needs of a job, whatever it brings."""

    @property
    def is_essential(self) -> bool: ...

    def cancel(self) -> None: ...

    def finished(self) -> Awaitable[None]: ...


@define(eq=False)
class Scope:
    """The tasks of one client in one event loop.

    Attributes:
        is_closed: Whether nothing starts here any more.
        at_close: Called when it closes, so that those who wait in tasks of their own
            hear of it.
    """

    at_close: list[Callable[[], None]] = field(
        factory=list[Callable[[], None]], init=False
    )
    _jobs: set[_Ending] = field(factory=set["_Ending"])
    is_closed: bool = False

    def start(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        is_essential: bool = False,
        at_end: Callable[[], None] | None = None,
        context: contextvars.Context | None = None,
    ) -> Job[T]:
        """Start work that is nobody's child but the client's.

        Args:
            work: What to do.
            is_essential: Closing waits for it instead of cancelling it.
            at_end: Called once when it has ended, however it did.
            context: What it sees of context variables, its alone; by default a copy
                of what the caller sees.

        Raises:
            ClientClosedError: The scope is closed.
        """
        if self.is_closed:
            raise ClientClosedError(CLOSED)
        job = Job(work, is_essential, self, at_end)
        self._jobs.add(job)
        job.task = _spawn(job.run, job.end, context)
        return job

    def has(self, job: _Ending) -> bool:
        """Whether a job is under way."""
        return job in self._jobs

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
        for tell in self.at_close:
            tell()
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
